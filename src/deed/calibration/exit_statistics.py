"""Confidence and agreement of every exit per token: recorded once, for `threshold_search` to try thresholds on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from deed.exits.heads import exit_logits_of
from deed.modeling.answering import batches
from deed.modeling.forward import exit_states
from deed.policies.measures import Confidence, build_confidence, needs_history
from deed.policies.query import ExitQuery
from deed.utils.files import atomic_write

from .answering import collate
from .exit_check import check_name, has_own_confidence
from .teacher_forcing import evaluating, from_answers, from_labels

LOGITS_AT_ONCE = 2**23  # logits of one exit held at a time


@dataclass
class ExitStatistics:
    """Tokens in the order of the examples, each example's in time.

    Attributes:
        confidence: `[n_exits - 1, tokens]`, the measure's values, fp32 or fp64.
        agrees: `[n_exits - 1, tokens]` bool, whether the exit's likeliest token is full depth's.
        lengths: `[examples]`, tokens of each example, 1 or more.
        exit_layers: depths of the exits, the last included.
        measure: the confidence, as in `DeedConfig.confidence` (a measure of your own by its class's name).
    """

    confidence: np.ndarray
    agrees: np.ndarray
    lengths: np.ndarray
    exit_layers: list[int]
    measure: str | dict[str, Any] = "max_prob"

    def __post_init__(self) -> None:
        shape = (len(self.exit_layers) - 1, int(np.sum(self.lengths)))
        for name, values in (("confidence", self.confidence), ("agrees", self.agrees)):
            if values.shape != shape:
                raise ValueError(f"{name} must be [exits before the last, tokens] = {shape}, got {values.shape}")
        if np.isnan(self.confidence).any():
            raise ValueError("confidence has values that are not numbers (NaN): check the model's weights and dtype")
        if len(self.lengths) and int(np.min(self.lengths)) < 1:
            raise ValueError("lengths must be 1 or more: leave examples without tokens out")

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.confidence.shape[1]

    @cached_property
    def starts(self) -> np.ndarray:
        """`[examples]`, where each example's tokens begin."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @cached_property
    def example(self) -> np.ndarray:
        """`[tokens]`, the example of each token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def position(self) -> np.ndarray:
        """`[tokens]`, each token's place in its example, 0 for the first."""
        return np.arange(self.tokens) - self.starts[self.example]

    def halves(self) -> tuple[ExitStatistics, ExitStatistics]:
        """The examples at even and at odd places (shuffle a data set whose order means something).

        Raises:
            ValueError: fewer than two examples.
        """
        if len(self.lengths) < 2:
            raise ValueError("holding examples out takes two or more; pass hold_out=False to choose on all there are")
        odd = np.arange(len(self.lengths)) % 2 == 1
        return self._part(~odd), self._part(odd)

    def _part(self, kept: np.ndarray) -> ExitStatistics:
        at = kept[self.example]
        return ExitStatistics(
            self.confidence[:, at], self.agrees[:, at], self.lengths[kept], list(self.exit_layers), self.measure
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz`; to a temporary name first, so that an interrupted save leaves the old file or none."""
        meta = json.dumps({"exit_layers": list(self.exit_layers), "measure": self.measure})
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, confidence=self.confidence, agrees=self.agrees, lengths=self.lengths, meta=np.array(meta)
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExitStatistics:
        """Read what `save` wrote.

        Raises:
            ValueError: not such a file, or a damaged one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                arrays = {name: file[name] for name in ("confidence", "agrees", "lengths")}
            return cls(**arrays, exit_layers=[int(d) for d in meta["exit_layers"]], measure=meta["measure"])
        except FileNotFoundError:
            raise
        except Exception as error:  # damaged archives make zipfile, zlib and numpy raise various exceptions
            raise ValueError(f"{path} does not hold exit statistics: {error}") from None


@torch.no_grad()
def record_exits(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    *,
    tokens: str = "generated",
    confidence: str | dict[str, Any] | Confidence | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    **generate_kwargs: Any,
) -> ExitStatistics:
    """What every exit says of every token of full depth's answers, by one teacher-forced pass per batch.

    Args:
        model: a deed model.
        dataset: examples as `{"input_ids": [..], "labels": [..]}`, see `deed.calibrate`.
        tokens: `"generated"`: of the answers that full depth gives; `"labels"`: of the examples' labels.
        confidence: the measure; default: the model's own.
        batch_size: examples at once. Of the exits' logits, one exit's for some hundred tokens are held at a time.
        progress: called with the number of examples done after each batch.
        generate_kwargs: passed to `generate()`; of several sequences returned, the first counts.

    Raises:
        ValueError: no examples or labels, a batch size below 1, values that are not numbers, or a confidence that depends
            on more than one exit's own logits and states.

    Example:
        ```python
        statistics = deed.record_exits(model, held_out, max_new_tokens=8)
        statistics.save("exits.npz")
        ```
    """
    if tokens not in ("generated", "labels"):
        raise ValueError(f'tokens must be "generated" or "labels", got {tokens!r}')
    spec = model.deed_config.confidence if confidence is None else confidence
    measure, obstacle = build_confidence(spec), cannot_record(model, spec)
    if obstacle is not None:
        raise ValueError(obstacle)
    if confidence is None:
        _check_exit_check(model.deed_config)
    examples = list(dataset)
    if not examples or (tokens == "labels" and not all(len(x.get("labels", ())) for x in examples)):
        raise ValueError("there are no examples" if not examples else 'tokens="labels" needs labels in every example')
    exits = model.deed_config.exit_layers
    found: list[Any] = [None] * len(examples)
    done = 0
    with evaluating(model):
        for part in batches(examples, batch_size):
            rows = [examples[i] for i in part]
            inputs = collate(model, rows)
            if tokens == "labels":
                forced = from_labels(model, rows, inputs)
            else:
                forced = from_answers(model, inputs, generate_kwargs)
            for i, values in zip(part, _at_every_exit(model, measure, *forced), strict=True):
                found[i] = values
            done += len(part)
            if progress is not None:
                progress(done)
    kept = [values for values in found if values[0].shape[1]]
    if not kept:
        raise ValueError("full depth answered nothing: no tokens to record")
    return ExitStatistics(
        np.concatenate([c for c, _ in kept], axis=1),
        np.concatenate([a for _, a in kept], axis=1),
        np.array([c.shape[1] for c, _ in kept]),
        list(exits),
        spec if isinstance(spec, (str, dict)) else type(spec).__name__,
    )


def cannot_record(model: Any, measure: Any) -> str | None:
    """Why exits cannot be chosen one by one with this measure, or None."""
    config = model.deed_config
    if needs_history(build_confidence(measure)):
        return (
            "confidence 'patience' depends on which exits were checked before, so exits cannot be chosen one by one; "
            "use 'max_prob', 'margin', 'entropy' or 'state_similarity', or one threshold for all (deed.calibrate)"
        )
    if config.threshold_decay is not None:
        return "threshold_decay moves thresholds with position, which a choice per exit does not know; set it to None"
    if config.confidence_over != "all":
        return 'confidence_over="allowed" needs the constraints of a generation; use "all" to record exits'
    return None


def _check_exit_check(config: Any) -> None:
    spec = config.exit_check
    if has_own_confidence(spec):
        raise ValueError(
            f"exit_check={check_name(spec)!r} has a confidence of its own that this does not record; set "
            "deed_config.exit_check to 'plain' or 'screen', or pass confidence=… to choose by that measure"
        )


def _at_every_exit(
    model: Any, measure: Confidence, inputs: dict[str, Any], followed: torch.Tensor
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Confidence and agreement `[n_exits - 1, tokens]` of every row."""
    forward = type(model).deed_base.forward  # type: ignore[attr-defined]
    out, states = exit_states(model, forward, {**inputs, "use_cache": False, "output_hidden_states": True})
    full = out.logits[followed].argmax(-1)
    layers = out.decoder_hidden_states
    del out
    at_once = max(1, LOGITS_AT_ONCE // model.deed_family.vocab_size(model))
    columns: list[tuple[torch.Tensor, torch.Tensor]] = []
    for index, (depth, state) in enumerate(states.items()):
        given, hidden = state[followed], layers[depth][followed]
        below = layers[depth - 1][followed] if depth > 1 else None
        pieces = []
        for start in range(0, len(hidden), at_once):
            here = slice(start, start + at_once)
            part = hidden[here]
            query = ExitQuery(
                depth=depth,
                exit_index=index,
                is_last=False,
                step=0,
                rows=torch.arange(len(part), device=part.device),
                hidden=part,
                previous=None if below is None else below[here],
                head=lambda d=depth, h=given[here]: _wide(exit_logits_of(model, d, h)),  # type: ignore[misc]
            )
            pieces.append((_wide(measure(query)).cpu(), (query.logits.argmax(-1) == full[here]).cpu()))
        columns.append((torch.cat([c for c, _ in pieces]), torch.cat([a for _, a in pieces])))
    lengths = followed.sum(-1).tolist()
    confidence = torch.stack([c for c, _ in columns]).split(lengths, dim=1)
    agrees = torch.stack([a for _, a in columns]).split(lengths, dim=1)
    return [(c.numpy(), a.numpy()) for c, a in zip(confidence, agrees, strict=True)]


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
