"""What `deed bench speech` transcribes: recordings whose words are known, in batches of one language.

Recorded prompts of Debian's packages (`deed.data.speech`, the test split, of which nothing was trained on), or a folder of
sound files, each with its words in a text file of its name beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deed.data.speech.clips import load_clips
from deed.data.speech.joins import long_recordings, scored
from deed.errors import DataError
from deed.metrics.speech import normalized
from deed.utils.audio import RATE, SUFFIXES, load_audio

LONG = 150.0  # seconds of a long recording
SHORT = 30.0  # seconds that Whisper reads at once


@dataclass(frozen=True)
class Sound:
    """A recording.

    Attributes:
        name: for the record.
        language: its code.
        text: what is said.
        recording: whose `samples()` it has.
    """

    name: str
    language: str
    text: str
    recording: Any

    @cached_property
    def samples(self) -> np.ndarray:
        """`[samples]` float32 on -1..1 at 16,000 a second."""
        found: np.ndarray = self.recording.samples()
        return found

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / RATE


@dataclass(frozen=True)
class File:
    """A sound file, read when it is asked for."""

    path: Path

    def samples(self) -> np.ndarray:
        """`[samples]`, as of `Sound`."""
        return load_audio(self.path, RATE)


def find_sounds(folder: Path, language: str | None, split: str = "test") -> tuple[list[Sound], list[Sound]]:
    """Short and long recordings of a folder.

    Args:
        folder: of `.deb` packages with prompts, or of sound files with texts beside them.
        language: of prompts, only this one; None: all. Of sound files, the one that they are in; None: English.
        split: of the prompts.

    Raises:
        DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder with recordings")
    if any(folder.glob("*.deb")):
        clips = [c for c in load_clips(folder) if c.split == split and language in (None, c.language)]
        short, long = (
            [Sound(one.name, one.language, one.text, one) for one in found if normalized(one.text, one.language)]
            for found in (scored(clips), long_recordings(clips, LONG))
        )
    else:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.with_suffix(".txt").is_file())
        sounds = [
            Sound(p.name, language or "en", p.with_suffix(".txt").read_text("utf-8").strip(), File(p)) for p in paths
        ]
        short = [s for s in sounds if s.seconds <= SHORT]
        long = [s for s in sounds if s.seconds > SHORT]
    if not short and not long:
        raise DataError(
            f"{folder} has no recordings whose words are known{f' in {language!r}' if language else ''}: neither Debian's "
            "packages of prompts nor sound files with a .txt of their name beside them"
        )
    return short, long


def by_language(sounds: Sequence[Sound]) -> list[Sound]:
    """The languages taking turns, each in its order.

    Args:
        sounds: in any order.
    """
    queues: dict[str, list[Sound]] = {}
    for sound in sounds:
        queues.setdefault(sound.language, []).append(sound)
    rows = max(map(len, queues.values()), default=0)
    return [queue[i] for i in range(rows) for queue in queues.values() if i < len(queue)]


def batches_of(sounds: Sequence[Sound], size: int) -> Iterator[list[Sound]]:
    """Full batches of one language, the languages taking turns; where none is full, what there is of the first.

    Args:
        sounds: in any order.
        size: of a batch.
    """
    queues: dict[str, list[Sound]] = {}
    for sound in sounds:
        queues.setdefault(sound.language, []).append(sound)
    if not any(len(queue) >= size for queue in queues.values()):
        yield from (queue for queue in list(queues.values())[:1])
        return
    at = 0
    while any(len(queue) >= at + size for queue in queues.values()):
        for queue in queues.values():
            if len(queue) >= at + size:
                yield queue[at : at + size]
        at += size
