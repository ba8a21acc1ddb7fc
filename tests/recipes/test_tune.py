"""`deed tune --recipe`: pools on disk, training from them, interruptions, what is saved and reported."""

import dataclasses
import itertools
import json
from collections.abc import Iterator

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

import deed
from deed.cli import train
from deed.cli import tune as verb
from deed.data.base import Example
from deed.errors import DataError, DeedConfigError, DeedLoadError
from deed.models import small_g2p
from deed.recipes import tune as recipes
from deed.recipes import tune_cache
from deed.recipes import tune_state as states
from deed.recipes.tune import Run, tune_with
from deed.recipes.tune_recipe import TuneRecipe
from deed.tasks import task as registry

WORDS = [a + b for a in ("cat", "dogs", "thing", "red", "blue", "apple") for b in ("", "s", "er", "ing", "an", "un")]
QUICK = {
    "task": "spell",
    "exits": [1, 2],
    "steps": 12,
    "pool": 24,
    "held_out": 8,
    "batch_size": 4,
    "evaluations": 3,
    "max_new_tokens": 12,
    "bf16": False,
}


class Spell(registry.Task):
    """A word is answered with itself."""

    unit = "word"

    def examples(self, split, count=None, data=None) -> Iterator[Example]:
        words = WORDS if split == "train" else [word[::-1] for word in WORDS[::3]]
        return itertools.islice((Example(word, [word]) for word in words), count)


@pytest.fixture(autouse=True)
def spell(monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})
    deed.register_task("spell", Spell)
    monkeypatch.setattr(recipes, "say", lambda line: None)


def save_speller(path):
    """A plain T5 that knows letters, its weights large enough to say something."""
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = small_g2p.build_model(tokenizer, n_layers=4, d_model=32, d_ff=32, dropout=0.3)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.4)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    return save_speller(tmp_path_factory.mktemp("speller"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("pools")


def recipe(start, **changes):
    return TuneRecipe(**{**QUICK, "start": str(start), **changes})


def rows_of(run):
    return [json.loads(line) for line in (run / states.LOG).read_text().splitlines()]


@pytest.fixture(scope="module")
def done(speller, cache, tmp_path_factory):
    """A finished run, and its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_OWN", {})
        deed.register_task("spell", Spell)
        run = tmp_path_factory.mktemp("done") / "run"
        return run, tune_with(run, recipe(speller, steps=60, learning_rate=1e-2), cache)


def test_exits_learn_and_the_model_stays_as_it_was(done, speller):
    run, report = done
    assert report["pool_cpu_hours"] > 0 and report["cpu_hours"] > 0
    before, after = (load_file(folder / "model.safetensors") for folder in (speller, run / "model"))
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [0, 20, 40, 60]
    for depth in ("1", "2"):
        assert rows[-1]["agreement"][depth] > rows[0]["agreement"][depth]
        assert rows[-1]["loss"][depth] < rows[1]["loss"][depth]
    best = min(rows, key=lambda row: row["score"])
    assert report["best"] == best and report["steps"] == 60
    model = deed.from_pretrained(run / "model")
    assert model.deed_config.exit_layers == [1, 2, 4] and model.deed_config.adapter == "layer"
    assert model.deed_config.threshold == report["threshold"]
    # What is saved are the best weights.
    exits = load_file(run / "model" / "deed_exits.safetensors")
    for name, value in load_file(run / states.BEST).items():
        assert torch.equal(exits[name.removeprefix("deed_exits.")], value)


def test_the_report_is_what_the_saved_model_does(done, speller):
    """Agreement by deed's own recording, on the same held-out examples."""
    run, report = done
    assert json.loads((run / "report.json").read_text()) == json.loads(json.dumps(report))
    task = registry.task_for(speller, "spell")
    model, processor = task.load(run / "model")
    drawn = list(tune_cache.drawn(task.examples("validation"), 0))[:8]
    rows = [dict(task.encode(processor, x)) for x in drawn]
    found = deed.record_exits(model, rows, **{**task.generation_options(model, processor), "max_new_tokens": 12})
    for depth, agrees in zip(("1", "2"), found.agrees, strict=True):
        assert report["agreement"][depth] == pytest.approx(agrees.mean(), abs=0.02)
    assert report["held_out_tokens"] == found.tokens
    text = (run / "report.md").read_text()
    assert "Depth over changed tokens" in text and "| inside words" in text
    assert sum(kind["tokens"] for kind in report["by_kind"].values()) == found.tokens


def test_a_pool_is_made_once(done, speller, cache, tmp_path, monkeypatch):
    assert done

    def refuse(*args, **kwargs):
        raise AssertionError("it is there already")

    monkeypatch.setattr(tune_cache, "fill", refuse)
    tune_with(tmp_path / "again", recipe(speller), cache)
    tune_with(tmp_path / "fewer", recipe(speller, pool=10, exits=[2]), cache)  # of the same pool
    for changes in ({"pool": 30}, {"max_new_tokens": 5}, {"exits": [3]}, {"seed": 1}):
        with pytest.raises(AssertionError, match="there already"):
            tune_with(tmp_path / "other", recipe(speller, **changes), cache)
    assert not (tmp_path / "other").exists(), "nothing is left behind where a run has not begun"


def test_a_pool_goes_on_where_it_was_killed(speller, tmp_path, monkeypatch):
    monkeypatch.setattr("deed.recipes.tune_pool.SHARD", 4)
    monkeypatch.setattr("deed.recipes.tune_teacher.DRAWN", 4)
    tune_with(tmp_path / "whole", recipe(speller), tmp_path / "a")
    from deed.recipes import tune_teacher

    answer, calls = tune_teacher.answer, []

    def killed(*args):
        calls.append(len(args[2]))
        if sum(calls) > 20:
            raise KeyboardInterrupt
        return answer(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tune_teacher, "answer", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_with(tmp_path / "cut", recipe(speller), tmp_path / "b")
    before = sum(calls)
    with monkeypatch.context() as patch:
        patch.setattr(tune_teacher, "answer", lambda *args: calls.append(len(args[2])) or answer(*args))
        tune_with(tmp_path / "cut", recipe(speller), tmp_path / "b")
    assert sum(calls) - before < 24 + 8, "what was on disk was made again"
    shards = [sorted(p.relative_to(tmp_path / x) for p in (tmp_path / x).rglob("*.safetensors")) for x in "ab"]
    assert shards[0] == shards[1] and len(shards[0]) == 8
    for path in shards[0]:
        one, other = load_file(tmp_path / "a" / path), load_file(tmp_path / "b" / path)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_killed_run_goes_on_as_if_it_had_not_been(speller, cache, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"average": 0.9, "dropout": 0.2}
    tune_with(whole, recipe(speller, **options), cache)
    step = Run.step

    def killed(self):
        if self.state.step == 6:  # the last checkpoint is of step 4
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_with(cut, recipe(speller, **options), cache)
    assert rows_of(cut)[-1]["step"] == 4
    with (cut / states.LOG).open("a") as file:
        file.write('{"step": 5, "agreement"')  # half a row
    tune_with(cut, recipe(speller, **options), cache)
    one, other = (load_file(run / "model" / "deed_exits.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[k], other[k]) for k in one)
    for a, b in zip(rows_of(whole), rows_of(cut), strict=True):
        assert {k: v for k, v in a.items() if k != "minutes"} == {k: v for k, v in b.items() if k != "minutes"}


def test_time_that_is_not_training_does_not_count(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 3.0, 3600.0, 3601.0])
    monkeypatch.setattr(states.time, "monotonic", lambda: next(now))
    clock = states.Clock()
    assert [clock.tick() for _ in range(5)] == [1.0, 1.0, 1.0, 1.0, 1.0], "the hour was a pause"


def test_hours_end_a_run(speller, cache, tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(states.Clock, "tick", lambda self: next(seconds) * 0 + 1.0)
    report = tune_with(tmp_path / "run", recipe(speller, steps=0, hours=9 / 3600), cache)
    assert report["steps"] == 9 and report["seconds"] == 9.0
    rates = [row["rate"] for row in rows_of(tmp_path / "run")]
    assert max(rates) <= 1e-3 and rates[-1] == pytest.approx(1e-5), "a cosine down to a hundredth"


def test_a_deed_model_gets_new_exits(done, speller, cache, tmp_path):
    run, _ = done
    tune_with(tmp_path / "new", recipe(run / "model", exits=[3]), cache)
    model = deed.from_pretrained(tmp_path / "new" / "model")
    assert model.deed_config.exit_layers == [3, 4] and set(model.deed_exits) == {"3"}


def test_other_adapters_learn_too(speller, cache, tmp_path):
    report = tune_with(
        tmp_path / "run",
        recipe(speller, adapter="residual_linear", steps=24, label_share=0.2, learning_rate=1e-2),
        cache,
    )
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["loss"]["1"] < rows[1]["loss"]["1"]
    assert all(row["depth"] == row["exit_depth"] for row in report["choices"]), "there are no layers of their own"


def test_exits_that_share_a_layer(speller, cache, tmp_path):
    tune_with(tmp_path / "run", recipe(speller, adapter_shared=True, steps=24, learning_rate=1e-2), cache)
    rows = rows_of(tmp_path / "run")
    assert all(rows[-1]["loss"][depth] < rows[1]["loss"][depth] for depth in ("1", "2"))
    model = deed.from_pretrained(tmp_path / "run" / "model")
    assert model.deed_config.adapter_shared and len(model.deed_exits) == 1


def test_a_cache_that_is_full_makes_a_smaller_pool(speller, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tune_cache, "say", said.append)
    monkeypatch.setattr("deed.recipes.tune_pool.SHARD", 4)
    monkeypatch.setattr("deed.recipes.tune_teacher.DRAWN", 4)
    report = tune_with(tmp_path / "run", recipe(speller, cache_gb=2e-4), tmp_path / "pools")
    assert 0 < report["pool_examples"] < 24
    assert any("of 24 examples" in line and "--cache-gb" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "/nowhere"}, "/nowhere is not a folder with a saved model"),
        ({"task": "nosuch"}, "--task must be one of"),
        ({"data": "/nowhere"}, "--data /nowhere is not there"),
        ({"adapter": "none"}, "an adapter other than"),
        ({"exits": [9]}, "depth 9, but the decoder has 4"),
        ({"exits": [2, 4]}, "--exits 4 is the last layer"),
        ({"steps": 0}, "give --hours, or --steps"),
        ({"hours": -1.0}, "hours: Expected `float` > 0"),
        ({"method": "magic"}, "method: Invalid enum value 'magic'"),
    ],
)
def test_bad_recipes_leave_nothing(speller, tmp_path, changes, message):
    with pytest.raises((DataError, DeedLoadError, DeedConfigError, ValueError), match=message):
        tune_with(tmp_path / "run", dataclasses.replace(recipe(speller), **changes), tmp_path / "pools")
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_pool_is_named(done, speller, cache, tmp_path):
    import shutil

    own = tmp_path / "pools"
    shutil.copytree(cache, own)
    for path in own.rglob("00000.safetensors"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"00000.safetensors is damaged .*delete the folder"):
        tune_with(tmp_path / "run", recipe(speller), own)


def test_a_loss_that_is_not_a_number_stops_the_run(speller, cache, tmp_path, monkeypatch):
    whole = recipes.Student.together
    monkeypatch.setattr(recipes.Student, "together", lambda self, losses: whole(self, losses) * float("nan"))
    with pytest.raises(DataError, match="step 0: the loss is not a number"):
        tune_with(tmp_path / "run", recipe(speller), cache)


def app():
    made = typer.Typer()
    verb.register(made)
    train.register(made)  # with one verb, Typer would take its name for an argument
    return made


def test_the_command(speller, cache, tmp_path):
    options = ["--recipe", "frozen", "--exits", "1,2", "--steps", "4", "--pool", "24", "--held-out", "8"]
    more = ["--batch-size", "4", "--no-bf16", "--max-new-tokens", "12", "--cache", str(cache), "--task", "spell"]
    arguments = ["tune", str(speller), "--output", str(tmp_path / "run"), *options, *more]
    done = CliRunner().invoke(app(), [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["recipe"]["exits"] == [1, 2]
    done = CliRunner().invoke(app(), arguments)  # it is there already
    assert "## Agreement with" in done.stdout and f"4 steps; model in {tmp_path / 'run' / 'model'}" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hours", "1"], "--hours goes with --recipe"),
        (["--recipe", "frozen", "--minutes", "1"], "--minutes goes without --recipe"),
        (["--recipe", "frozen", "--exits", "one"], "--exits must be layers, as 1 or 1,2, got 'one'"),
        (["--recipe", "frozen", "--task", "spell", "--task", "g2p"], "--recipe takes one --task"),
        (["here", "--data", "there"], "DATA and --data say the same"),
    ],
)
def test_options_that_do_not_go_together(speller, tmp_path, options, message):
    done = CliRunner().invoke(app(), ["tune", str(speller), "--output", str(tmp_path / "run"), *options])
    assert isinstance(done.exception, ValueError) and message in str(done.exception)
    assert not (tmp_path / "run").exists()
