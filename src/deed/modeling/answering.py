"""Answering many encoded examples: the one loop over batches, for plain models and for those with early exit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .model import DeedMixin


class Answers(NamedTuple):
    """What was generated.

    Attributes:
        tokens: per row the new tokens, up to and with the end token.
        depth_sum, depth_count: the sum of all tokens' exit depths, and of how many; 0 from a plain model.
        features, states: per row, as `generate(answer_confidence=True)` has them; None where that was not asked for.
        confidences: per row, how likely the answer is to be right; None where not asked for, or answers are not calibrated.
    """

    tokens: list[list[int]]
    depth_sum: int
    depth_count: int
    features: torch.Tensor | None = None
    states: torch.Tensor | None = None
    confidences: list[float] | None = None

    @property
    def mean_depth(self) -> float:
        """Mean exit depth over all tokens; nan from a plain model, which has none to report."""
        return self.depth_sum / self.depth_count if self.depth_count else math.nan


def generate_rows(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    collate: Callable[[list[Any]], Mapping[str, torch.Tensor]],
    options: Mapping[str, Any],
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
) -> Answers:
    """Generate for every row, rows of like length together (less padding); answers come in the order of the rows.

    Args:
        model: plain or with early exit; a plain one is not told options that only early exit has.
        rows: encoded examples; those with `input_ids` are ordered by their length.
        collate: rows to a batch of model inputs, on any device.
        options: of `generate()`. Of several returned sequences of a row the first, which is the best, is kept.
        batch_size: rows generated at once.
        tick: called with the number of rows after each batch, for a progress bar.

    Raises:
        ValueError: a batch size below 1.
    """
    if not isinstance(model, DeedMixin):
        options = {k: v for k, v in options.items() if k not in EXIT_OPTIONS}
    tokens: list[list[int]] = [[] for _ in rows]
    depth_sum = depth_count = 0
    told: dict[str, list[torch.Tensor]] = {name: [] for name in TOLD}
    order: list[int] = []
    for part in batches(rows, batch_size):
        inputs = {k: v.to(model.device) for k, v in collate([rows[i] for i in part]).items()}
        out = model.generate(**inputs, **options, return_dict_in_generate=True)
        per_row = len(out.sequences) // len(part)
        depths = exit_depths(out)
        if depths is not None:
            depth_sum += int(depths.sum())
            depth_count += int((depths > 0).sum())
            prompt = out.sequences.shape[1] - depths.shape[1]
        else:
            given = inputs.get("decoder_input_ids")
            prompt = 1 if given is None else given.shape[1]
        for n, i in enumerate(part):
            new = out.sequences[n * per_row, prompt:].tolist()
            kept = int((depths[n * per_row] > 0).sum()) if depths is not None else _length(new, model)
            tokens[i] = new[:kept]
        order += part
        for name, values in told.items():
            if out.get(name) is not None:
                values.append(out[name][::per_row])
        if tick is not None:
            tick(len(part))
    place = torch.tensor(order).argsort()
    features, states, confidences = (torch.cat(values)[place] if values else None for values in told.values())
    sure = None if confidences is None else confidences.tolist()
    return Answers(tokens, depth_sum, depth_count, features, states, sure)


def exit_depths(out: Any) -> torch.Tensor | None:
    """The depths of what `generate()` returned, `[sequences, new tokens]`; None of a plain model.

    Args:
        out: its output. Whisper's tells of each of its inner generations; of a recording that it reads at once there is one.

    Raises:
        ValueError: there were several, whose tokens are not those of the sequences.
    """
    depths = out.exit_layers if "exit_layers" in out else None
    if isinstance(depths, list):
        if len(depths) != 1:
            raise ValueError(
                f"Whisper generated {len(depths)} times; give it recordings of 30 seconds at most, and one temperature"
            )
        return depths[0]
    return depths


def batches(rows: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows to answer together: like lengths (less padding), and decoder prompts of one length.

    Prompts of a decoder are not padded: learned positions and relative ones would start at the padding.

    Raises:
        ValueError: a batch size that is not an integer of at least 1.
    """
    check_batch_size(batch_size)

    def lengths(i: int) -> tuple[int, int]:
        prompt, source = (rows[i].get(k, ()) for k in ("decoder_input_ids", "input_ids"))
        return len(prompt), len(source)

    order = sorted(range(len(rows)), key=lengths)
    at = 0
    while at < len(order):
        prompt = lengths(order[at])[0]
        part = [i for i in order[at : at + batch_size] if lengths(i)[0] == prompt]
        yield part
        at += len(part)


def check_batch_size(value: Any) -> int:
    """The value, if it is a batch size.

    Raises:
        ValueError: not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {value!r}")
    return value


TOLD = ("answer_features", "source_states", "confidence")  # what `generate(answer_confidence=True)` adds to its output
EXIT_OPTIONS = (
    "answer_confidence",
    "exit_threshold",
    "exit_policy",
    "exact",
    "confidence_over",
    "exit_check",
    "asking",
)


def _length(tokens: list[int], model: Any) -> int:
    """Tokens up to and with the first end token."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, (list, tuple)) else [ends])
    return next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
