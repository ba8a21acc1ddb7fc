"""Sentences to speak, and espeak-ng speaking them."""

import itertools
import shutil

import pytest

from data.speech.debs import make_deb
from deed.data.speech.synthetic import sentences, speaking, spoken
from deed.errors import DataError

COOKIES = """Men never make passes at girls wearing glasses.
%
Too short.
%
What is on the line, goes on
over to the next one! And this is a second sentence of it.
\t\t-- Somebody
%
A line of code: for (i = 0; i < n; i++) { x = y @ z; } is nothing to speak.
%
"""


@pytest.fixture
def folder(tmp_path):
    cookies = {"usr/share/games/fortunes/all": COOKIES.encode(), "usr/share/games/fortunes/all.dat": b"\0" * 8}
    make_deb(tmp_path, "fortunes", {**cookies, "usr/share/doc/fortunes/copyright": b"This is nothing to be spoken."})
    return tmp_path


def test_sentences_are_those_that_can_be_spoken(folder):
    assert list(sentences("en", folder)) == [
        "Men never make passes at girls wearing glasses.",
        "What is on the line, goes on over to the next one!",
        "And this is a second sentence of it.",
    ]


def test_no_texts(folder, tmp_path):
    with pytest.raises(DataError, match="not in 'fr'"):
        sentences("fr", folder)
    with pytest.raises(DataError, match="no package fortunes-es"):
        sentences("es", folder)
    with pytest.raises(DataError, match="none of the packages"):
        next(speaking(tmp_path / "nothing"))


def test_without_espeak(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="espeak-ng"):
        spoken("Hello.", "en", 0).samples()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_a_sentence_is_spoken(folder):
    first, again, other = (spoken("Hello, how are you today?", "en", seed) for seed in (0, 0, 1))
    assert first == again != other
    samples = first.samples()
    assert 0.8 < len(samples) / 16_000 < first.seconds < 4
    assert abs(samples).max() > 0.05 and len(samples) != len(other.samples())
    assert len({clip.text for clip in itertools.islice(speaking(folder), 20)}) == 3
    with pytest.raises(DataError, match="does not speak"):
        spoken("Hello.", "xx", 0).samples()
