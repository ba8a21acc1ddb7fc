"""Which recordings `deed transcribe` reads, how they are put into batches, and where their texts go."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STDIN = "-"


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Check a choice.

    Args:
        option: its name.
        value: as given.
        choices: what it may be.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def found(files: list[str]) -> Iterator[str]:
    """Files as given, those of folders (by their names' endings) in order, each once.

    Raises:
        ValueError: a folder without a recording.
    """
    from deed.utils.audio import SUFFIXES

    seen = set()
    for name in files:
        inside = [name]
        if name != STDIN and Path(name).is_dir():
            inside = [str(p) for p in sorted(Path(name).rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not inside:
                raise ValueError(f"{name} is a folder without a sound or video file")
        for file in inside:
            if file not in seen:
                seen.add(file)
                yield file


def check_names(recordings: list[str]) -> None:
    """Raises:
    ValueError: two recordings would be written to one file.
    """
    stems: dict[str, str] = {}
    for file in recordings:
        stem = stem_of(file)
        if stem in stems:
            raise ValueError(f"{stems[stem]} and {file} would both be written to {stem}; give them in two calls")
        stems[stem] = file


def stem_of(file: str) -> str:
    """The name of the written file, without its ending."""
    return "stdin" if file == STDIN else Path(file).stem


def batched(kept: list[Any], longest: int, size: int) -> Iterator[list[Any]]:
    """Recordings in their order, `(file, samples)`: short ones together, long ones alone.

    Args:
        kept: all of them.
        longest: samples of a short one.
        size: of a batch.
    """
    part: list[Any] = []
    for one in kept:
        if len(one[1]) > longest:
            if part:
                yield part
                part = []
            yield [one]
            continue
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def write(told: dict[str, Any], form: str, output: Path | None, many: bool) -> None:
    """One recording's result, to a file of its own or to standard output.

    Args:
        told: the result, with its `"file"`.
        form, output: as for `transcribe`.
        many: whether there are other recordings: then text says whose it is.
    """
    from deed.pipelines.subtitles import to_srt, to_vtt
    from deed.utils.files import atomic_write

    if form == "json":
        text = json.dumps(told, ensure_ascii=False, default=float) + "\n"
    elif form == "txt":
        text = told["text"] + "\n"
        if many and output is None:
            text = f"{told['file']}: {text}"
    else:
        text = (to_srt if form == "srt" else to_vtt)(told["chunks"])
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / f"{stem_of(told['file'])}.{form}") as temporary:
        temporary.write_text(text, encoding="utf-8")
