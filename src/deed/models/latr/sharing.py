"""Several questions about one page in a batch for `generate()`: a LaTr++ with a late question reads the page once.

The rows of a batch that have the same words, boxes and picture are packed into one (`packing.py`), encoded, and taken apart
again: one row a question, each with the states that it has alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..shared import pad_lists


def packed_pages(
    input_ids: torch.Tensor, inputs: dict[str, Any], pad: int
) -> tuple[torch.Tensor, dict[str, Any], list[tuple[int, int]]] | None:
    """The rows of a batch that share a page packed into one each.

    Args:
        input_ids: `[batch, text]`, of each row the page's words, the question, padding.
        inputs: `attention_mask` `[batch, text]`, `bbox` `[batch, text, 4]` and, where there are pictures, `pixel_values` and
            `pixel_mask`; and others, which are left alone.
        pad: the padding token.

    Returns:
        `input_ids` and `inputs` of the packed rows, with `question_ids`, and of each row of the batch the packed one and the
        number of its question there; None where there is nothing to share, or a row is no page with a question behind it.
    """
    mask, boxes = inputs.get("attention_mask"), inputs.get("bbox")
    if mask is None or boxes is None or inputs.get("question_ids") is not None or len(input_ids) < 2:
        return None
    asks = (boxes == 0).all(-1)
    lengths, words = mask.sum(1), (~asks & mask.bool()).sum(1)
    at = torch.arange(input_ids.shape[1], device=mask.device)
    in_order = ((at < lengths[:, None]) == mask.bool()).all() and (
        (at < words[:, None]) == (~asks & mask.bool())
    ).all()
    if not in_order:
        return None
    pages: dict[tuple[bytes, ...], int] = {}
    numbers: list[int] = []  # questions of each page
    places, first = [], []
    texts: list[list[int]] = []
    owners: list[list[int]] = []
    for row, (count, length) in enumerate(zip(words.tolist(), lengths.tolist(), strict=True)):
        parts = [input_ids[row, :count], boxes[row, :count]]
        parts += [inputs[name][row] for name in ("pixel_values", "pixel_mask") if inputs.get(name) is not None]
        page = pages.setdefault(tuple(_content(part) for part in parts), len(pages))
        ids = input_ids[row].tolist()
        if page == len(texts):
            texts.append(ids[:count])
            owners.append([0] * count)
            numbers.append(0)
            first.append(row)
        numbers[page] += 1
        texts[page] += ids[count:length]
        owners[page] += [numbers[page]] * (length - count)
        places.append((page, numbers[page]))
    if len(pages) == len(input_ids):
        return None
    text = pad_lists(texts, pad).to(input_ids.device)
    at = torch.arange(text.shape[1], device=mask.device)
    sizes = torch.tensor([len(ids) for ids in texts], device=mask.device)
    packed = {**inputs, "attention_mask": (at < sizes[:, None]).to(mask.dtype)}
    packed["bbox"] = boxes.new_zeros(*text.shape, 4)
    for page, row in enumerate(first):
        packed["bbox"][page, : int(words[row])] = boxes[row, : int(words[row])]
    for name in ("pixel_values", "pixel_mask"):
        if inputs.get(name) is not None:
            packed[name] = inputs[name][first]
    packed["question_ids"] = pad_lists(owners, 0).to(input_ids.device)
    return text, packed, places


def unpacked(encoded: Any, places: list[tuple[int, int]]) -> Any:
    """What the encoder returned for packed pages, one row a question.

    Args:
        encoded: `LatrEncoderOutput` of the packed rows.
        places: see `packed_pages`.

    Returns:
        The same with `last_hidden_state`, `attention_mask` and `question_ids` of each row; what is masked is left out.
    """
    states, mask, owners = encoded.last_hidden_state, encoded.attention_mask, encoded.question_ids
    keep = [mask[page].bool() & ((owners[page] == 0) | (owners[page] == number)) for page, number in places]
    rows = [states[page][kept] for (page, _), kept in zip(places, keep, strict=True)]
    mine = [(owners[page][kept] > 0).long() for (page, _), kept in zip(places, keep, strict=True)]
    return type(encoded)(
        last_hidden_state=pad_sequence(rows, batch_first=True),
        attention_mask=pad_sequence([torch.ones_like(row, dtype=mask.dtype) for row in mine], batch_first=True),
        question_ids=pad_sequence(mine, batch_first=True),
    )


def _content(part: torch.Tensor) -> bytes:
    return (
        part.detach().to("cpu").contiguous().view(torch.uint8).numpy().tobytes() if part.ndim else bytes([int(part)])
    )


__all__ = ["packed_pages", "unpacked"]
