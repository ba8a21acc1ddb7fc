"""Layout-aware denoising: nothing is lost, and a sentinel's box holds what it hides."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deed.models.latr.denoising import mask_spans, merged_box


@given(n=st.integers(2, 120), seed=st.integers(0, 999), density=st.floats(0.05, 0.9), span=st.floats(1, 6))
def test_masked_words_and_target_together_are_the_page(n, seed, density, span):
    rng = random.Random(seed)
    corners = [(rng.randint(0, 900), rng.randint(0, 900)) for _ in range(n)]
    words = [(f"w{i}", (x, y, x + 50, y + 20)) for i, (x, y) in enumerate(corners)]
    masked, target = mask_spans(words, random.Random(seed), density, span)
    hidden: dict[str, list[str]] = {}
    for part in target.split():
        if part.startswith("<extra_id_"):
            hidden[part] = []
            last = part
        else:
            hidden[last].append(part)
    restored, boxes = [], dict(words)
    for text, box in masked:
        if text in hidden:
            assert hidden[text], "a sentinel hides at least one word"
            assert box == merged_box([boxes[w] for w in hidden[text]])
            restored += hidden[text]
        else:
            assert box == boxes[text]
            restored.append(text)
    assert restored == [text for text, _ in words]
    assert list(hidden) == [f"<extra_id_{i}>" for i in range(len(hidden))] and len(hidden) <= 32
    n_hidden = sum(map(len, hidden.values()))
    assert n_hidden == min(n - 1, max(1, round(n * density)))


def test_merged_box_is_the_smallest_that_holds_all():
    assert merged_box([(10, 50, 40, 60), (5, 55, 20, 90)]) == (5, 50, 40, 90)


@pytest.mark.parametrize("n, density", [(1, 0.15), (5, 0.0), (5, 1.0)])
def test_too_little_to_mask_is_refused(n, density):
    with pytest.raises(ValueError, match="at least two words"):
        mask_spans([("w", (0, 0, 1, 1))] * n, random.Random(0), density)
