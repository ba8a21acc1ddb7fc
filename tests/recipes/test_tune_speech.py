"""`deed tune --recipe` for a tiny Whisper: a pool along labels and own answers, then a few steps, then a model that loads."""

import json

import pytest
import torch
from tasks.tiny_whisper import save_tiny_whisper

import deed
from data.speech.debs import make_deb, prompts
from deed.constants import NEVER_EXIT
from deed.modeling.model import get_deed_model
from deed.recipes.tune import tune_with
from deed.recipes.tune_pool import Pool
from deed.recipes.tune_recipe import TuneRecipe
from deed.recipes.tune_teacher import answer, encoder_in_half
from deed.tasks.answering import answer_rows
from deed.tasks.speech import SpeechTask
from deed.tasks.task import get_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper")
    save_tiny_whisper(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds")
    prompts(path, "en", count=60, seconds=0.5)
    sounds = "usr/share/asterisk/sounds/fr"  # without texts
    make_deb(path, "asterisk-prompt-fr-armelle", {f"{sounds}/p{i}.gsm": b"\xd0" * 3300 for i in range(20)})
    return path


@pytest.fixture
def short(monkeypatch):
    """The tiny decoder reads 24 tokens, of which letters take one each: labels are cut to what it reads."""
    whole = SpeechTask.labels
    monkeypatch.setattr(SpeechTask, "labels", lambda *args: [*whole(*args)[:7], 50257])


def test_labels_alone_or_with_own_answers(folder, data, short):
    task = get_task("speech")
    plain, processor = task.load(folder, plain=True)
    model = get_deed_model(plain, deed.DeedConfig(exit_layers=[1, 3]))
    examples = [one for one in task.examples("train", 12, data) if one.answers][:3]
    rows = [task.encode(processor, task.opened(one)) for one in examples]
    labels = [task.labels(processor, one) for one in examples]
    inputs, options = task.collate(processor, rows), task.generation_options(model, processor)
    both, kind = answer(model, inputs, labels, [1], options)
    alone, same = answer(model, inputs, labels, [1], options, own=False)
    assert kind == same
    wanted = answer_rows(task, model, processor, rows, exit_threshold=NEVER_EXIT).tokens
    for item, only, row, label, tokens in zip(both, alone, rows, labels, wanted, strict=True):
        prompt = row["decoder_input_ids"].tolist()
        assert [one.kind for one in item.sequences] == ["answer", "label"]
        assert [one.kind for one in only.sequences] == ["label"]
        assert item.sequences[0].tokens == prompt + tokens
        assert item.sequences[1].tokens == only.sequences[0].tokens == prompt[:1] + label
        after = item.sequences[0].inputs
        torch.testing.assert_close(item.states[1][after:], only.states[1])
        torch.testing.assert_close(item.teacher.logs[after:], only.teacher.logs)
        # the teacher is the model itself, along the label
        logits = plain(
            input_features=row["input_features"][None], decoder_input_ids=torch.tensor([prompt[:1] + label[:-1]])
        )
        torch.testing.assert_close(logits.logits[0].log_softmax(-1).max(-1).values, only.teacher.logs[:, 0])


def test_an_encoder_in_half(folder):
    model, _ = get_task("speech").load(folder, plain=True)
    encoder, features = model.get_encoder(), torch.randn(1, 8, 3000)
    with torch.no_grad():
        exact = encoder(features)[0]
        with encoder_in_half(model):
            near = encoder(features)[0]
        assert torch.equal(encoder(features)[0], exact)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert (near - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_miniature(folder, data, short, tmp_path):
    recipe = TuneRecipe(
        start=str(folder), task="speech", data=str(data), exits=[1], steps=4, pool=10, own_share=0.5, held_out=4,
        batch_size=4, evaluations=2,
    )  # fmt: skip
    report = tune_with(tmp_path / "run", recipe, cache=tmp_path / "cache")
    assert report["steps"] == 4 and report["pool_examples"] == 10
    pools = {len(pool): pool for pool in (Pool(path.parent) for path in (tmp_path / "cache").glob("*/pool.json"))}
    kinds = [[one.kind for one in entry.sequences] for entry in pools[10].entries]
    assert ["label"] in kinds and ["answer", "label"] in kinds
    assert all(entry.sequences[0].kind == "answer" for entry in pools[4].entries)
    model = deed.from_pretrained(tmp_path / "run" / "model")
    assert model.deed_config.adapter == "layer" and model.deed_config.exit_layers == [1, 3]
    task = get_task("speech")
    _, processor = task.load(folder, plain=True)
    rows = [task.encode(processor, task.opened(one)) for one in task.examples("test", 2, data)]
    plain, _ = task.load(folder, plain=True)
    full = answer_rows(task, model, processor, rows, exit_threshold=NEVER_EXIT)
    assert full.tokens == answer_rows(task, plain, processor, rows).tokens
    assert json.loads((tmp_path / "run" / "report.json").read_text())["recipe"]["own_share"] == 0.5
