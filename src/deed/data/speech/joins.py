"""Clips of one voice joined, with pauses, to recordings of the length that people transcribe: of seconds, up to what Whisper
reads at once, and of minutes.

What is trained on is joined anew in each round, at random, from a seed; what is scored is always the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers

import numpy as np

from deed.utils.audio import RATE

from .augment import augmented
from .clips import Clip

SHORTEST, LONGEST = 5.0, 28.0  # seconds of a joined recording; Whisper reads 30 at once
LEARNED_FROM = 12.0  # seconds of a joined recording in training: its encoder takes as long over 5 as over 28
PAUSE = (0.25, 0.9)  # seconds between two clips
SINGLE = 0.12  # of the clips of a round of training, how many also come alone, as short ones do in use
TOO_SHORT = 0.8  # seconds of a clip that is scored alone: below, even people guess


@dataclass(frozen=True)
class Recording:
    """Clips of one voice, one after the other.

    Attributes:
        clips: in their order.
        pauses: seconds of silence before each clip but the first.
        change: seed of the changes (noise, room, telephone …) that it is trained on with; None: as recorded.
    """

    clips: tuple[Clip, ...]
    pauses: tuple[float, ...] = ()
    change: int | None = None

    @property
    def text(self) -> str:
        """What is said; empty where one of the clips has no text."""
        return " ".join(clip.text for clip in self.clips) if all(clip.text for clip in self.clips) else ""

    @property
    def language(self) -> str:
        """Its code."""
        return self.clips[0].language

    @property
    def seconds(self) -> float:
        """How long it is, without changes."""
        return sum(clip.seconds for clip in self.clips) + sum(self.pauses)

    @property
    def name(self) -> str:
        """The voice and the prompts."""
        first, more = self.clips[0], len(self.clips) - 1
        return f"{first.speaker}/{first.name}" + (f"+{more}" if more else "")

    def samples(self) -> np.ndarray:
        """`[samples]` float32 on -1..1 at 16,000 a second.

        Raises:
            DataError: a damaged recording.
        """
        parts = [self.clips[0].samples()]
        for pause, clip in zip(self.pauses, self.clips[1:], strict=True):
            parts += [np.zeros(round(pause * RATE), np.float32), clip.samples()]
        joined = np.concatenate(parts)
        return joined if self.change is None else augmented(joined, self.change)


def joined(
    clips: Sequence[Clip], rng: random.Random, shortest: float = SHORTEST, longest: float = LONGEST
) -> Iterator[Recording]:
    """Every clip once, in random order, joined to recordings whose lengths are spread from `shortest` to `longest`; the last
    one may be shorter. Clips longer than `longest` are left out.

    Args:
        clips: of one voice.
        rng: draws order, lengths and pauses.
        shortest, longest: seconds.
    """
    left = [clip for clip in clips if clip.seconds <= longest]
    rng.shuffle(left)
    held: list[Clip] = []
    pauses: list[float] = []
    length, wanted = 0.0, rng.uniform(shortest, longest)
    for clip in left:
        pause = rng.uniform(*PAUSE)
        if held and length + pause + clip.seconds > longest:
            yield Recording(tuple(held), tuple(pauses))
            held, pauses, length, wanted = [], [], 0.0, rng.uniform(shortest, longest)
        if held:
            pauses.append(pause)
            length += pause
        held.append(clip)
        length += clip.seconds
        if length >= wanted:
            yield Recording(tuple(held), tuple(pauses))
            held, pauses, length, wanted = [], [], 0.0, rng.uniform(shortest, longest)
    if held:
        yield Recording(tuple(held), tuple(pauses))


def training(
    clips: Sequence[Clip], seed: int = 0, changed: float = 0.6, rounds: int | None = None
) -> Iterator[Recording]:
    """Recordings to train on, round after round: in each, every clip once in a join, and some of them alone, too.

    Args:
        clips: of the training split; those without text, too.
        seed: of everything that is drawn.
        changed: share of the recordings that come with noise, in a room, over a telephone …
        rounds: None: without end.
    """
    voices = _voices(clips)
    for number in numbers() if rounds is None else range(rounds):
        rng = random.Random(f"{seed}/{number}")
        found = [one for voice in voices.values() for one in joined(voice, rng, LEARNED_FROM)]
        found += [Recording((clip,)) for clip in clips if clip.seconds <= LONGEST and rng.random() < SINGLE]
        rng.shuffle(found)
        for one in found:
            change = rng.randrange(2**31) if rng.random() < changed else None
            yield Recording(one.clips, one.pauses, change)


def scored(clips: Sequence[Clip]) -> list[Recording]:
    """Recordings to score, always the same: every clip with a text once in a join, and every fourth of them alone; shuffled,
    so that the first few are of all voices.

    Args:
        clips: of one split.
    """
    rng = random.Random("scored")
    texts = [clip for clip in clips if clip.text]
    found = [one for voice in _voices(texts).values() for one in joined(voice, rng)]
    found += [Recording((clip,)) for clip in texts if TOO_SHORT <= clip.seconds <= LONGEST][::4]
    rng.shuffle(found)
    return found


def long_recordings(clips: Sequence[Clip], seconds: float = 180.0) -> list[Recording]:
    """For long form: all clips with texts, of each voice joined to recordings of about so many seconds, always the same.

    Args:
        clips: of one split.
        seconds: of each; the last of a voice may be shorter.
    """
    rng = random.Random("long")
    texts = [clip for clip in clips if clip.text]
    return [one for voice in _voices(texts).values() for one in joined(voice, rng, seconds * 0.9, seconds)]


def _voices(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    voices: dict[str, list[Clip]] = {}
    for clip in clips:
        voices.setdefault(clip.speaker, []).append(clip)
    return voices


__all__ = ["Recording", "joined", "long_recordings", "scored", "training"]
