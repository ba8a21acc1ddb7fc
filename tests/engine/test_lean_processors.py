"""Lean logits processors give what Transformers' own give, bit for bit."""

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from deed.engine.constraints import is_constraint
from deed.engine.exact_replay import Replay
from deed.engine.lean_processors import LeanSuppress, LeanSuppressAtBegin, lean_processors
from deed.engine.sampling import best_token

IDS = [7, 2, 2, 50, 99, -1]  # 99 and -1 are in no vocabulary of 60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [IDS, [5], []])
def test_the_same_scores(dtype, tokens):
    theirs = [SuppressTokensLogitsProcessor(tokens), SuppressTokensAtBeginLogitsProcessor(tokens, begin_index=3)]
    lean = lean_processors(LogitsProcessorList(theirs))
    torch.manual_seed(0)
    for vocab in (60, 8):
        for length in (2, 3, 4):
            ids, scores = torch.randint(0, 8, (4, length)), torch.randn(4, vocab).to(dtype)
            before = scores.clone()
            for a, b in zip(theirs, lean, strict=True):
                x, y = a(ids, scores), b(ids, scores)
                assert torch.equal(x, y) and x.dtype == y.dtype
            assert torch.equal(scores, before)


def test_others_stay_and_lean_ones_are_what_they_were():
    class Own(SuppressTokensLogitsProcessor):
        def __call__(self, ids, scores):
            return scores * 2

    given = LogitsProcessorList(
        [
            Own([1]),
            MinLengthLogitsProcessor(3, 1),
            SuppressTokensLogitsProcessor([1]),
            SuppressTokensAtBeginLogitsProcessor([1], 3),
        ]
    )
    lean = lean_processors(given)
    assert lean[0] is given[0] and lean[1] is given[1] and len(lean) == 4
    assert isinstance(lean[2], SuppressTokensLogitsProcessor) and all(map(is_constraint, lean[2:]))
    assert not Replay(lean[1:], 2).untried


def test_the_best_token_is_the_first_of_the_largest():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores = torch.randint(0, 5, (30, 40)).to(dtype)
        scores[3, 7] = float("nan")
        scores[4] = -torch.inf
        assert torch.equal(best_token(scores), scores.argmax(-1, keepdim=True))


def test_prefixes_of_any_lengths_at_once():
    """Of exact decoding: what each processor gives a prefix by itself."""
    scores = torch.randn(3, 20)
    for lean in (
        LeanSuppress(SuppressTokensLogitsProcessor([3, 7])),
        LeanSuppressAtBegin(SuppressTokensAtBeginLogitsProcessor([2, 5], 4)),
    ):
        before = scores.clone()
        found = lean.of_cells([3, 4, 5], scores)
        alone = [lean(torch.zeros(1, n, dtype=torch.long), scores[i : i + 1]) for i, n in enumerate((3, 4, 5))]
        assert torch.equal(found, torch.cat(alone)) and torch.equal(scores, before)
        assert torch.equal(lean.of_cells([3], scores[:1]), lean(torch.zeros(1, 3, dtype=torch.long), scores[:1]))
