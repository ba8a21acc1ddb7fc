"""Answers that stand on the page: `generate()` of a LaTr++ with `copy_answers` keeps each answer to words in a row there.

Reading a value off the page is copying, and a small model that copies piece by piece takes a wrong piece at times ("Febian").
A prefix of an answer leaves a few places on the page where it can stand, and only what follows there may come next, or the
end. Beside that there are answers that no page needs to hold ("yes", "not on the page"); answers that list fields as JSON are
free, and those about a picture without words. By Transformers' own `prefix_allowed_tokens_fn`: beams, exact mode and serving
know it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def twins_of(rules: Any) -> dict[int, int]:
    """Pieces of the same letters: "Foo" within a word of the page is "▁Foo" where an answer begins, and vice versa."""
    return {one: other for pair in rules.word_begins for one, other in (pair, pair[::-1])}


class Spans:
    """What may stand in an answer about one page, given what stands before.

    Args:
        rules: a `LatrConfig` with the fields of `rules_of`, or anything that has them and the special ids.
        page: pieces of the page; none: everything may stand.
        twins: of the rules, see `twins_of`.
    """

    def __init__(self, rules: Any, page: Sequence[int], twins: Mapping[int, int]) -> None:
        self.rules, self.page, self.twins = rules, page, twins
        self.opens = set(rules.open_pieces)
        begins = {*page, *(self.twins[piece] for piece in page if piece in self.twins)}
        self.begins = begins | self.opens | {free[0] for free in rules.free_answers}

    def along(self, answer: Sequence[int]) -> Iterator[set[int] | None]:
        """What may come after nothing of an answer, after its first piece, … after all of it; None: everything.

        Args:
            answer: pieces.
        """
        if not self.page or (answer and answer[0] in self.opens):
            yield from (None if known or not self.page else self.begins for known in range(len(answer) + 1))
            return
        yield self.begins
        places: list[int] = []
        ended = False
        for known, piece in enumerate(answer, 1):
            if known == 1:
                first = {piece, self.twins.get(piece)}
                places = [at for at, there in enumerate(self.page) if there in first]
            else:
                places = [at + 1 for at in places if at + 1 < len(self.page) and self.page[at + 1] == piece]
            ended = ended or piece == self.rules.eos_token_id
            if ended:
                yield {self.rules.eos_token_id, self.rules.pad_token_id}
                continue
            found = {self.page[at + 1] for at in places if at + 1 < len(self.page)}
            if places:
                found.add(self.rules.eos_token_id)
            begun = list(answer[:known])
            found |= {free[known] for free in self.rules.free_answers if free[:known] == begun and known < len(free)}
            yield found or None  # a beginning that was given, and stands nowhere


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
    twins = twins_of(config)
    spans = [Spans(config, page, twins) for page in pages]
    everything = list(range(config.vocab_size))

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        found = deque(spans[row // copies].along(ids[start:].tolist()), maxlen=1)[0]
        return everything if found is None else sorted(found)

    return allowed


def allowed_labels(
    rules: Any, pages: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], vocab: int
) -> torch.Tensor:
    """What each label of packed answers (`packing.pack`) is chosen from, for the loss of a model whose answers are kept to the
    page: what it would not be let say need not be learnt. From where an answer leaves the page on, everything.

    Args:
        rules: see `Spans`.
        pages: pieces of each row's page.
        answers: of each row the label ids of its answers.
        vocab: tokens that the model knows.

    Returns:
        `[batch, length, vocab]` bool, as `allowed_tokens` of a deed model's `forward`.
    """
    length = max((sum(map(len, of_page)) for of_page in answers), default=0)
    mask = torch.ones(len(pages), length, vocab, dtype=torch.bool)
    twins = twins_of(rules)
    cells: list[tuple[int, int, int]] = []
    for row, (page, of_page) in enumerate(zip(pages, answers, strict=True)):
        spans, at = Spans(rules, page, twins), 0
        begins = torch.tensor(sorted(spans.begins))
        for answer in of_page:
            for place, (piece, found) in enumerate(zip(answer, spans.along(answer[:-1]), strict=True), at):
                if found is None or piece not in found:
                    break
                mask[row, place] = False
                if found is spans.begins:  # hundreds, the same for every answer
                    mask[row, place, begins] = True
                else:
                    cells += [(row, place, token) for token in found]
            at += len(answer)
    if cells:
        rows, places, tokens = torch.tensor(cells).unbind(1)
        mask[rows, places, tokens] = True
    return mask


__all__ = ["FREE", "Spans", "allowed_labels", "allowed_pieces", "page_ids", "rules_of"]
