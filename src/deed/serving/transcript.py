"""What a transcript is made of: segments with times and log-probabilities, and Whisper's text while it is decoded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from .detokenize import Detokenizer
from .served import ServedModel
from .ticket import Ticket, Token

SMALLEST = 1e-30  # a probability that float32 makes 0


@dataclass
class Segment:
    """A part of a transcript.

    Attributes:
        start, end: seconds from the recording's beginning.
        text: what was said.
        tokens: of the text.
        logprobs: of each; none where they are not known.
        words: `{"word", "start", "end", "depth"}`, where their times were asked for.
    """

    start: float
    end: float
    text: str
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    words: list[dict[str, Any]] = field(default_factory=list)

    def to_openai(self, number: int, temperature: float = 0.0) -> dict[str, Any]:
        """As OpenAI's `verbose_json` has it, without what is not known here.

        Args:
            number: of the segment.
            temperature: that it was decoded at.
        """
        text = self.text.encode()
        ratio = len(text) / len(zlib.compress(text)) if text else 0.0
        told = {"id": number, "seek": 0, "start": self.start, "end": self.end, "text": self.text}
        told |= {"tokens": self.tokens, "temperature": temperature, "compression_ratio": ratio}
        if self.logprobs:
            told["avg_logprob"] = sum(self.logprobs) / len(self.logprobs)
        return told


class WhisperText:
    """The text of Whisper's tokens as they come. With times it is given out by segments, since what follows the last pair of
    times in a window is decoded again in the next (`_retrieve_segment`, transformers 5.23).

    Args:
        served: the model.
        timed: whether tokens of time are generated.
    """

    def __init__(self, served: ServedModel, timed: bool) -> None:
        self.served, self.timed = served, timed
        self.first_time = int(served.model.generation_config.no_timestamps_token_id) + 1
        self._piece, self._pairs = 0, 0
        self._open: list[int] = []  # tokens not yet given out
        self._running = Detokenizer(served.tokenizer)
        self._said = False

    def add(self, token: Token) -> str:
        """What a token lets be given out; maybe nothing."""
        given = ""
        if token.piece != self._piece:
            given = self._end_piece()
            self._piece = token.piece
        if not self.timed:
            return self._spaced(given + self._running.add(token.id))
        is_time = token.id >= self.first_time
        if is_time and self._open and self._open[-1] >= self.first_time and len(self._open) > 1:
            self._pairs += 1
            given += self._text()
        self._open.append(token.id)
        return self._spaced(given)

    def finish(self) -> str:
        """What is left, at the end."""
        return self._spaced(self._end_piece())

    def _end_piece(self) -> str:
        if not self.timed:
            text = self._running.finish()
            self._running = Detokenizer(self.served.tokenizer)
            return text
        ends = self.served.model.generation_config.eos_token_id
        open_ids = [i for i in self._open if i != ends]
        ends_in_time = len(open_ids) > 1 and open_ids[-1] >= self.first_time > open_ids[-2]
        text = self._text() if not self._pairs or ends_in_time else ""
        self._open, self._pairs = [], 0
        return text

    def _text(self) -> str:
        text = str(self.served.tokenizer.decode(self._open, skip_special_tokens=True))
        self._open = []
        return text

    def _spaced(self, text: str) -> str:
        """The text, without the space that the first one begins with."""
        if not self._said:
            text = text.lstrip()
        self._said = self._said or bool(text)
        return text


def tokens_and_logprobs(ticket: Ticket) -> tuple[list[int], list[float]]:
    """A finished ticket's tokens, and the log-probability of each; none where one is not known."""
    [*pieces] = pieces_of(ticket)
    return pieces[0] if pieces else ([], [])


def pieces_of(ticket: Ticket) -> Iterator[tuple[list[int], list[float]]]:
    """As `tokens_and_logprobs`, for each of the generations that a finished ticket's answer took, in their order."""
    events = [event for event in ticket if isinstance(event, Token)]
    for _, piece in groupby(sorted(events, key=lambda event: event.piece), key=lambda event: event.piece):
        tokens = list(piece)
        chances = [token.confidence for token in tokens if token.confidence is not None]
        logs = [math.log(max(chance, SMALLEST)) for chance in chances]
        yield [token.id for token in tokens], logs if len(logs) == len(tokens) else []


def logprobs_of_segment(segment: Mapping[str, Any], pieces: list[tuple[list[int], list[float]]]) -> list[float]:
    """The log-probabilities of a segment of Whisper's; none where they are not known.

    Args:
        segment: as `generate()` returns it: `result` is the whole generation that it is of, `idxs` its place there.
        pieces: generations, those that are over dropped by this.
    """
    result = segment["result"]
    whole = (result if isinstance(result, torch.Tensor) else result["sequences"]).tolist()
    for i, (tokens, logs) in enumerate(pieces):
        if tokens and whole[-len(tokens) :] == tokens:
            del pieces[:i]
            prompt = len(whole) - len(tokens)
            first, last = (max(0, int(at) - prompt) for at in segment["idxs"])
            return logs[first:last]
    return []
