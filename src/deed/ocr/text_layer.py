"""Words and boxes out of a PDF page's own text, without OCR; and whether that text is all there is to read on the page.

PDFium gives the characters with their boxes in page space. Here they become words on 0..1000 of the upright page, as OCR
gives them: cropped and rotated pages by PDFium's own transformation, text set on its side by turning the page, ligatures
and words broken at the end of a line undone, lines in the order in which they are read.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .columns import Box, reading_order
from .words import Word, unit_box

GRID = 1_000_000  # device units of a page's longer side: PDFium rounds to whole ones
HYPHENS = ("-", "\u00ad", "\u2010", "\x02")  # the last is what PDFium writes for a hyphen that a line break made
BAD_SHARE = 0.1  # characters without a meaning (no Unicode mapping in the font) from which a text layer is of no use
PICTURE_SHARE = 0.3  # of the page's area under pictures that carry no text of the layer: what they say takes OCR
WORD_GAP = 0.18  # of the type size: characters further apart are of two words, with or without a space between them
HINTED_GAP = (
    0.07  # the same where PDFium guesses that there is a space, which it does within "11" too if a font's 1 is slim
)
LINE_BREAK = 0.5  # of the type size, from base line to base line; superscripts are 0.3 to 0.4 higher


@dataclass(frozen=True)
class TextLayer:
    """What a page says of its own text.

    Attributes:
        words: in reading order, boxes on 0..1000 of the upright page.
        rotation: degrees clockwise by which the page as PDFium draws it has to be turned to be upright.
        size: largest type of each word, parallel to `words`, in thousandths of the page's height.
        line: number of the line of each word, parallel to `words`; a word broken at the end of a line is on its first.
        covers: the text is what a reader sees: there is some, it has Unicode, and no picture without text fills the page.
        reason: why it does not cover the page; empty where it does.
    """

    words: list[Word]
    rotation: int
    size: list[float]
    line: list[int]
    covers: bool
    reason: str


@dataclass
class Char:
    """One visible character on the page as drawn (0..GRID).

    Attributes:
        text: the character.
        x0, y0, x1, y1: box of its ink.
        left, right: its room along the line, which ends where the next character's begins.
        base: base line, across the line.
        size: of the type.
        turn: degrees clockwise by which it lies: 0, 90, 180, 270.
        gap: share of the type size by which it is further right than the character before if it begins a word.
    """

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    left: float
    right: float
    base: float
    size: float
    turn: int
    gap: float


def read_text_layer(page: Any) -> TextLayer:
    """The text of a page.

    Args:
        page: a `pypdfium2.PdfPage`; the caller holds PDFium's lock.
    """
    width, height = page.get_size()
    grid = (round(GRID * width / max(width, height)), round(GRID * height / max(width, height)))
    chars, bad = _characters(page, grid)
    turns = Counter(char.turn for char in chars)
    turn = turns.most_common(1)[0][0] if turns else 0
    upright = [_turned(char, turn, grid) for char in chars if char.turn == turn]
    size = grid if turn in (0, 180) else grid[::-1]
    lines = in_reading_order(list(_lines(upright)))
    words, sizes, numbers = [], [], []
    for text, box, points, number in _joined(lines):
        words.append(Word(text, unit_box(*box, *size)))
        sizes.append(1000 * points / size[1])
        numbers.append(number)
    reason = _what_is_missing(page, grid, chars, bad)
    return TextLayer(words, (360 - turn) % 360, sizes, numbers, not reason, reason)


def _characters(page: Any, grid: tuple[int, int]) -> tuple[list[Char], int]:
    """Visible characters in the order of the page's content, and how many have no meaning."""
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    try:
        chars: list[Char] = []
        bad, gap = 0, WORD_GAP
        left, right, bottom, top = (ctypes.c_double() for _ in range(4))
        room, matrix = pdfium.FS_RECTF(), pdfium.FS_MATRIX()
        scale = max(grid) / max(page.get_size())
        for i in range(pdfium.FPDFText_CountChars(text_page.raw)):
            code = pdfium.FPDFText_GetUnicode(text_page.raw, i)
            text = chr(code) if code < 0x110000 else "\ufffd"
            if text.isspace() or not code:
                gap = min(gap, HINTED_GAP if pdfium.FPDFText_IsGenerated(text_page.raw, i) == 1 else -math.inf)
                continue
            if pdfium.FPDFText_HasUnicodeMapError(text_page.raw, i) == 1 or unicodedata.category(text) in ("Co", "Cn"):
                bad += 1
                continue
            if not pdfium.FPDFText_GetCharBox(text_page.raw, i, left, right, bottom, top):
                continue
            angle = pdfium.FPDFText_GetCharAngle(text_page.raw, i)
            x0, y0 = _device(page, grid, left.value, top.value)
            x1, y1 = _device(page, grid, right.value, bottom.value)
            turn = round(math.degrees(angle) / 90) % 4 * 90 if angle >= 0 else 0  # clockwise
            turn = (turn + 90 * pdfium.FPDFPage_GetRotation(page.raw)) % 360
            box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            if box[2] <= 0 or box[3] <= 0 or box[0] >= grid[0] or box[1] >= grid[1]:
                continue  # outside the crop box: nobody sees it
            size = pdfium.FPDFText_GetFontSize(text_page.raw, i) * scale
            if pdfium.FPDFText_GetMatrix(text_page.raw, i, matrix):  # a font of 1 point, scaled by the text matrix
                size *= math.hypot(matrix.c, matrix.d)
            size = max(size, box[3] - box[1] if turn in (0, 180) else box[2] - box[0])
            along = (box[0], box[2]) if turn in (0, 180) else (box[1], box[3])
            if pdfium.FPDFText_GetLooseCharBox(text_page.raw, i, room):
                a, b = (_device(page, grid, x, y) for x, y in ((room.left, room.top), (room.right, room.bottom)))
                axis = 0 if turn in (0, 180) else 1
                along = (min(a[axis], b[axis]), max(a[axis], b[axis]))
            pdfium.FPDFText_GetCharOrigin(text_page.raw, i, left, bottom)
            base = _device(page, grid, left.value, bottom.value)[1 if turn in (0, 180) else 0]
            chars.append(Char(text, *box, *along, base, size, turn, gap))
            gap = WORD_GAP
        return chars, bad
    finally:
        text_page.close()


def _device(page: Any, grid: tuple[int, int], x: float, y: float) -> tuple[int, int]:
    import pypdfium2.raw as pdfium

    at_x, at_y = ctypes.c_int(), ctypes.c_int()
    pdfium.FPDF_PageToDevice(page.raw, 0, 0, *grid, 0, x, y, at_x, at_y)
    return at_x.value, at_y.value


def _turned(char: Char, turn: int, grid: tuple[int, int]) -> Char:
    """The character on the page turned back by `turn` degrees, so that it stands upright."""
    width, height = grid
    x0, y0, x1, y1 = char.x0, char.y0, char.x1, char.y1
    left, right, base = char.left, char.right, char.base
    if turn == 90:  # its top points right: turned counter-clockwise, right becomes up
        x0, y0, x1, y1, base = y0, width - x1, y1, width - x0, width - base
    elif turn == 180:
        x0, y0, x1, y1, base = width - x1, height - y1, width - x0, height - y0, height - base
        left, right = width - right, width - left
    elif turn == 270:
        x0, y0, x1, y1 = height - y1, x0, height - y0, x1
        left, right = height - right, height - left
    return Char(char.text, x0, y0, x1, y1, left, right, base, char.size, 0, char.gap)


@dataclass
class TextWord:
    """Characters of one word on an upright page."""

    chars: list[Char]

    @property
    def text(self) -> str:
        """Its characters in order."""
        return "".join(char.text for char in self.chars)

    @property
    def box(self) -> Box:
        """Around all its characters."""
        c = self.chars
        return min(x.x0 for x in c), min(x.y0 for x in c), max(x.x1 for x in c), max(x.y1 for x in c)

    @property
    def size(self) -> float:
        """Its largest type."""
        return max(char.size for char in self.chars)


def _lines(chars: Sequence[Char]) -> Iterator[list[TextWord]]:
    """Words line by line, in the order of the page's content."""
    line: list[TextWord] = []
    before: Char | None = None
    for char in chars:
        size = max(char.size, before.size if before else 0.0)
        if before is not None and (
            abs(char.base - before.base) > LINE_BREAK * size
            or char.left < before.left - size
            or char.left > before.right + 4 * size
        ):
            yield line
            line = []
        apart = before is None or char.left - before.right > char.gap * size
        if not line or apart:
            line.append(TextWord([char]))
        else:
            line[-1].chars.append(char)
        before = char
    if line:
        yield line


def in_reading_order(lines: list[list[TextWord]]) -> list[list[TextWord]]:
    """Lines as they are read; see `reading_order`."""
    order = reading_order([(_hull(line), max(word.size for word in line)) for line in lines])
    return [lines[i] for i in order]


def _hull(line: Sequence[TextWord]) -> Box:
    boxes = [word.box for word in line]
    return min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)


def _joined(lines: Sequence[list[TextWord]]) -> Iterator[tuple[str, Box, float, int]]:
    """Words with their boxes, type sizes and line numbers. Ligatures are spelled out; of a word that a line break divides the
    parts are put together, with the box of the first."""
    broken: tuple[TextWord, Box, int] | None = None
    for number, line in enumerate(lines):
        _, top, _, bottom = _hull(line)
        for place, word in enumerate(line):
            at, box = number, (word.box[0], top, word.box[2], bottom)  # as high as the line, as OCR gives it
            text = _spelled(word.text)
            if broken is not None:
                text = _spelled(broken[0].text)[:-1] + text
                (word, box, at), broken = broken, None
            last = place == len(line) - 1
            follows = lines[number + 1][0].text if last and number + 1 < len(lines) else ""
            if last and len(word.text) > 2 and word.text[-1] in HYPHENS and _goes_on(word.text, follows):
                broken = word, box, at
                continue
            text = text.replace("\x02", "-").replace("\u00ad", "")
            if text:
                yield text, box, word.size, at


def _goes_on(text: str, follows: str) -> bool:
    """Whether the hyphen at the end of a line only breaks a word: letters on both sides, the second part in lower case."""
    return text[-2].isalpha() and bool(follows) and follows[0].islower()


def _spelled(text: str) -> str:
    """Ligatures (U+FB00 to U+FB06) as their letters; everything else as it is, in composed form."""
    return "".join(
        unicodedata.normalize("NFKC", c) if "\ufb00" <= c <= "\ufb06" else c
        for c in unicodedata.normalize("NFC", text)
    )


def _what_is_missing(page: Any, grid: tuple[int, int], chars: Sequence[Char], bad: int) -> str:
    """Why the text layer is not all there is to read on the page; empty where it is."""
    if not chars:
        return "the page has no text layer"
    if bad > BAD_SHARE * (bad + len(chars)):
        return f"{bad} of its {bad + len(chars)} characters have no Unicode"
    silent = sum(_area(box) for box in _pictures(page, grid) if not _speaks(box, chars))
    if silent > PICTURE_SHARE * grid[0] * grid[1]:
        return "a picture without text of its own fills much of the page"
    return ""


def _pictures(page: Any, grid: tuple[int, int]) -> Iterator[Box]:
    """Boxes of the pictures on a page as drawn, clipped to it."""
    import pypdfium2.raw as pdfium

    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = item.get_bounds()
        x0, y0 = _device(page, grid, left, top)
        x1, y1 = _device(page, grid, right, bottom)
        box = (
            max(0, min(x0, x1)),
            max(0, min(y0, y1)),
            min(grid[0], max(x0, x1)),
            min(grid[1], max(y0, y1)),
        )
        if box[0] < box[2] and box[1] < box[3]:
            yield box


def _speaks(box: Box, chars: Sequence[Char]) -> bool:
    """Whether the text layer has text in a picture, as scans that were read have: one character for each 25 type sizes
    squared of it, at least."""
    inside = [c for c in chars if box[0] <= (c.x0 + c.x1) / 2 <= box[2] and box[1] <= (c.y0 + c.y1) / 2 <= box[3]]
    if not inside:
        return False
    size = statistics.median(c.size for c in inside)
    return len(inside) * 25 * size * size >= _area(box)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
