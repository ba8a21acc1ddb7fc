"""How exact decoding chooses tokens: the numbers that sampling draws, and where two tokens are as good as tied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .exact_replay import Replay
from .sampling import best_token

NEAR = 4  # two values are a near tie up to so many times the dtype's rounding


def verdicts(values: torch.Tensor, dtype: torch.dtype) -> tuple[list[int], list[bool]]:
    """The best token of each position, the first of several, and whether that is a near tie: where the second largest value
    is within rounding of the largest, a pass over other positions, or other rows, may find them the other way round.

    On a CPU by NumPy, which looks through 50,000 values in 4 us where PyTorch takes 100.

    Args:
        values: `[cells, vocab]`.
        dtype: the model's.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        best = values.argmax(-1)
        top, second = values.topk(2).values.unbind(-1)
    else:
        found = values.detach().numpy()
        places = found.argmax(-1)
        best, each = torch.from_numpy(places), range(len(found))
        others = [max(_largest(found[i, : places[i]]), _largest(found[i, places[i] + 1 :])) for i in each]
        top = values[torch.arange(len(found)), best]
        second = torch.tensor(others, dtype=values.dtype)
    near = top - second <= top.abs() * (NEAR * torch.finfo(dtype).eps)
    return best.tolist(), near.tolist()


def _largest(values: np.ndarray) -> float:
    return float(values.max(initial=-np.inf))


def confident(logits: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """The largest probability of each row, and the token that has it, `[rows]` long.

    Args:
        logits: `[rows, vocab]`.
    """
    best = best_token(logits)
    top = logits.gather(-1, best)
    return (top - logits.logsumexp(-1, keepdim=True)).exp_()[:, 0].tolist(), best[:, 0]


class Choice:
    """Which token logits give, after processors, greedily or by the numbers that sampling draws.

    Args:
        replay: the processors.
        noise: the numbers; None: greedy search.
        prompt: tokens before the first that is chosen.
    """

    def __init__(self, replay: Replay, noise: Noise | None, prompt: int) -> None:
        self.replay, self.noise, self.prompt = replay, noise, prompt

    @property
    def plain(self) -> bool:
        """Whether the largest logit is the token, whatever came before."""
        return self.noise is None and not self.replay

    def tokens(self, logits: torch.Tensor, prefixes: Sequence[list[int]], rows: list[int]) -> torch.Tensor:
        """Tokens `[cells]`.

        Args:
            logits: `[cells, vocab]`.
            prefixes: the tokens before each cell.
            rows: whose they are.
        """
        return best_token(self.values(self.processed(logits, prefixes, rows), prefixes, rows))[:, 0]

    def processed(self, logits: torch.Tensor, prefixes: Sequence[list[int]], rows: list[int]) -> torch.Tensor:
        """Processed scores, float32 as in Transformers' loop.

        Args:
            logits, prefixes, rows: see `tokens`.
        """
        return self.replay(prefixes, rows, logits.to(torch.float32))

    def values(self, scores: torch.Tensor, prefixes: Sequence[list[int]], rows: list[int]) -> torch.Tensor:
        """What is largest at the token to take.

        Args:
            scores: `[cells, vocab]`, processed.
            prefixes, rows: see `tokens`.
        """
        if self.noise is None:
            return scores
        steps = [len(prefix) - self.prompt for prefix in prefixes]
        return scores.softmax(-1) / self.noise.at(steps, rows)


class Noise:
    """The numbers that sampling draws, `[rows, vocab]` for a step, in the order in which `torch.multinomial` would.

    Args:
        n_rows: rows of the batch.
        vocab: size of the vocabulary.
        device: of the scores.
    """

    def __init__(self, n_rows: int, vocab: int, device: torch.device) -> None:
        self.shape, self.device = (n_rows, vocab), device
        self.drawn: dict[int, torch.Tensor] = {}
        self.states: list[torch.Tensor] = []  # of the generator, before each step's numbers

    def at(self, steps: list[int], rows: list[int]) -> torch.Tensor:
        """`[cells, vocab]`: the numbers of these rows at these steps."""
        while len(self.states) <= max(steps):
            self.states.append(self._state())
            self.drawn[len(self.states) - 1] = torch.empty(self.shape, device=self.device).exponential_()
        return torch.stack([self.drawn[step][r] for step, r in zip(steps, rows, strict=True)])

    def _state(self) -> torch.Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def forget(self, step: int) -> None:
        """No numbers of earlier steps will be asked for."""
        for old in [s for s in self.drawn if s < step]:
            del self.drawn[old]

    def leave(self, steps: int) -> None:
        """Leave the generator as decoding step by step would: numbers drawn for steps beyond were not needed."""
        if steps < len(self.states):
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self.states[steps], self.device)
            else:
                torch.set_rng_state(self.states[steps])
