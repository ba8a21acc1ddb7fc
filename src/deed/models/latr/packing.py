"""Several questions of one page in one row, for a LaTr++ with a late question.

The encoder reads `[patches, words, question 1, question 2, …]`; the page sees the page, a question the page and itself. The
decoder runs the answers one after the other as one sequence; an answer sees its own tokens before it, the page, and its
question. So page and cross-attention keys are computed once for all questions, and each answer is what it is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deed.constants import IGNORE_INDEX

from ..shared import pad_lists


def may_see(askers: torch.Tensor, owners: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Which tokens of the encoder's sequence each token sees: those of the page and of its own question.

    Args:
        askers: `[batch, m]`, numbers of questions, 0 for the page.
        owners: `[batch, n]`, the same of the encoder's sequence.
        attention_mask: `[batch, n]`, 1 keeps.

    Returns:
        `[batch, m, n]` bool.
    """
    owners = owners[:, None, :]
    return attention_mask[:, None, :].bool() & ((owners == 0) | (owners == askers[:, :, None]))


def follows(answers: torch.Tensor) -> torch.Tensor:
    """Which tokens of packed answers `[batch, m]` each sees: those of its own answer up to itself, `[batch, m, m]` bool."""
    at = torch.arange(answers.shape[1], device=answers.device)
    return (answers[:, :, None] == answers[:, None, :]) & (at[None, :] <= at[:, None])


def attention_scores_mask(seen: torch.Tensor, dtype: torch.dtype, eager: bool) -> torch.Tensor:
    """`seen` `[batch, m, n]` as Transformers hands a ready-made mask to its attention: `[batch, 1, m, n]`.

    Args:
        seen: bool.
        dtype: of the scores.
        eager: numbers to add; else bool.
    """
    seen = seen[:, None]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min) if eager else seen


def pack(pages: Sequence[dict[str, Any]], start: int, pad: int) -> dict[str, torch.Tensor]:
    """Pages with their questions to one batch, padded at the right.

    Args:
        pages: of each the `words` and `boxes` (ids and their places), the `questions` (ids of each) and `answers` (label
            ids of each), as `LatrProcessor.encode_page`, `encode_question` and `encode_answer` give them.
        start: the decoder's first token.
        pad: the padding token.

    Returns:
        `input_ids`, `attention_mask`, `bbox`, `question_ids`, `decoder_input_ids`, `answer_ids`, `labels`.
    """
    rows: dict[str, list[list[Any]]] = {name: [] for name in ("ids", "owners", "inputs", "answers", "labels")}
    boxes = []
    for page in pages:
        ids, owners, inputs, answers, labels = [*page["words"]], [0] * len(page["words"]), [], [], []
        for number, (question, answer) in enumerate(zip(page["questions"], page["answers"], strict=True), 1):
            ids += question
            owners += [number] * len(question)
            inputs += [start, *answer[:-1]]
            answers += [number] * len(answer)
            labels += answer
        for name, row in zip(rows, (ids, owners, inputs, answers, labels), strict=True):
            rows[name].append(row)
        boxes.append(page["boxes"])
    input_ids = pad_lists(rows["ids"], pad)
    lengths = torch.tensor([len(row) for row in rows["ids"]])
    bbox = torch.zeros(*input_ids.shape, 4, dtype=torch.long)
    for i, places in enumerate(boxes):
        if len(places):
            bbox[i, : len(places)] = torch.as_tensor(places, dtype=torch.long)
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "bbox": bbox,
        "question_ids": pad_lists(rows["owners"], 0),
        "decoder_input_ids": pad_lists(rows["inputs"], pad),
        "answer_ids": pad_lists(rows["answers"], 0),
        "labels": pad_lists(rows["labels"], IGNORE_INDEX),
    }


__all__ = ["attention_scores_mask", "follows", "may_see", "pack"]
