"""Transcripts as files that players and editors read: plain text, SubRip (.srt), WebVTT (.vtt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("txt", "json", "srt", "vtt")


def to_srt(chunks: Sequence[Mapping[str, Any]]) -> str:
    """Chunks with their `"timestamp"` in seconds as SubRip: numbered, hours to milliseconds behind a comma."""
    return "".join(
        f"{i}\n{clock(chunk['timestamp'][0], ',')} --> {clock(chunk['timestamp'][1], ',')}\n{safe(chunk['text'])}\n\n"
        for i, chunk in enumerate(chunks, 1)
    )


def to_vtt(chunks: Sequence[Mapping[str, Any]]) -> str:
    """Chunks with their `"timestamp"` in seconds as WebVTT."""
    cues = (
        f"{clock(chunk['timestamp'][0], '.')} --> {clock(chunk['timestamp'][1], '.')}\n{safe(chunk['text'])}\n\n"
        for chunk in chunks
    )
    return "WEBVTT\n\n" + "".join(cues)


def clock(seconds: float, point: str) -> str:
    """`00:01:02.500`.

    Args:
        seconds: of at least 0.
        point: between seconds and milliseconds.
    """
    rest = round(1000 * max(0.0, seconds))
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def safe(text: str) -> str:
    """Text that cannot be taken for the times of the next cue."""
    return " ".join(text.split()).replace("-->", "->")
