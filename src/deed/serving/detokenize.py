"""Tokens to text as they come: what each adds, nothing that a later one may change, and an end at the texts asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

WINDOW = 24  # tokens that are decoded again for each new one


class Detokenizer:
    """The running text of one answer.

    Args:
        tokenizer: of the model.
        stop: texts at which the answer ends; they are not given out, nor what may yet become one of them.
        keep_special: special tokens are a part of the text (location bins of OFA).

    Attributes:
        text: given out so far.
        stopped: whether a stop text was reached.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), keep_special: bool = False) -> None:
        self.tokenizer, self.stop, self.keep_special = tokenizer, [s for s in stop if s], keep_special
        self.text, self.stopped = "", False
        self._ids: list[int] = []
        self._before = 0  # tokens before the window, whose text is settled
        self._window = ""  # the text of the window's tokens, as far as it was taken
        self._held = ""  # taken, not yet given out

    def add(self, token: int) -> str:
        """What a token adds; maybe nothing yet."""
        self._ids.append(token)
        context = self._decode(self._ids[self._before : -1])
        longer = self._decode(self._ids[self._before :])
        if longer.endswith("�"):  # a letter of several tokens, not complete
            return ""
        new = longer[len(self._window) :] if longer.startswith(self._window) else longer[len(context) :]
        self._window = longer
        if len(self._ids) - self._before > 2 * WINDOW:
            self._before = len(self._ids) - WINDOW
            self._window = self._decode(self._ids[self._before :])
        return self._give(new)

    def finish(self) -> str:
        """What was held back, at the end."""
        rest = self._decode(self._ids[self._before :])
        new = rest[len(self._window) :] if rest.startswith(self._window) else ""
        self._window = rest
        return self._give(new, last=True)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=not self.keep_special))

    def _give(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        self._held += new
        found = [at for at in (self._held.find(s) for s in self.stop) if at >= 0]
        if found:
            self.stopped = True
            out, self._held = self._held[: min(found)], ""
        else:
            keep = 0 if last else max((_overlap(self._held, s) for s in self.stop), default=0)
            cut = len(self._held) - keep
            out, self._held = self._held[:cut], self._held[cut:]
        self.text += out
        return out


def _overlap(text: str, stop: str) -> int:
    """How many letters at the end of a text are the beginning of a stop text."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class StopTexts(StoppingCriteria):
    """Ends one row at one of the texts. Transformers' `stop_strings` go through the whole vocabulary for each new text, and do
    not work with every tokenizer.

    Args:
        text: made for this row, with the texts.
    """

    def __init__(self, text: Detokenizer) -> None:
        self.text, self._seen = text, 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """`[1]` bool.

        Args:
            input_ids: `[1, length]`, the newest token last.
            scores: not looked at.
            kwargs: not looked at.
        """
        self._seen = self._seen or input_ids.shape[1] - 1  # what stood before the first new token is the prompt
        for token in input_ids[0, self._seen :].tolist():
            self.text.add(token)
        self._seen = input_ids.shape[1]
        return input_ids.new_full((1,), self.text.stopped, dtype=torch.bool)
