"""The folder of a training run: who writes in it, its recipe, its newest whole checkpoint, and the model published from it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from deed.errors import DataError
from deed.utils.files import read_json, swapped_folder, write_json

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


def check_recipe(output: Path, recipe: Any) -> None:
    """Make sure that a run to be continued has the same recipe; fields that it did not know had their default value.

    Raises:
        ValueError: `output` holds a run of another recipe, or its `recipe.json` is damaged.
    """
    path = output / RECIPE
    if not path.exists():
        return
    before = type(recipe).renamed(read_json(path, ValueError))
    default = {name: field.default for name, field in type(recipe).__dataclass_fields__.items()}
    changed = [name for name, value in asdict(recipe).items() if before.get(name, default[name]) != value]
    if changed:
        raise ValueError(
            f"{output} holds a run with another {', '.join(changed)}; choose another --output or delete it"
        )


def write_recipe(folder: Path, recipe: Any) -> None:
    """Write `recipe.json`, whole or not at all."""
    write_json(folder / RECIPE, asdict(recipe))


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end: Trainer writes `trainer_state.json` last."""
    return str(found[-1]) if (found := [folder for folder in _checkpoints(output) if _is_complete(folder)]) else None


def remove_incomplete(output: Path) -> None:
    """Remove checkpoints and temporary files that a killed run left half-written. Only for the holder of the folder's lock:
    what another process is writing looks the same."""
    half = [folder for folder in _checkpoints(output) if not _is_complete(folder)]
    for path in (*half, *output.glob(".*.tmp")):
        shutil.rmtree(path, ignore_errors=True)
        if path.is_file():
            path.unlink()


def _checkpoints(output: Path) -> list[Path]:
    found = [path for path in output.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_complete(folder: Path) -> bool:
    try:
        read_json(folder / "trainer_state.json")
    except DataError:
        return False
    return True


def publish(
    model: Any,
    processor: Any,
    output: Path,
    recipe: Any,
    log: list[dict[str, Any]],
    write_more: Callable[[Path], None] | None = None,
) -> Path:
    """Write `output/model` (fp32, whole or not at all), with the recipe and the training log in it.

    Args:
        model: saved by its own `save_pretrained`.
        processor: processor or tokenizer, saved beside it.
        output: the run folder.
        recipe: a dataclass.
        log: rows of `training_log.jsonl`.
        write_more: called with the folder, to write more into it.
    """
    model.config.use_cache = True  # Trainer switches it off and would leave it so in the folder
    with swapped_folder(output / "model") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_recipe(folder, recipe)
        lines = "".join(json.dumps(row) + "\n" for row in log)
        (folder / "training_log.jsonl").write_text(lines, encoding="utf-8")
        if write_more is not None:
            write_more(folder)
    return output / "model"
