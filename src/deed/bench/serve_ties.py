"""Why an answer under load is not the one given alone: two tokens that are as good as equally likely, or a mistake.

Products of a batch are summed in another order than those of one row, so the last digits differ. Where the two best tokens
are closer than that, or a confidence that close to the threshold, either answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .serve_engines import DeedEngine
from .serve_process import Setup
from .serve_work import Work

# Of the spread (standard deviation) of the logits: what rounding explains. int8 rounds activations to 1/127 of the largest.
EXPLAINED = {"fp32": 1e-3, "int8": 0.2}


class Ties:
    """Tells ties from mistakes, by the model without a cache.

    Args:
        work: what was asked.
        threads: torch's.
        int8: by the quantized model.
    """

    def __init__(self, work: Work, threads: int, int8: bool = False) -> None:
        self.work = work
        self.answering = DeedEngine(work.model, threads, int8)

    @torch.no_grad()
    def distance(self, subject: str, index: int, alone: Sequence[int], got: str) -> float | None:
        """How far the answers' first different tokens are apart, in standard deviations of the logits; for answers that a
        threshold governs, of the nearest decision. None: one answer is the beginning of the other, at full length.

        Args:
            subject: who answered.
            index: of the request.
            alone: tokens of the answer alone.
            got: the text of the other.
        """
        model, tokenizer = self.answering.model, self.answering.tokenizer
        request = self.work.requests[index]
        end = int(model.generation_config.eos_token_id)
        one = [*alone, end]
        two = [*own_tokens(tokenizer, got), end]
        at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
        if at is None:
            return None
        ids = torch.tensor([[model.generation_config.decoder_start_token_id, *one[:at]]])
        inputs = tokenizer(request.text, return_tensors="pt")
        logits = model.exit_logits(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, decoder_input_ids=ids
        )[:, 0, -1]

        def apart(scores: torch.Tensor) -> float:
            return float((scores[one[at]] - scores[two[at]]).abs() / scores.std())

        exits = model.deed_config.exit_layers
        if not subject.startswith("deed") or "full" in subject:
            return apart(logits[-1])
        if request.exit_schedule is not None:
            depth = request.exit_schedule[at]
            return apart(logits[next(i for i, d in enumerate(exits) if d >= depth)])
        threshold = float(model.deed_config.threshold)
        near = [float((scores.softmax(-1).max() - threshold).abs()) for scores in logits[:-1]]
        return min(*(apart(scores) for scores in logits), *near)


def own_tokens(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text without the end token that a tokenizer may add."""
    ids = list(tokenizer(text_target=text).input_ids)
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def explain(rows: Sequence[dict[str, Any]], works: Mapping[str, Work], setup: Setup) -> None:
    """Add to each wrong answer of the rows how close it was (`"distance"`), and to each row how many of those kept are ties.

    Args:
        rows: of a result; changed.
        works: by shape.
        setup: of the servers.
    """
    from .serve import reference

    ties: dict[tuple[str, bool], Ties] = {}
    known: dict[tuple[str, str, int, str], float | None] = {}
    for row in rows:
        if not row.get("wrong_answers") or row["shape"] not in works or "ties" in row:
            continue
        work, subject = works[row["shape"]], row["subject"]
        kind = (row["shape"], subject.startswith("deed int8"))
        if kind not in ties:
            ties.clear()  # one model at a time
            ties[kind] = Ties(work, setup.threads, kind[1])
        alone = reference(work, subject, setup)["tokens"]
        limit = EXPLAINED[subject.split()[1]]
        row["ties"] = 0
        for wrong in row["wrong_answers"]:
            key = (row["shape"], subject, wrong["request"], wrong["got"])
            if key not in known:
                known[key] = ties[kind].distance(subject, wrong["request"], alone[wrong["request"]], wrong["got"])
            wrong["distance"] = known[key]
            row["ties"] += known[key] is not None and known[key] <= limit  # type: ignore[operator]
