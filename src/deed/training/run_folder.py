"""The folder of a training run: who writes in it, its recipe, its newest whole checkpoint, and the model published from it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

LOCK, RECIPE = "run.lock", "recipe.json"


def is_main_process() -> bool:
    """Whether this is the process of a distributed run (`torchrun`) that writes files; also true outside of one."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Make the folder of a run and keep it to this process; if nothing was written to it, it is removed in the end.

    The lock is a POSIX record lock, which the kernel drops when the process ends, however it ends, and which data workers
    do not inherit: the lock of a dead process is taken over. Of the processes of a distributed run, the main one holds it.

    Raises:
        ValueError: another live process holds the lock; the message gives its process id.
    """
    if not is_main_process():
        yield
        return
    created = [path for path in (output, *output.parents) if not path.exists()]
    output.mkdir(parents=True, exist_ok=True)
    with _lock(output) as file:
        try:
            yield
        finally:
            Path(file.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: the run has written something
                for folder in created:
                    folder.rmdir()


def _lock(output: Path) -> IO[str]:
    path = output / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ValueError(
                f"{output} is in use by another training run (process {holder}); wait until it has ended, or choose "
                "another --output"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # removed by its holder between opening and locking
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def read_recipe(path: Path) -> dict[str, Any]:
    """The fields of a recorded recipe.

    Raises:
        ValueError: no such file, or not a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no recipe: a JSON object is needed, got a {type(found).__name__}")
    return found


def check_recipe(output: Path, recipe: Any) -> None:
    """Make sure that a run to be continued has the same recipe; fields that it did not know had their default value.

    Raises:
        ValueError: `output` holds a run of another recipe, or its `recipe.json` is damaged.
    """
    path = output / RECIPE
    if not path.exists():
        return
    before = type(recipe).renamed(read_recipe(path))
    default = {name: field.default for name, field in type(recipe).__dataclass_fields__.items()}
    changed = [name for name, value in asdict(recipe).items() if before.get(name, default[name]) != value]
    if changed:
        raise ValueError(
            f"{output} holds a run with another {', '.join(changed)}; choose another --output or delete it"
        )


def write_recipe(folder: Path, recipe: Any) -> None:
    """Write `recipe.json`, whole or not at all."""
    temporary = folder / f"{RECIPE}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RECIPE)


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end: Trainer writes `trainer_state.json` last."""
    return str(found[-1]) if (found := [folder for folder in _checkpoints(output) if _is_complete(folder)]) else None


def remove_incomplete_checkpoints(output: Path) -> None:
    """Remove checkpoints that a killed run left half-written. Only for the holder of the folder's lock: a checkpoint that
    another process is writing looks the same."""
    for folder in _checkpoints(output):
        if not _is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoints(output: Path) -> list[Path]:
    found = [path for path in output.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_complete(folder: Path) -> bool:
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def publish(model: Any, processor: Any, output: Path, recipe: Any, log: list[dict[str, Any]]) -> Path:
    """Write `output/model` (fp32, complete or not at all), with the recipe and the training log in it.

    Args:
        model: saved by its own `save_pretrained`.
        processor: processor or tokenizer, saved beside it.
        output: the run folder.
        recipe: a dataclass.
        log: rows of `training_log.jsonl`.
    """
    target, temporary = output / "model", output / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.config.use_cache = True  # Trainer switches it off and would leave it so in the folder
    model.save_pretrained(temporary)
    processor.save_pretrained(temporary)
    write_recipe(temporary, recipe)
    lines = "".join(json.dumps(row) + "\n" for row in log)
    (temporary / "training_log.jsonl").write_text(lines, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    return target
