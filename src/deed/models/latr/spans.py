"""Answers that stand on the page: `generate()` of a LaTr++ with `copy_answers` keeps each answer to words in a row there.

Reading a value off the page is copying, and a small model that copies piece by piece takes a wrong piece at times ("Febian").
A prefix of an answer leaves a few places on the page where it can stand, and only what follows there may come next, or the
end. Beside that there are answers that no page needs to hold ("yes", "not on the page"); answers that list fields as JSON are
free, and those about a picture without words. By Transformers' own `prefix_allowed_tokens_fn`: beams, exact mode and serving
know it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

FREE = ("yes", "no")  # answers of any page, beside the one that says that the page has none


def page_ids(input_ids: torch.Tensor | None, boxes: torch.Tensor | None) -> list[list[int]] | None:
    """The pieces of each row's page: those that have a place; None where no text with places was given.

    Args:
        input_ids: `[batch, text]`.
        boxes: `[batch, text, 4]`; zeros are a question's, or padding.
    """
    if input_ids is None or input_ids.ndim != 2 or boxes is None:
        return None
    return [row[placed].tolist() for row, placed in zip(input_ids, (boxes != 0).any(-1), strict=True)]


def rules_of(processor: Any, answers: Sequence[str]) -> dict[str, Any]:
    """The fields of `LatrConfig` by which answers are kept to the page.

    Args:
        processor: a `LatrProcessor`.
        answers: that need not stand there.
    """
    tokenizer = processor.tokenizer
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    known = {piece: i for i, piece in enumerate(pieces)}
    begins = [(known[piece[1:]], i) for piece, i in known.items() if piece[:1] == "▁" and piece[1:] in known]
    return {
        "copy_answers": True,
        "free_answers": [processor.encode_answer(answer) for answer in answers],
        "open_pieces": [i for piece, i in known.items() if piece.lstrip("▁").startswith("{")],
        "word_begins": [list(pair) for pair in begins],
    }


def allowed_pieces(
    config: Any, pages: Sequence[Sequence[int]], start: int, copies: int = 1
) -> Callable[[int, torch.Tensor], list[int]]:
    """What may come next, for `prefix_allowed_tokens_fn`.

    Args:
        config: a `LatrConfig` with the fields of `rules_of`.
        pages: pieces of each row's page.
        start: ids at the front of the decoder's that are no part of the answer.
        copies: rows in turn that are of one page.
    """
    # "Foo" within a word of the page is "▁Foo" where an answer begins, and the other way round.
    twins = {one: other for pair in config.word_begins for one, other in (pair, pair[::-1])}
    opens, end = set(config.open_pieces), config.eos_token_id
    everything = list(range(config.vocab_size))

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        page, answer = pages[row // copies], ids[start:].tolist()
        if not page:
            return everything
        if not answer:
            found = {*page, *(twins[piece] for piece in page if piece in twins)}
            return sorted({*found, *opens, *(free[0] for free in config.free_answers)})
        if end in answer:
            return [end, config.pad_token_id]
        if answer[0] in opens:
            return everything
        first = {answer[0], twins.get(answer[0])}
        places = [at for at, piece in enumerate(page) if piece in first]
        for piece in answer[1:]:
            places = [at + 1 for at in places if at + 1 < len(page) and page[at + 1] == piece]
        found = {page[at + 1] for at in places if at + 1 < len(page)}
        if places:
            found.add(end)
        known = len(answer)
        found |= {free[known] for free in config.free_answers if free[:known] == answer and known < len(free)}
        return sorted(found) or everything  # a beginning that was given, and stands nowhere

    return allowed


__all__ = ["FREE", "allowed_pieces", "page_ids", "rules_of"]
