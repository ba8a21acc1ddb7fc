"""`deed tune` and further training through the Task protocol: any task, also one of the user's own."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import deed
from data.tiny_ofa import save_small_ofa
from deed.cli import train, tune
from deed.data.base import Example
from deed.errors import DataError, DeedLoadError
from deed.models import small_g2p
from deed.recipes.fine_tune import FineTuneRecipe, TasksInTurn, fine_tune
from deed.recipes.task_data import ExampleStream, shuffled
from deed.tasks import task as registry

QUICK = {
    "steps": 4,
    "batch_size": 4,
    "warmup_steps": 1,
    "save_every": 2,
    "log_every": 1,
    "bf16": False,
    "eval_count": 3,
}
WORDS = ["cat", "dogs", "thing", "red", "blue", "banana", "apple", "pear"]


class Spell(registry.Task):
    """A task of a user's own: a word is answered with itself."""

    unit = "word"

    def examples(self, split, count=None, data=None) -> Iterator[Example]:
        words = WORDS if split == "train" else ["car", "den", "ring", "bed"]
        return itertools.islice((Example(word, [word]) for word in words), count)


@pytest.fixture(autouse=True)
def spell(monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})
    deed.register_task("spell", Spell)


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    """Folder of a plain T5 that knows letters."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("speller")
    tokenizer = small_g2p.build_tokenizer()
    small_g2p.build_model(tokenizer, n_layers=3, d_model=32, d_ff=32, dropout=0.3).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def recipe(start, **changes):
    return FineTuneRecipe(**{**QUICK, "start": str(start), "frozen": True, "loss": "distill", **changes})


def test_a_task_of_the_users_own_is_tuned(speller, tmp_path):
    result = fine_tune(tmp_path / "run", recipe(speller, task="spell", steps=30, learning_rate=1e-2))
    assert result["steps"] == 30 and result["validation"]["questions"] == 3
    assert {"exact_match", "exact_match_at_threshold_0.9", "mean_depth_at_threshold_0.9"} <= set(result["validation"])
    tuned = deed.from_pretrained(tmp_path / "run" / "model")
    before = load_file(speller / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert tuned.deed_config.threshold == 2.0 and tuned.deed_config.exit_layers == [1, 2, 3]
    rows = [json.loads(x) for x in (tmp_path / "run/model/training_log.jsonl").read_text().splitlines()]
    losses = [row["exit_loss_1"] for row in rows if "exit_loss_1" in row]
    assert losses[-1] < losses[0]


def test_a_killed_run_goes_on(speller, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fine_tune(whole, recipe(speller, task="spell"))
    with monkeypatch.context() as patch:
        patch.setattr("deed.recipes.run.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fine_tune(cut, recipe(speller, task="spell"))
    (cut / "checkpoint-4" / "trainer_state.json").unlink()
    assert fine_tune(cut, recipe(speller, task="spell"))["steps"] == 4
    a, b = (load_file(path / "model" / "deed_exits.safetensors") for path in (whole, cut))
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)


def test_the_model_is_saved_before_it_is_scored(speller, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Spell, "score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fine_tune(tmp_path / "run", recipe(speller, task="spell"))
    assert (tmp_path / "run" / "model" / "deed_exits.safetensors").is_file()
    assert f"step 4: model saved in {tmp_path / 'run' / 'model'}; scoring it" in capsys.readouterr().err


def test_what_cannot_be_scored_is_saved_all_the_same(speller, tmp_path, monkeypatch):
    whole = Spell.examples
    monkeypatch.setattr(
        Spell, "examples", lambda self, split, *rest: whole(self, split, *rest) if split == "train" else []
    )
    result = fine_tune(tmp_path / "run", recipe(speller, task="spell"))
    assert result["validation"] == {"not_scored": "spell has no examples with answers in its validation split"}
    assert (tmp_path / "run" / "model").is_dir()


def test_only_a_bounded_sample_is_scored(speller, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Spell, "score", lambda self, answers, examples: seen.append(len(answers)) or [0.0] * len(answers)
    )
    fine_tune(tmp_path / "run", recipe(speller, task="spell", eval_count=2))
    assert seen == [2, 2]  # at full depth, and with early exits
    fine_tune(tmp_path / "none", recipe(speller, task="spell", eval_count=0))
    assert seen == [2, 2]


def test_a_deed_model_gets_new_exits_and_keeps_its_measure(speller, tmp_path):
    fine_tune(tmp_path / "one", recipe(speller, task="spell"))
    model = deed.from_pretrained(tmp_path / "one" / "model")
    model.deed_config.confidence, model.deed_config.threshold = "margin", 0.4
    model.save_pretrained(tmp_path / "one" / "model")
    fine_tune(tmp_path / "two", recipe(tmp_path / "one" / "model", task="spell", adapter="bottleneck"))
    config = deed.from_pretrained(tmp_path / "two" / "model").deed_config
    assert (config.confidence, config.adapter, config.threshold) == ("margin", "bottleneck", 2.0)


def test_the_whole_model_goes_on_with_a_task_of_the_users_own(speller, tmp_path):
    result = train.run(tmp_path / "run", "spell", ["--from", str(speller), "--steps", "3", "--no-bf16"])
    assert result["steps"] == 3 and "exact_match" in result["validation"]
    before = load_file(speller / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before)
    again = train.run(tmp_path / "again", None, [], recorded=tmp_path / "run" / "recipe.json")
    assert again["steps"] == 3 and again["train_loss"] == pytest.approx(result["train_loss"], rel=1e-4)
    with pytest.raises(ValueError, match=r"--task spell goes on from a saved model .*give --from"):
        train.run(tmp_path / "none", "spell", [])


def test_the_command(speller, tmp_path):
    options = ["--task", "spell", "--steps", "2", "--batch-size", "2", "--no-bf16", "--eval-count", "2"]
    arguments = ["tune", str(speller), "--output", str(tmp_path / "run"), *options]
    app = typer.Typer()
    tune.register(app)
    train.register(app)  # with one verb, Typer would take its name for an argument
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 2
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["task"] == "spell"
    done = CliRunner().invoke(app, arguments)  # it is there already
    assert "2 steps, exact match" in done.stdout
    assert f"next: deed calibrate {tmp_path / 'run' / 'model'} --task spell" in done.stdout


def test_the_tasks_of_an_ofa(tmp_path):
    folder = save_small_ofa(tmp_path / "ofa", plain=True)
    result = fine_tune(tmp_path / "run", recipe(folder, steps=5, batch_size=2, eval_count=2))
    assert set(result["validation"]) == {"scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa"}
    assert "acc_at_0.5" in result["validation"]["scenes-refer"]
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_batches_are_of_one_task():
    streams = [ExampleStream(lambda i=i: range(10 * i, 10 * i + 5), lambda x, _: {"x": x}, seed=0) for i in range(3)]
    rows = list(itertools.islice(TasksInTurn(streams, 4), 24))
    batches = [rows[i : i + 4] for i in range(0, 24, 4)]
    assert [{row["task"] for row in batch} for batch in batches] == [{0}, {1}, {2}] * 2
    assert all(row["x"] // 10 == row["task"] for row in rows)


def test_an_epoch_has_every_example_once_in_an_order_of_its_own():
    stream = ExampleStream(lambda: range(100), lambda x, _: {"x": x} if x % 2 else None, seed=3)
    found = [row["x"] for row in itertools.islice(stream, 150)]
    epochs = [found[i : i + 50] for i in range(0, 150, 50)]
    assert all(sorted(epoch) == list(range(1, 100, 2)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    assert [row["x"] for row in itertools.islice(stream, 150)] == found, "fixed by the seed"
    with pytest.raises(DataError, match="nothing to train on"):
        next(iter(ExampleStream(lambda: range(4), lambda *_: None, seed=0)))


@pytest.mark.parametrize(("image", "ahead"), [(None, 300), (Path("picture.png"), 300), (object(), 65)])
def test_pictures_in_memory_are_few(image, ahead):
    read = 0

    def examples():
        nonlocal read
        for i in range(300):
            read += 1
            yield Example(str(i), ["x"], image=image)

    next(shuffled(examples(), random.Random(0)))
    assert read == ahead


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "/nowhere"}, "/nowhere is not a folder with a saved model"),
        ({"task": "nosuch"}, "--task must be one of"),
        ({"task": ["refcoco"]}, "--task refcoco needs an OFA"),
        ({"adapter": "none"}, "an adapter other than"),
        ({"steps": 0}, "steps: Expected `int` >= 1: 0"),
        ({"batch_size": "many"}, "batch_size: Expected `int`"),
    ],
)
def test_bad_recipes_leave_nothing(speller, tmp_path, changes, message):
    with pytest.raises((DataError, DeedLoadError, ValueError), match=message):
        fine_tune(tmp_path / "run", replace(recipe(speller, task="spell"), **changes))
    assert not (tmp_path / "run").exists()


def test_letters_that_labels_cannot_have_are_told_once():
    """Answers with letters outside the vocabulary: one warning after the first epoch, with the count and the letters."""
    from deed.data.base import Example
    from deed.errors import UnknownLetters
    from deed.models import small_g2p

    examples = [Example("q", ["AH B"]), Example("q", ["AH \u00e9"]), Example("q", ["\u00bd B"])]
    tokenizer = small_g2p.build_tokenizer()
    stream = iter(ExampleStream(lambda: examples, lambda x, _: {"x": x}, seed=0, tokenizer=tokenizer))
    with pytest.warns(UnknownLetters, match="2 of 3 answers") as caught:
        for _ in range(10):
            next(stream)
    assert len(caught) == 1 and "'\u00e9'" in str(caught[0].message) and "'\u00bd'" in str(caught[0].message)
