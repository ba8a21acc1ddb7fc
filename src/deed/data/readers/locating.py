"""Where a data set's files lie: the file of a split, and pictures looked for in several places."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deed.errors import DataError, MissingPictureError


def find_split(
    data: Path, split: str, patterns: Sequence[str], derived: Mapping[str, str] | None = None
) -> tuple[str, Path]:
    """The file of a split, and the split's name as the file has it (`val` and `validation` are the same).

    Args:
        data: the data set's folder.
        split: its name.
        patterns: paths in the folder with `{split}` for the name, the preferred first.
        derived: splits that are taken out of another's file: `{"validation": "train"}`.

    Raises:
        DataError: no such folder; none of the files; or none for this split, with the names there are.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; looked for {patterns[0]} in it")
    names = [split, {"val": "validation", "validation": "val"}.get(split, split)]
    names += [derived[name] for name in names if derived and name in derived]
    for name in names:
        for pattern in patterns:
            path = data / pattern.format(split=name)
            if path.is_file():
                return name, path
    found = {name for pattern in patterns for name in _names(data, pattern)}
    if not found:
        raise DataError(f"{data}: no {' or '.join(patterns)} in this folder")
    found |= {name for name, source in (derived or {}).items() if source in found}
    raise DataError(f"{data}: no split {split!r}; found {', '.join(sorted(found))}")


def _names(data: Path, pattern: str) -> Iterator[str]:
    first, *rest = pattern.split("{split}")
    shape = re.compile(re.escape(first) + "([^/]+)" + r"\1".join(map(re.escape, rest)))
    for path in data.glob(pattern.format(split="*")):
        if match := shape.fullmatch(path.relative_to(data).as_posix()):
            yield match[1]


def existing_file(candidates: Sequence[Path]) -> Path | None:
    """The first of the paths that is a file with something in it."""
    for path in candidates:
        # False also for names that no file system takes. A download that failed leaves an empty file.
        if os.path.isfile(path) and os.path.getsize(path):
            return path
    return None


def existing_image(candidates: Sequence[Path], where: str, field: str) -> Path:
    """The first of the paths that is a file with something in it; it is not opened.

    Args:
        candidates: where the picture may be.
        where: file and entry.
        field: which of its fields names the picture.

    Raises:
        MissingPictureError: none is.
    """
    if (path := existing_file(candidates)) is not None:
        return path
    places = [name if len(name) <= 300 else f"{name[:280]}…" for name in map(str, candidates)]
    shown = " or ".join(places[:4]) + (f" or in {len(places) - 4} other places" if len(places) > 4 else "")
    raise MissingPictureError(f"{where}: {field!r}: expected an image file at {shown}, found none")
