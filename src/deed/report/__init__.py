"""Reports: one results dict becomes `report.json` and a self-contained `report.html`.

Here is what the terminal and the page share: the colors of the exit depths, how a threshold is written, and how the
pieces of a running text are put together again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Cool is shallow, warm is deep. Mid lightness, so that they read on light and on dark ground.
_ANCHORS = ((0x1F, 0xA2, 0x8D), (0x4F, 0x83, 0xDB), (0x96, 0x68, 0xD9), (0xD6, 0x5C, 0x97), (0xE2, 0x6D, 0x46))


def depth_colors(n_layers: int) -> list[str]:
    """Colors `#rrggbb` of depths 1..n_layers, evenly along the scale from the first to the last anchor."""
    colors = []
    for i in range(n_layers):
        at = i / max(1, n_layers - 1) * (len(_ANCHORS) - 1)
        low = min(int(at), len(_ANCHORS) - 2)
        mix = [round(a + (b - a) * (at - low)) for a, b in zip(_ANCHORS[low], _ANCHORS[low + 1], strict=True)]
        colors.append("#{:02x}{:02x}{:02x}".format(*mix))
    return colors


def threshold_text(threshold: Any, short: bool = False) -> str:
    """`0.95`; one value per exit as a list; `2 (never leaves early)`, or in short `never`, where nothing can leave."""
    if isinstance(threshold, (list, tuple)):
        return "[" + ", ".join(f"{t:g}" for t in threshold) + "]"
    if threshold > 1:
        return "never" if short else f"{threshold:g} (never leaves early)"
    return f"{threshold:g}"


def text_pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    """What each token adds to the decoded text: nothing for special tokens, but the end token stands for itself."""
    pieces, before = [], ""
    for i, token in enumerate(tokens, 1):
        text = tokenizer.decode(tokens[:i], skip_special_tokens=True)
        pieces.append(tokenizer.eos_token if token == tokenizer.eos_token_id else text[len(before) :])
        before = text
    return pieces


def depth_runs(pieces: Iterable[str], depths: Iterable[int], end_token: str | None) -> list[tuple[str, int]]:
    """Neighbouring pieces of one depth as one; the end token stays apart. Spaces that would not be seen become `·`.

    Args:
        pieces: of `text_pieces`.
        depths: of each token.
        end_token: how the end is written.
    """
    runs: list[tuple[str, int]] = []
    for piece, depth in zip(pieces, depths, strict=True):
        if runs and runs[-1][1] == depth and end_token not in (piece, runs[-1][0]):
            runs[-1] = (runs[-1][0] + piece, depth)
        elif piece:
            runs.append((piece, depth))
    return [("·" if text.isspace() else text, depth) for text, depth in runs]
