"""Words out of tokens, subtitles out of chunks."""

import pytest

from deed.pipelines.subtitles import clock, to_srt, to_vtt
from deed.pipelines.words import to_words

TEXTS = {
    1: " Hello",
    2: ",",
    3: " wor",
    4: "ld",
    5: ".",
    6: "",
    7: "日",
    8: "本",
    9: "。",
    10: " $",
    11: "5",
    12: " (",
    13: "x",
}


def decode(tokens):
    if tokens == [20]:
        return "\ufffd"
    return "é" if tokens == [20, 21] else "".join(TEXTS[token] for token in tokens)


def test_signs_belong_to_what_they_follow_and_specials_to_nothing():
    words = to_words([6, 1, 2, 3, 4, 5, 6], [9, 1, 3, 2, 4, 6, 9], None, 0.0, decode)
    assert words == [{"text": "Hello,", "depth": 2.0}, {"text": "world.", "depth": 4.0}]


def test_scripts_without_spaces_and_characters_of_two_tokens():
    assert [w["text"] for w in to_words([7, 8, 9], [1, 1, 1], None, 0.0, decode)] == ["日", "本。"]
    assert [w["text"] for w in to_words([1, 20, 21], [1, 2, 3], None, 0.0, decode)] == ["Helloé"]
    assert [w["text"] for w in to_words([1, 10, 11, 12, 13], [], None, 0.0, decode)] == ["Hello", "$5", "(x"]


def test_times_of_words_lie_between_those_of_tokens():
    words = to_words([1, 2, 3, 4], [], [0.5, 0.6, 1.0, 1.25], 0.1, decode)
    assert words == [
        {"text": "Hello,", "start": 0.1, "end": 0.6},
        {"text": "world", "start": 0.6, "end": 1.25},
    ]


@pytest.mark.parametrize("seconds, text", [(0, "00:00:00,000"), (3661.9996, "01:01:02,000"), (-1, "00:00:00,000")])
def test_clock(seconds, text):
    assert clock(seconds, ",") == text


def test_subtitles():
    chunks = [{"timestamp": (0.0, 1.5), "text": "a --> b"}, {"timestamp": (1.5, 2.0), "text": " two\nlines "}]
    assert to_srt(chunks).splitlines()[:3] == ["1", "00:00:00,000 --> 00:00:01,500", "a -> b"]
    assert to_vtt(chunks).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na -> b\n\n")
    assert "two lines" in to_vtt(chunks)
