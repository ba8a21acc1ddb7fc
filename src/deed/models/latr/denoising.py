"""Layout-aware denoising, LaTr's pre-training objective: masked spans of words whose rough place stays visible.

Spans are masked as in T5, one sentinel each; the sentinel's box is the smallest that holds the span's words, so the
encoder knows where and about how much is missing (Biten et al., CVPR 2022, section 3.1, as Hi-VT5 describes it).
Needs text and boxes only. Deep supervision applies as in fine-tuning: the labels go through the same loss.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Box = tuple[int, int, int, int]


def mask_spans(
    words: Sequence[tuple[str, Box]],
    rng: random.Random,
    density: float = 0.15,
    mean_span: float = 3.0,
    max_spans: int = 32,
) -> tuple[list[tuple[str, Box]], str]:
    """Words with some spans replaced by sentinels, and the text to restore.

    Args:
        words: `(text, [x0, y0, x1, y1])` in reading order, at least two.
        density: share of words masked, in (0, 1).
        mean_span: mean words per span.
        max_spans: as many sentinels as the tokenizer has.

    Returns:
        The masked words, sentinels `<extra_id_0>` … among them, and `<extra_id_0> words <extra_id_1> words …`.

    Raises:
        ValueError: fewer than two words, or a density out of range.
    """
    if len(words) < 2 or not 0 < density < 1:
        raise ValueError(f"need at least two words and a density between 0 and 1, got {len(words)} and {density}")
    n_masked = min(len(words) - 1, max(1, round(len(words) * density)))
    n_spans = min(max_spans, max(1, round(n_masked / mean_span)), len(words) - n_masked)
    lengths, gaps = _parts(n_masked, n_spans, rng), _parts(len(words) - n_masked, n_spans, rng)
    masked: list[tuple[str, Box]] = []
    target, at = [], 0
    for i, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        masked += words[at : at + gap]
        span = words[at + gap : at + gap + length]
        sentinel = f"<extra_id_{i}>"
        masked.append((sentinel, merged_box([box for _, box in span])))
        target += [sentinel, *(text for text, _ in span)]
        at += gap + length
    return [*masked, *words[at:]], " ".join(target)


def _parts(total: int, n: int, rng: random.Random) -> list[int]:
    """`total` cut at random into `n` parts of at least one."""
    cuts = sorted(rng.sample(range(1, total), n - 1))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


def merged_box(boxes: Sequence[Box]) -> tuple[int, int, int, int]:
    """The smallest box that holds all of them."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


__all__ = ["mask_spans", "merged_box"]
