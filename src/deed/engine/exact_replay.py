"""Logits processors and stopping criteria on rows of different length: each is asked about every row's own tokens.

A processor that is a function of its two arguments alone gives for a prefix what it gave there in a decoding step by step.
Transformers' own are known; others are tried twice on the same arguments, and refused where that changes them or what they
answer.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from .lean_processors import KINDS

LEAN = frozenset(KINDS.values())
# Transformers' processors that look at the row alone (5.23, generation/logits_process.py) …
ROW_ALONE = frozenset(
    """MinLengthLogitsProcessor MinNewTokensLengthLogitsProcessor TemperatureLogitsWarper RepetitionPenaltyLogitsProcessor
    TopPLogitsWarper TopKLogitsWarper TopHLogitsWarper MinPLogitsWarper TypicalLogitsWarper EpsilonLogitsWarper EtaLogitsWarper
    NoRepeatNGramLogitsProcessor SequenceBiasLogitsProcessor NoBadWordsLogitsProcessor ForcedBOSTokenLogitsProcessor
    ForcedEOSTokenLogitsProcessor InfNanRemoveLogitsProcessor LogitNormalization SuppressTokensLogitsProcessor
    SuppressTokensAtBeginLogitsProcessor ExponentialDecayLengthPenalty WhisperTimeStampLogitsProcessor
    WatermarkLogitsProcessor""".split()
)
# … those that look up something by the row's number …
BY_NUMBER = frozenset(
    (
        "PrefixConstrainedLogitsProcessor",
        "EncoderNoRepeatNGramLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor",
    )
)
# … and those that remember earlier steps, or mix rows.
STATEFUL = frozenset(
    """UnbatchedClassifierFreeGuidanceLogitsProcessor ClassifierFreeGuidanceLogitsProcessor SynthIDTextWatermarkLogitsProcessor
    WhisperNoSpeechDetection AlternatingCodebooksLogitsProcessor BarkEosPrioritizerLogitsProcessor
    DiaClassifierFreeGuidanceLogitsProcessor DiaEOSChannelFilterLogitsProcessor DiaEOSDelayPatternLogitsProcessor""".split()
)


class Replay:
    """The processors of a generation, for rows of different length.

    Args:
        processors: Transformers' list.
        n_rows: rows of the batch.

    Raises:
        ValueError: one that is known to remember earlier steps.
    """

    def __init__(self, processors: Sequence[Any], n_rows: int) -> None:
        self.processors, self.n_rows = list(processors), n_rows
        self.untried = []
        for processor in self.processors:
            name = type(processor).__name__
            stateless = getattr(processor, "is_stateless", None)
            if stateless is False or (stateless is None and name in STATEFUL):
                raise ValueError(_refusal(processor))
            if stateless is None and name not in ROW_ALONE and name not in BY_NUMBER:
                self.untried.append(processor)

    def __bool__(self) -> bool:
        return bool(self.processors)

    def __call__(self, prefixes: Sequence[list[int]], rows: Sequence[int], scores: torch.Tensor) -> torch.Tensor:
        """Processed scores `[cells, vocab]`; `scores` itself where nothing changes.

        Args:
            prefixes: the tokens before each cell.
            rows: whose they are.
            scores: `[cells, vocab]` float32, not to be changed.

        Raises:
            ValueError: a processor that turns out to remember earlier steps.
        """
        groups: dict[int, list[int]] = {}
        for i, prefix in enumerate(prefixes):
            groups.setdefault(len(prefix), []).append(i)
        found = scores
        for processor in self.processors:
            if type(processor) in LEAN:
                found = processor.of_cells([len(prefix) for prefix in prefixes], found)
            elif len(groups) == 1:  # one draft of one row, as mostly: nothing to gather
                ids = torch.tensor(list(prefixes), device=scores.device)
                found = self._one(processor, ids, list(rows), found).to(scores.dtype)
            else:
                found = self._by_length(processor, groups, prefixes, rows, found)
        return found

    def _by_length(
        self,
        processor: Any,
        groups: dict[int, list[int]],
        prefixes: Sequence[list[int]],
        rows: Sequence[int],
        scores: torch.Tensor,
    ) -> torch.Tensor:
        found = torch.empty_like(scores)
        for cells in groups.values():
            at = torch.tensor(cells, device=scores.device)
            ids = torch.tensor([prefixes[i] for i in cells], device=scores.device)
            found[at] = self._one(processor, ids, [rows[i] for i in cells], scores[at]).to(found.dtype)
        return found

    def _one(self, processor: Any, ids: torch.Tensor, rows: list[int], scores: torch.Tensor) -> torch.Tensor:
        name = type(processor).__name__
        if rows == list(range(self.n_rows)) and processor not in self.untried:
            return processor(ids, scores.clone())  # type: ignore[no-any-return]
        if name in ROW_ALONE or getattr(processor, "is_stateless", False):
            return processor(ids, scores.clone())  # type: ignore[no-any-return]
        if name in BY_NUMBER:
            return of_one_row(processor, rows, self.n_rows)(ids, scores.clone())  # type: ignore[no-any-return]
        found = []
        for i, r in enumerate(rows):  # what it does with a row's number is unknown: the row stays where it is
            batch = ids[i : i + 1].expand(self.n_rows, -1), scores[i : i + 1].expand(self.n_rows, -1)
            if processor in self.untried:
                _try(processor, *batch)
                self.untried.remove(processor)
            found.append(processor(*(x.clone() for x in batch))[r])
        return torch.stack(found)


def of_one_row(processor: Any, rows: list[int], n_rows: int) -> Any:
    """One of `BY_NUMBER` for some of the rows.

    Args:
        processor: of all rows.
        rows: which.
        n_rows: how many there are.
    """
    part = copy.copy(processor)
    if hasattr(processor, "_prefix_allowed_tokens_fn"):
        allowed = processor._prefix_allowed_tokens_fn
        part._prefix_allowed_tokens_fn = lambda i, ids: allowed(rows[i], ids)
        part._num_beams = 1
    elif hasattr(processor, "generated_ngrams"):
        each = max(1, n_rows // processor.batch_size)
        part.generated_ngrams = [processor.generated_ngrams[r // each] for r in rows]
        part.batch_size = len(rows)
    else:
        ids = processor.encoder_input_ids
        each = max(1, n_rows // len(ids))
        part.encoder_input_ids = ids[[r // each for r in rows]]
    return part


def _try(processor: Any, ids: torch.Tensor, scores: torch.Tensor) -> None:
    """Raises `ValueError` where a second call with the same arguments answers something else, or changes the processor."""
    one = processor(ids.clone(), scores.clone())
    before = _fingerprint(processor)
    two = processor(ids.clone(), scores.clone())
    if not torch.equal(one.nan_to_num(), two.nan_to_num()) or before != _fingerprint(processor):
        raise ValueError(_refusal(processor))


def _fingerprint(processor: Any) -> Any:
    try:
        return pickle.dumps(vars(processor))
    except Exception:  # whatever cannot be pickled (a function, a matcher in another language): by its plain values
        plain = (int, float, str, bool, bytes, list, tuple, dict, set, type(None))
        return repr(sorted((k, v) for k, v in getattr(processor, "__dict__", {}).items() if isinstance(v, plain)))


def _refusal(processor: Any) -> str:
    return (
        f"exact=True asks logits processors about prefixes in any order, and {type(processor).__name__} remembers earlier "
        "steps: leave it out, or decode with exit_threshold=2.0 (a processor of your own that is a function of input_ids "
        "and scores alone may say so by an attribute is_stateless = True)"
    )


def stops(criteria: Any, prefix: list[int], row: int, n_rows: int, scores: Any, device: torch.device) -> bool:
    """Whether stopping criteria end a row with these tokens.

    Args:
        criteria: Transformers' list.
        prefix: all tokens of the row so far.
        row: its number.
        n_rows: rows of the batch: every row of what the criteria see has these tokens, so that the row is where it was.
        scores: of the row so far, `[steps][vocab]`, or None.
        device: of the tokens.
    """
    ids = torch.tensor([prefix], device=device).expand(n_rows, -1)
    seen = None if scores is None else tuple(s.expand(n_rows, -1) for s in scores)
    return bool(criteria(ids, seen)[row])
