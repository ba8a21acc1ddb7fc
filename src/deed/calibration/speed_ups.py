"""Ways of answering timed in turns, and how many times faster one is than another, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deed.utils.timing import interleave, now, timed_encoder

from .answering import collate

RESAMPLES = 1000  # of the examples, for the intervals


def timed(
    model: Any,
    examples: Sequence[Mapping[str, Any]],
    ways: Mapping[Any, Mapping[str, Any]],
    options: Mapping[str, Any],
) -> dict[Any, np.ndarray]:
    """Seconds of the decoder and of the whole answer, and the answer's tokens, `[examples, 3]`, for each way of answering: in
    turns, one at a time.

    Args:
        model: a deed model.
        examples: the first two warm up as well.
        ways: options of `generate()` of each.
        options: of all.
    """
    with torch.no_grad(), timed_encoder(model) as clock:

        def answers(way: Mapping[str, Any]) -> Callable[[Any], tuple[float, float, int]]:
            def answer(inputs: Any) -> tuple[float, float, int]:
                clock.take()
                start = now(model.device)
                out = model.generate(**inputs, **{**options, **way, "return_dict_in_generate": True})
                total = now(model.device) - start
                depths = out.exit_layers  # `[rows, new]`; of Whisper one for each piece that it decoded
                return total - clock.take(), total, sum(int((d > 0).sum()) for d in depths)

            return answer

        inputs = [collate(model, [example]) for example in examples]
        runs = interleave({name: answers(way) for name, way in ways.items()}, inputs, warmup=2)
    return {name: np.array(values) for name, values in runs.items()}


class SpeedUps:
    """Speed-ups with an interval over examples drawn again (percentile bootstrap).

    Args:
        confidence: of the intervals.
        seed: of the draws.
    """

    def __init__(self, confidence: float, seed: int) -> None:
        self.edges, self.seed = [100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2], seed

    def of(self, full: np.ndarray, early: np.ndarray) -> tuple[list[float], list[float]]:
        """Decoder's and answer's `[low, expected, high]`.

        Args:
            full, early: of `timed`.
        """
        full, early = full[:, :2], early[:, :2]
        at = np.random.default_rng(self.seed).integers(0, len(full), (RESAMPLES, len(full)))
        drawn = full[at].sum(1) / early[at].sum(1)
        low, high = np.percentile(drawn, self.edges, axis=0)
        middle = full.sum(0) / early.sum(0)
        found = [[min(lo, m), m, max(hi, m)] for lo, m, hi in zip(low, middle, high, strict=True)]
        return [float(v) for v in found[0]], [float(v) for v in found[1]]
