"""Where the label of a marked box goes: beside it, above or below, wherever it hides least of what is printed."""

from __future__ import annotations

from collections.abc import Sequence

from .places import Box

# Sizes in px as the page draws them (style.css.j2), on a picture about so wide.
WIDTH, CHAR, LINE, PADDING, GAP = 380, 6.0, 16, 10, 4
SIDES = ("right", "above", "below", "left", "above-end", "below-end")
ON_MARK = 4.0  # hiding another mark or label is worse by so much than hiding other words


def place_labels(
    marks: Sequence[tuple[str, Box]], words: Sequence[Box], size: tuple[int, int], taken: Sequence[Box] = ()
) -> list[str]:
    """A side of `SIDES` for each mark, in the order given.

    Args:
        marks: label and box; boxes on 0..1000 of the page.
        words: boxes of all that is printed.
        size: width and height of the page.
        taken: further boxes that should stay free, as those of other marks.
    """
    high = WIDTH * size[1] / size[0]
    busy = [*taken, *(box for _, box in marks)]
    sides = []
    for label, box in marks:
        width = 1000 * (CHAR * len(label) + PADDING) / WIDTH
        spots = label_spots(box, width, 1000 * LINE / high, (1000 * GAP / WIDTH, 1000 * GAP / high))
        others = [other for other in busy if other != box]

        def cost(side: str, spots: dict[str, Box] = spots, others: list[Box] = others) -> float:
            spot = spots[side]
            outside = _area(spot) - _shared(spot, (0, 0, 1000, 1000))
            hidden = sum(_shared(spot, word) for word in words)
            return hidden + ON_MARK * sum(_shared(spot, other) for other in others) + 100 * outside

        side = min(SIDES, key=cost)  # the first of equals
        sides.append(side)
        busy.append(spots[side])
    return sides


def label_spots(box: Box, width: float, height: float, gap: tuple[float, float]) -> dict[str, Box]:
    """The places that a label could take, by side.

    Args:
        box: what is labelled.
        width, height: of the label.
        gap: between both, across and down.
    """
    x0, y0, x1, y1 = box
    across, down = gap
    middle = (y0 + y1 - height) / 2
    corners = {
        "right": (x1 + across, middle),
        "left": (x0 - across - width, middle),
        "above": (x0, y0 - down - height),
        "below": (x0, y1 + down),
        "above-end": (x1 - width, y0 - down - height),
        "below-end": (x1 - width, y1 + down),
    }
    return {side: (round(x), round(y), round(x + width), round(y + height)) for side, (x, y) in corners.items()}


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _shared(one: Box, other: Box) -> int:
    return _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
