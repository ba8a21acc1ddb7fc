"""The folder of a run belongs to one process, which may die at any moment."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from deed.recipes.g2p import G2pRecipe
from deed.recipes.page_batches import PagesRecipe
from deed.recipes.recipe import Recipe
from deed.recipes.run import run_recipe
from deed.training.callbacks import TimeLimit
from deed.training.run_folder import (
    check_recipe,
    last_complete_checkpoint,
    locked,
    remove_incomplete,
    write_recipe,
)

HOLDER = """
import os, sys, time
from pathlib import Path
from deed.training.run_folder import locked
with locked(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(60)  # as a data worker that outlives its parent
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder's lock."""
    started = []

    def start(kind="plain"):
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), kind]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout.readline() == "ready\n"
        started.append(process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_two_live_processes_and_then_one_that_died(tmp_path, holder):
    output = tmp_path / "run"
    process = holder("fork")
    half = output / "checkpoint-5"  # which it is writing
    half.mkdir()
    with pytest.raises(ValueError, match=rf"in use by another training run \(process {process.pid}\)"):
        run_recipe(output, Recipe(), lambda _: pytest.fail("started"), lambda *_: pytest.fail("planned"))
    assert half.is_dir() and (output / "run.lock").read_text() == str(process.pid)
    process.kill()  # its child lives on
    process.wait()
    with locked(output):
        assert (output / "run.lock").read_text() == str(os.getpid())
    assert not (output / "run.lock").exists() and half.is_dir()


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
        1 / 0  # noqa: B018
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_other_processes_of_a_distributed_run_leave_the_lock_to_the_first(tmp_path, holder, monkeypatch):
    holder()
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "run.lock").exists()


def test_only_whole_checkpoints_count(tmp_path):
    for step, state in ((3, "{}"), (20, "{}"), (100, '{"cut')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-notes").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")
    assert (tmp_path / "checkpoint-100").is_dir()
    remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "checkpoint-3", "checkpoint-notes"]


def test_a_run_folder_keeps_to_its_recipe(tmp_path):
    recipe = G2pRecipe(steps=12)
    check_recipe(tmp_path, recipe)
    assert not list(tmp_path.iterdir())
    write_recipe(tmp_path, recipe)
    check_recipe(tmp_path, recipe)
    with pytest.raises(ValueError, match="another steps"):
        check_recipe(tmp_path, G2pRecipe(steps=13))
    for text, message in (("[1]", "expected a JSON object, got list"), ("{", "cannot be read")):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            check_recipe(tmp_path, recipe)


def test_a_run_of_an_older_version_goes_on(tmp_path):
    (tmp_path / "recipe.json").write_text('{"steps": 5000, "mastery": 0.3}')
    check_recipe(tmp_path, PagesRecipe(curriculum_loss=0.3))
    with pytest.raises(ValueError, match="another curriculum_loss"):
        check_recipe(tmp_path, PagesRecipe(curriculum_loss=0.2))


def test_time_is_up():
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    arguments = SimpleNamespace(device="cpu", world_size=1)
    limit = TimeLimit(minutes=1)
    limit.on_step_end(arguments, SimpleNamespace(global_step=3, max_steps=9), control)
    assert not control.should_save and not control.should_training_stop
    limit.end = time.monotonic() - 1
    limit.on_step_end(arguments, SimpleNamespace(global_step=9, max_steps=9), control)
    assert not control.should_save, "the run ends by itself"
    limit.on_step_end(arguments, SimpleNamespace(global_step=4, max_steps=9), control)
    assert control.should_save and control.should_training_stop
