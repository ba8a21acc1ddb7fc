"""Boxes on a copy of a picture, each labelled in a color of its own, so that it reads on small pictures too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
LEAST_SIDE = 512  # px of the longer side; smaller pictures are enlarged
# Dark enough for white letters, and told apart by most of those who do not see all colors.
COLORS = ("#c2185b", "#1558b0", "#1b7a3d", "#7b1fa2", "#b04a00", "#00707a", "#5d4037", "#263238")
MOST_LINES = 3  # of a label
_HALO = 1  # px of white on both sides of a line


class Rect(NamedTuple):
    """Pixels x0 to x1 and y0 to y1, the last ones not included."""

    x0: int
    y0: int
    x1: int
    y1: int

    def shared(self, other: Rect) -> int:
        """Pixels of both."""
        width, height = (
            min(self.x1, other.x1) - max(self.x0, other.x0),
            min(self.y1, other.y1) - max(self.y0, other.y0),
        )
        return max(0, width) * max(0, height)

    def grown(self, by: int) -> Rect:
        """With `by` pixels more on each side."""
        return Rect(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)


def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str]) -> Image.Image:
    """A copy, RGB, its longer side at least `LEAST_SIDE`, with a frame around each box and its label at it.

    Labels stay inside the picture, and off one another as long as there is room.

    Args:
        image: any size; not changed.
        boxes: `x0, y0, x1, y1`, px of `image`, corners in any order; what lies outside is cut off.
        labels: one per box; long ones are broken into lines, and cut after `MOST_LINES`.

    Raises:
        ValueError: not as many labels as boxes.
    """
    from PIL import Image, ImageDraw

    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes, but {len(labels)} labels")
    scale = max(1.0, LEAST_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.convert("RGB")
    picture = picture.resize(size, Image.Resampling.BICUBIC) if scale > 1 else picture.copy()
    draw = ImageDraw.Draw(picture)
    line = max(3, round(max(size) / 170))
    font = load_font(max(14, round(max(size) / 34)))
    areas = [to_pixels(box, image.size, size) for box in boxes]
    for i, area in enumerate(areas):
        # Two texts may mean the same thing: its second frame goes around the first.
        twins = sum(max(abs(a - b) for a, b in zip(area, other, strict=True)) <= line for other in areas[:i])
        frame(draw, area, line, twins * (line + _HALO), COLORS[i % len(COLORS)], size)
    taken: list[Rect] = []
    areas = [area.grown(line + _HALO) for area in areas]
    for i, (area, label) in enumerate(zip(areas, labels, strict=True)):
        lines = broken(label, font, size)
        if not lines:
            continue
        place = best_place(area, label_size(lines, font), size, taken, areas)
        draw.rectangle((place.x0, place.y0, place.x1 - 1, place.y1 - 1), fill=COLORS[i % len(COLORS)])
        for n, text in enumerate(lines):
            at = (place.x0 + margin(font), place.y0 + margin(font) // 2 + n * line_height(font))
            draw.text(at, text, "white", font)
        taken.append(place)
    return picture


def to_pixels(box: Sequence[float], given: tuple[int, int], size: tuple[int, int]) -> Rect:
    """A box of a picture of one size in whole pixels of another size, ordered, cut off at the edges, one pixel at least.

    Args:
        box: `x0, y0, x1, y1`.
        given: the size that it is in.
        size: the other size.
    """
    x0, x1 = sorted(min(size[0], max(0, round(x * size[0] / given[0]))) for x in box[::2])
    y0, y1 = sorted(min(size[1], max(0, round(y * size[1] / given[1]))) for y in box[1::2])
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return Rect(x0, y0, max(x0 + 1, x1), max(y0 + 1, y1))


def frame(draw: Any, area: Rect, line: int, away: int, color: str, size: tuple[int, int]) -> None:
    """A line around an area; along the picture's edge it lies inside.

    Args:
        draw: of Pillow.
        area: what it goes around.
        line: its width, px.
        away: px from the area.
        color: of the line, which has a white one on both sides.
        size: of the picture.
    """
    for more, width, ink in ((_HALO, line + 2 * _HALO, "white"), (0, line, color)):
        out = away + line + more
        corners = (max(-more, area.x0 - out), max(-more, area.y0 - out))
        ends = (min(size[0] + more, area.x1 + out) - 1, min(size[1] + more, area.y1 + out) - 1)
        draw.rectangle((*corners, *ends), outline=ink, width=width)


def load_font(size: int) -> Any:
    """DejaVu Sans, which has most alphabets, where Matplotlib brings it; else Pillow's own."""
    from PIL import ImageFont

    from deed.data.synthetic.pages import fonts
    from deed.errors import DataError

    try:
        return fonts.load_font("dejavu", size)
    except DataError:
        return ImageFont.load_default(size)


def margin(font: Any) -> int:
    """Px left and right of a label's letters, half of it above and below."""
    return max(2, int(font.size) // 4)


def line_height(font: Any) -> int:
    """Px from one line of a label to the next."""
    return int(sum(font.getmetrics()))


def label_size(lines: Sequence[str], font: Any) -> tuple[int, int]:
    """Width and height, px, of a label with its margins."""
    width = max(int(font.getlength(text)) + 1 for text in lines)
    return width + 2 * margin(font), len(lines) * line_height(font) + margin(font)


def broken(label: str, font: Any, size: tuple[int, int]) -> list[str]:
    """A label in lines that fit into a picture; half its width is preferred. No lines where none fits.

    Args:
        label: the text.
        font: of Pillow.
        size: of the picture.
    """
    room = size[0] - 2 * margin(font) - 1
    width = min(room, max(size[0] // 2, 12 * int(font.size)))
    most = min(MOST_LINES, (size[1] - margin(font)) // line_height(font))
    lines: list[str] = []
    for word in label.split():
        for part in _parts(word, font, width):
            longer = f"{lines[-1]} {part}" if lines else part
            if lines and font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(part)
    if len(lines) > most > 0:
        last = lines[most - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip() + "…"]
    return lines if most > 0 and lines and max(map(font.getlength, lines)) <= room else []


def _parts(word: str, font: Any, width: int) -> Iterator[str]:
    """A word, in pieces where it is wider than a line."""
    while len(word) > 1 and font.getlength(word) > width:
        cut = next((n for n in range(len(word) - 1, 1, -1) if font.getlength(word[:n]) <= width), 1)
        yield word[:cut]
        word = word[cut:]
    yield word


def best_place(
    area: Rect, extent: tuple[int, int], size: tuple[int, int], taken: Sequence[Rect], areas: Sequence[Rect]
) -> Rect:
    """Where a label of an area goes: off other labels first, then off what any box shows, then near its own.

    Args:
        extent: width and height of the label.
        size: of the picture.
        taken: other labels.
        areas: of all boxes, with their frames.
    """
    width, height = extent
    beside = [(x, y) for y in (area.y0 - height, area.y1) for x in (area.x0, area.x1 - width)]
    beside += [(x, y) for x in (area.x1, area.x0 - width) for y in (area.y0, area.y1 - height)]
    within = [(x, y) for y in (area.y0, area.y1 - height) for x in (area.x0, area.x1 - width)]

    def inside(x: int, y: int) -> Rect:
        x0, y0 = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        return Rect(x0, y0, x0 + width, y0 + height)

    def cost(place: Rect) -> tuple[int, float]:
        hidden = sum(place.shared(other) / ((other.x1 - other.x0) * (other.y1 - other.y0)) for other in areas)
        far = max(0, area.x0 - place.x1, place.x0 - area.x1) + max(0, area.y0 - place.y1, place.y0 - area.y1)
        return sum(map(place.shared, taken)), hidden + far / (8 * height)

    best = min((inside(x, y) for x, y in beside + within), key=cost)
    if cost(best) == (0, 0):
        return best
    step = max(1, max(size) // 64)
    grid = [
        inside(x, y) for y in range(0, size[1] - height + step, step) for x in range(0, size[0] - width + step, step)
    ]
    return min([best, *grid], key=cost)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Written whole or not at all; what was there before is replaced.

    Raises:
        OSError: it cannot be written there.
    """
    from deed.utils.files import atomic_write

    with atomic_write(path) as temporary:
        picture.save(temporary, FORMATS[path.suffix.lower()])
