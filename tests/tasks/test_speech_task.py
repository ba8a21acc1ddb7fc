"""The task `speech`, with a tiny Whisper and packages of tones: examples, prompts, answers as in Whisper's own generate()."""

import itertools

import pytest
import torch
from tasks.tiny_whisper import save_tiny_whisper, tiny_tokenizer

import deed
from data.speech.debs import make_deb, prompts
from deed.data.speech.packages import PROMPTS
from deed.errors import DataError
from deed.modeling.answering import exit_depths
from deed.tasks.answering import answer_rows, evaluate_task
from deed.tasks.speech import prompt_of
from deed.tasks.task import get_task, task_for, tasks_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper")
    save_tiny_whisper(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds")
    prompts(path, "en", count=80)
    prompts(path, "fr", count=80)
    sounds = "usr/share/asterisk/sounds/es"
    make_deb(path, "asterisk-prompt-es-co", {f"{sounds}/p{i}.gsm": b"\xd0" * 3300 for i in range(20)})
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return get_task("speech").load(folder, plain=True)


def test_a_whisper_is_asked_for_speech(folder):
    assert [task.name for task in tasks_of(folder)] == ["speech"]
    assert task_for(folder, "speech-fr").name == "speech-fr"
    with pytest.raises(DataError, match=r"--task g2p needs a small T5 for words; .* holds a Whisper"):
        tasks_of(folder, ["g2p"])


def test_splits_share_no_sentence_and_are_the_same_again(data):
    task = get_task("speech")
    said = {}
    for split in ("train", "validation", "test"):
        found = list(task.examples(split, 200, data))
        assert [one.id for one in found] == [one.id for one in task.examples(split, 200, data)]
        said[split] = {(clip.language, clip.name) for one in found for clip in one.extra["recording"].clips}
        assert {one.kind for one in found} == {"en", "fr"}
    assert not said["train"] & said["validation"] and not (said["train"] | said["validation"]) & said["test"]
    assert len(list(itertools.islice(task.examples("train", data=data), 400))) == 400  # without end
    assert {one.kind for one in get_task("speech-fr").examples("test", data=data)} == {"fr"}


def test_a_voice_that_is_new(data):
    task = get_task("speech")
    found = list(task.examples("new_voice", data=data))
    assert found and not any(one.answers for one in found)
    assert {one.extra["recording"].clips[0].speaker for one in found} == {p.speaker for p in PROMPTS if p.held_out}
    with pytest.raises(DataError, match="has no text, so its transcription cannot be scored"):
        task.score(["x"], found[:1])
    with pytest.raises(DataError, match="has no text to learn"):
        task.labels(None, found[0])


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("speech", "dev", "has no split 'dev'; there are train, validation"),
        ("speech-ru", "test", "no recordings of the test split for speech-ru"),
        ("speech-mixed", "train", "none of the packages fortunes"),
    ],
)
def test_what_is_not_there(data, name, split, message):
    with pytest.raises(DataError, match=message):
        list(get_task(name).examples(split, 3, data))


def test_every_third_of_the_mixed_ones_is_spoken(data, tmp_path):
    for package in data.glob("*.deb"):
        (tmp_path / package.name).symlink_to(package)
    cookies = "".join(f"This is sentence number {i} to be spoken.\n%\n" for i in range(30))
    make_deb(tmp_path, "fortunes", {"usr/share/games/fortunes/all": cookies.encode()})
    found = list(get_task("speech-mixed").examples("train", 60, tmp_path))
    voices = [one.extra["recording"].clips[0].speaker for one in found]
    assert [voice == "espeak-en" for voice in voices] == [i % 3 == 2 for i in range(60)]
    held_out = get_task("speech-mixed").examples("test", data=tmp_path)
    assert list(held_out) == list(get_task("speech").examples("test", data=tmp_path))


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match="no folder of Debian packages"):
        get_task("speech").examples("test", 1, tmp_path / "nothing")


def test_sound_is_in_memory_only_while_it_is_open(data):
    task = get_task("speech")
    example = next(iter(task.examples("train", 1, data)))
    opened = task.opened(example)
    assert abs(len(opened.extra["samples"]) / 16_000 / example.extra["seconds"] - 1) < 0.12
    assert task.closed(opened) == example


def test_prompts():
    many, english = tiny_tokenizer(), tiny_tokenizer(multilingual=False)
    assert len(many) == 51865 and len(english) == 51864
    assert many.decode(prompt_of(many, "fr")) == "<|startoftranscript|><|fr|><|transcribe|><|notimestamps|>"
    assert english.decode(prompt_of(english, "en")) == "<|startoftranscript|><|notimestamps|>"
    with pytest.raises(DataError, match="for English alone, and a recording is in 'fr'"):
        prompt_of(english, "fr")
    with pytest.raises(DataError, match=r"has no <\|xx\|>"):
        prompt_of(many, "xx")


def test_labels_continue_the_prompt(loaded, data):
    task, tokenizer = get_task("speech"), loaded.processor.tokenizer
    example = next(one for one in task.examples("test", data=data) if one.kind == "fr")
    labels = task.labels(loaded.processor, example)
    assert tokenizer.decode(labels) == f"<|fr|><|transcribe|><|notimestamps|> {example.answers[0]}<|endoftext|>"
    rows = [{**task.encode(loaded.processor, task.opened(example)), "labels": labels}]
    batch = task.collate(loaded.processor, rows)
    assert "decoder_input_ids" not in batch
    loaded.model(**{k: v for k, v in batch.items() if k != "labels"}, labels=batch["labels"][:, :20]).loss.item()


def test_answers_are_those_of_whispers_generate(loaded, data):
    task = get_task("speech")
    examples = list(task.examples("test", 6, data))
    assert len({one.kind for one in examples}) == 2
    rows = [task.encode(loaded.processor, task.opened(one)) for one in examples]
    found = answer_rows(task, loaded.model, loaded.processor, rows, batch_size=4)
    for row, example, tokens in zip(rows, examples, found.tokens, strict=True):
        alone = loaded.model.generate(
            row["input_features"][None], language=example.kind, task="transcribe", do_sample=False, max_new_tokens=20
        )
        kept = [token for token in alone[0].tolist() if token != 50257]
        assert [token for token in tokens if token != 50257] == [t for t in kept if t < 50258 or t >= 50364]
    scores = task.score(
        [task.answer(loaded.processor, t, e) for t, e in zip(found.tokens, examples, strict=True)], examples
    )
    assert all(0 <= value <= 1 for value in scores)


def test_with_early_exit(folder, loaded, data):
    task = get_task("speech")
    with pytest.warns(UserWarning, match="plain model"):
        model, processor = task.load(folder)
    rows = [task.encode(processor, task.opened(one)) for one in task.examples("test", 3, data)]
    plain = answer_rows(task, loaded.model, processor, rows)
    full = answer_rows(task, model, processor, rows, exit_threshold=2.0)
    assert full.tokens == plain.tokens and full.mean_depth == 3
    assert answer_rows(task, model, processor, rows, exit_threshold=0.0).mean_depth == 1
    count, results = evaluate_task(task, model, processor, task.examples("test", 4, data), (2.0, 0.0))
    assert count == 4 and results[0]["mean_depth"] == 3 and results[1]["mean_depth"] == 1
    assert {"word_accuracy", "wer", "by_kind"} <= set(results[0])


def test_depths_of_several_generations_are_refused():
    one, two = ({"exit_layers": [torch.ones(2, 3)] * n} for n in (1, 2))
    out = type("Out", (dict,), {"exit_layers": property(lambda self: self["exit_layers"])})
    assert exit_depths(out(one)).shape == (2, 3)
    assert exit_depths(out({})) is None
    with pytest.raises(ValueError, match="generated 2 times"):
        exit_depths(out(two))


def test_a_model_for_english_alone(tmp_path, data):
    save_tiny_whisper(tmp_path, multilingual=False)
    task = get_task("speech-en")
    model, processor = task.load(tmp_path, plain=True)
    examples = list(task.examples("test", 2, data))
    rows = [task.encode(processor, task.opened(one)) for one in examples]
    assert rows[0]["decoder_input_ids"].tolist() == prompt_of(processor.tokenizer, "en")
    assert len(answer_rows(task, model, processor, rows).tokens) == 2
    assert deed.tasks.task.get_task("speech").model_types == ("whisper",)
