"""Speech that espeak-ng speaks: more words and sentences to train on than the recorded prompts have. It is never scored."""

from __future__ import annotations

import functools
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deed.errors import DataError
from deed.utils.audio import load_audio

from .clips import Clip
from .packages import find_package, read_package

TEXTS = {"en": "fortunes", "es": "fortunes-es", "it": "fortunes-it", "ru": "fortunes-ru"}
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")
WORDS = (4, 40)  # of a sentence
LETTERS = 10.5  # a second, of a slow voice

_SENTENCE = re.compile(r"[^.!?…]+[.!?…]+")
_ODD = re.compile(r"[^\w\s,;:.!?¿¡…'’«»\"-]|_|\d{5}|^\W*$")


@functools.lru_cache
def sentences(language: str, folder: Path) -> tuple[str, ...]:
    """Sentences of a language out of Debian's package of fortune cookies, in the package's order, none twice.

    Args:
        language: a key of `TEXTS`.
        folder: with the `.deb` file.

    Raises:
        DataError: no such language, or its package is not there or damaged.
    """
    if language not in TEXTS:
        raise DataError(f"there are sentences to speak in {', '.join(TEXTS)}, not in {language!r}")
    package = find_package(TEXTS[language], folder)
    if package is None:
        raise DataError(f"{folder} has no package {TEXTS[language]}; apt-get download puts it there")
    found: dict[str, None] = {}
    for name, content in read_package(package, inside="/games/fortunes/"):
        if name.endswith(".dat"):  # where its cookies begin
            continue
        for cookie in content.decode("utf-8", "replace").split("\n%"):
            for match in _SENTENCE.findall(" ".join(cookie.split())):
                sentence = match.strip(' -%"')
                if WORDS[0] <= len(sentence.split()) <= WORDS[1] and not _ODD.search(sentence):
                    found[sentence] = None
    return tuple(found)


@dataclass(frozen=True)
class Spoken(Clip):
    """A sentence that espeak-ng speaks when its samples are asked for; until then `seconds` is a guess by its letters, rather
    too long.

    Attributes:
        seed: of the voice, its pitch and its speed.
    """

    seed: int = 0

    def samples(self) -> np.ndarray:
        """As of `Clip`.

        Raises:
            DataError: espeak-ng is not installed, or does not speak that language.
        """
        if shutil.which("espeak-ng") is None:
            raise DataError("synthetic speech takes espeak-ng, which is not installed (apt-get install espeak-ng)")
        if not speaks(self.language):
            raise DataError(f"espeak-ng does not speak {self.language!r}; espeak-ng --voices lists what it does")
        rng = random.Random(self.seed)
        voice = f"{self.language}+{rng.choice(VARIANTS)}"
        speed, pitch = rng.randint(125, 180), rng.randint(25, 75)
        command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin"]
        got = subprocess.run(command, input=self.text.encode(), capture_output=True)
        if got.returncode or len(got.stdout) <= 44:  # a header and nothing else
            raise DataError(f"espeak-ng did not speak {self.text!r}: {got.stderr.decode('utf-8', 'replace').strip()}")
        return load_audio(got.stdout)


def spoken(text: str, language: str, seed: int) -> Spoken:
    """A sentence to be spoken.

    Args:
        text: what is said.
        language: its code.
        seed: of the voice, its pitch and its speed.
    """
    seconds = 0.5 + len(text) / LETTERS
    return Spoken(f"espeak-{language}", language, f"spoken/{seed}", text, ".wav", b"", seconds, "train", seed)


@functools.lru_cache
def speaks(language: str) -> bool:
    """Whether espeak-ng has a voice for a language; asked for one that it does not know, it would speak another."""
    got = subprocess.run(["espeak-ng", f"--voices={language}"], capture_output=True)
    return len(got.stdout.splitlines()) > 1  # the first names the columns


def speaking(folder: Path, seed: int = 0) -> Iterator[Spoken]:
    """Clips without end, of the languages in turn.

    Args:
        folder: with the packages of texts.
        seed: of everything that is drawn.

    Raises:
        DataError: none of the packages is there.
    """
    texts = {one: sentences(one, folder) for one in TEXTS if find_package(TEXTS[one], folder) is not None}
    if not texts:
        raise DataError(f"{folder} has none of the packages {', '.join(TEXTS.values())} with texts to speak")
    rng = random.Random(seed)
    while True:
        for language, lines in texts.items():
            yield spoken(rng.choice(lines), language, rng.randrange(2**31))


__all__ = ["Spoken", "sentences", "speaking", "speaks", "spoken"]
