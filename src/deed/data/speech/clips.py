"""Prompts as clips: what was said, by whom, and in which split.

A sentence belongs to one split, and so does a prompt's name: within a language, clips that say the same, or whose prompts have
the same name (another voice's take, maybe in other words), are divided together, by the SHA-256 of what they share. So nothing
that is scored is trained on in another take.
"""

from __future__ import annotations

import functools
import hashlib
import re
import wave
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from deed.errors import DataError
from deed.utils.audio import HEADERLESS, RATE, load_audio

from .packages import PROMPTS, Prompts, find_package, read_package

SUFFIXES = (*HEADERLESS, ".wav")
VALIDATION, TEST = 12, 24  # of a hundred groups, those below the first number and those below the second
HELD_OUT = "new_voice"  # the split of a voice that is never trained on
SPLITS = ("train", "validation", "test", HELD_OUT)

_NOTE = re.compile(r"\[[^\]]*\]|\([^)]*\)")
_WORDLESS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Clip:
    """A recorded prompt.

    Attributes:
        speaker, language: as in `Prompts`.
        name: of the prompt, as "digits/1"; voices share the names.
        text: what is said; empty where nobody wrote it down.
        suffix: of its file.
        content: the file itself.
        seconds: how long it is.
        split: one of `SPLITS`.
    """

    speaker: str
    language: str
    name: str
    text: str
    suffix: str
    content: bytes = field(repr=False)
    seconds: float
    split: str = "train"

    def samples(self) -> np.ndarray:
        """`[samples]` float32 on -1..1 at 16,000 a second.

        Raises:
            DataError: a damaged recording.
        """
        try:
            return load_audio(self.content, RATE, suffix=self.suffix)
        except DataError as error:
            raise DataError(f"{self.speaker}'s prompt {self.name}: {error}") from None


def read_transcripts(text: str) -> dict[str, str | None]:
    """Texts of prompts by name: lines `name: text`, `;` before comments.

    A text that is a note and nothing else ("[ascending tones]") is no speech: None. Where a note stands beside words, nobody
    can tell whether it was spoken: the text is empty. Signs in brackets ("at [@]") are dropped.

    Args:
        text: of a package's `core-sounds-LANGUAGE.txt`.
    """
    found: dict[str, str | None] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        name, colon, said = line.partition(":")
        if not colon or line.lstrip().startswith(";"):
            continue
        notes = [note for note in _NOTE.findall(said) if any(letter.isalpha() for letter in note)]
        plain = " ".join(_NOTE.sub(" ", said).split())
        if not any(letter.isalnum() for letter in plain):
            found[name.strip()] = None
        else:
            found[name.strip()] = "" if notes else plain
    return found


def same_sentence(text: str) -> str:
    """A text without case, punctuation and spaces: what two takes of one sentence share."""
    return _WORDLESS.sub(" ", text.casefold()).strip()


def load_clips(folder: Path, prompts: Sequence[Prompts] = PROMPTS) -> list[Clip]:
    """The clips of all packages that are in a folder, in an order that is always the same.

    Args:
        folder: with `.deb` files.
        prompts: which of them.

    Raises:
        DataError: none of them is there, or one is damaged.
    """
    stamps = tuple((str(path), path.stat().st_mtime_ns) for path in sorted(folder.glob("*.deb")))
    return list(_load(folder, tuple(prompts), stamps))


@functools.lru_cache(maxsize=2)
def _load(folder: Path, prompts: tuple[Prompts, ...], stamps: tuple[tuple[str, int], ...]) -> tuple[Clip, ...]:
    """`stamps` only says whether what was read before is still there: 80 MB, and two seconds to read them."""
    found: list[Clip] = []
    for one in prompts:
        recordings, texts = find_package(one.recordings, folder), find_package(one.transcripts or "-", folder)
        if recordings is None or (one.transcripts and texts is None):
            continue
        said: Mapping[str, str | None] = {}
        if texts is not None:
            for _, content in read_package(texts, (".txt",)):
                said = {**said, **read_transcripts(content.decode("utf-8", "replace"))}
        found += _clips_of(one, recordings, said)
    if not found:
        raise DataError(
            f"{folder} has none of the packages of recorded prompts ({prompts[0].recordings} and "
            f"{prompts[0].transcripts or 'others'}); apt-get download puts them there"
        )
    return tuple(_divided(found, {one.speaker for one in prompts if one.held_out}))


def _clips_of(one: Prompts, package: Path, said: Mapping[str, str | None]) -> list[Clip]:
    clips = []
    for file, content in read_package(package, SUFFIXES):
        path = PurePosixPath(file)
        name, suffix = str(path.with_suffix("")), path.suffix
        text = said.get(name, "")
        # Silence, tones and monkeys are no speech, nor is a prompt without words in whatever language.
        if text is None or name.startswith("silence/") or re.search(r"(^|/)(beep|beeperr|tt-monkeys)$|-2tone$", name):
            continue
        seconds = _seconds(content, suffix)
        if seconds:
            clips.append(Clip(one.speaker, one.language, name, text, suffix, content, seconds))
    return sorted(clips, key=lambda clip: clip.name)


def _seconds(content: bytes, suffix: str) -> float:
    """0 for a damaged or empty one."""
    if suffix in HEADERLESS:
        return len(content) / HEADERLESS[suffix][1]
    try:
        with wave.open(BytesIO(content)) as file:
            return file.getnframes() / file.getframerate()
    except (wave.Error, EOFError):
        return 0.0


def _divided(clips: Sequence[Clip], held_out: set[str]) -> list[Clip]:
    """The clips with their splits: by groups that share a sentence or a name, see the module."""
    parent: dict[tuple[str, str, str], tuple[str, str, str]] = {}

    def root(key: tuple[str, str, str]) -> tuple[str, str, str]:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for clip in clips:
        name = root((clip.language, "name", clip.name))
        if clip.text:
            said = root((clip.language, "said", same_sentence(clip.text)))
            parent[max(name, said)] = min(name, said)
    divided = []
    for clip in clips:
        split = HELD_OUT if clip.speaker in held_out else _split(root((clip.language, "name", clip.name)))
        divided.append(replace(clip, split=split))
    return divided


def _split(group: Iterable[str]) -> str:
    number = int(hashlib.sha256("/".join(group).encode()).hexdigest(), 16) % 100
    return "validation" if number < VALIDATION else "test" if number < TEST else "train"


__all__ = ["HELD_OUT", "SPLITS", "Clip", "load_clips", "read_transcripts", "same_sentence"]
