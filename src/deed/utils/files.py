"""Files and folders that are written whole or not at all, and JSON that is read with one clear error."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deed.errors import DataError


def temporary_name(path: Path) -> Path:
    """A name beside `path`, hidden and not yet taken, that ends in `.tmp`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def user_cache() -> Path:
    """Where deed keeps what can be made again: `$DEED_CACHE`, else `$XDG_CACHE_HOME/deed`, else `~/.cache/deed`."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("DEED_CACHE") or caches / "deed").expanduser()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all; what was there before is replaced.

        with atomic_write("report.json") as temporary:
            temporary.write_text("…")

    Args:
        path: the file. Its folder has to exist.

    Yields:
        A path beside it to write to. It takes the file's place when the block ends, and is deleted where the block raises.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(path)
    temporary = temporary_name(target)
    temporary.touch()
    usual = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        temporary.chmod(usual)  # safetensors would leave it readable by its owner only
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any, **options: Any) -> None:
    """Write a value as JSON, whole or not at all.

    Args:
        path: the file. Its folder has to exist.
        value: what `json.dumps` takes.
        options: of `json.dumps`; `indent=2` where none is given.

    Raises:
        OSError: the folder cannot be written.
        TypeError, ValueError: the value cannot be written as JSON; nothing is written.
    """
    text = json.dumps(value, **{"indent": 2, **options}) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str], error: type[Exception] = DataError, kind: type = dict) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        error: the class of the error raised.
        kind: the Python type that the value must have: `dict`, `list` …; `object` allows any.

    Raises:
        error: no such file, not readable, not JSON, nested too deeply, or a value of another kind; names the file.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} cannot be read as JSON: {problem}") from None
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "object", list: "list", str: "string"}
        raise error(f"{path}: expected a JSON {names.get(kind, kind.__name__)}, got {type(value).__name__}")
    return value


@contextmanager
def swapped_folder(target: str | os.PathLike[str], keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Write a folder whole or not at all: beside its place first, then swapped in.

    A folder that is there already stays as it is until the new one is complete, and its place is empty only between two
    renames. Killed before them, the old folder is untouched.

    Args:
        target: the folder. The folders above it are made.
        keep: which files and folders at the top of the old folder go on in the new one, where that has none of their
            name; None: none do.

    Yields:
        An empty folder to write into.

    Raises:
        OSError: `target` is a file, or the place cannot be written; the old folder is there unchanged.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; a folder is to be written there")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_name(target), temporary_name(target)
    temporary.mkdir()
    usual = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(usual & 0o666)
        for path in sorted(target.iterdir()) if keep is not None and target.is_dir() else ():
            if keep is not None and keep(path) and not (temporary / path.name).exists():
                _link(path, temporary / path.name)
        if target.is_dir():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            if old.is_dir():
                os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same files under another name; copied where the file system has no hard links."""

    def link_or_copy(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link_or_copy)
    else:
        link_or_copy(str(source), str(target))
