"""Where the lines of text are on a picture, cut out and read one by one: PP-OCR's networks, run so that no CPU waits.

RapidOCR's own loop reads six lines at a time, each padded to the longest, with all CPUs on one network. Here each line is read
by itself, at its own width, and the CPUs read different lines: more than twice as fast, and better, since padding and lines of
2,000 pixels, which are cut here between two words, make the network misread.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from deed.utils.optional import need

from .lines import TALL, Line, join_pieces

LINE = 48  # height at which a line is read, pixels
NARROWEST, WIDEST = 160, 500  # width at which a line is read: padded from, and cut between two words to
STEP = 32  # widths are padded to multiples of it: OpenVINO makes itself ready for each width that it has not met
GAP = 0.12  # of a line's height: a gap between words to cut at is at least this wide
REACH = 0.35  # of a part's width: a cut may be this far from where equal parts would have it
FIRST_SIDE, LAST_SIDE = (
    736,
    2000,
)  # longer side of the picture in which lines are looked for, pixels: first, and at most
LOW = 14.0  # pixels: where lines found are lower, they are looked for once more in a larger picture
SPECK, INK, LEFT = 31, 32, 6  # so many spots, of so many pixels at most and so much contrast, may be letters
MULTIPLE = 32  # of which sides have to be for the network that finds lines
ASKED = 32  # lines, the longest, whose direction is asked for: a millisecond each
SURE = 0.9  # RapidOCR's own threshold for taking a line to be upside down


class Engine:
    """PP-OCR's networks as RapidOCR loads them.

    Args:
        finder: a `RapidOCR` whose detection is used, by all threads at once.
        reader: a `RapidOCR` of one thread, whose other networks several threads may use.
        threads: how many.
    """

    def __init__(self, finder: Any, reader: Any, threads: int) -> None:
        self.finder, self.classifier, self.recognizer = finder.text_det, reader.text_cls, reader.text_rec
        self.place_words = reader.cal_rec_boxes
        self.pool = ThreadPoolExecutor(threads, "deed-ocr") if threads > 1 else None

    def read(self, pixels: np.ndarray) -> list[Line]:
        """The lines of text on a picture `[height, width, 3]`, blue first, that have any letters."""
        quads, crops = cut_lines(pixels, self.find(pixels))
        by_length = sorted(range(len(crops)), key=lambda i: -_width(crops[i]))
        asked = by_length[:ASKED]
        flipped = self.upside_down(crops, asked)
        if flipped:
            flipped |= self.upside_down(crops, by_length[ASKED:])
        for i in flipped:
            crops[i] = crops[i][::-1, ::-1]
        # The longest first, so that no thread is left with one at the end.
        answers = (self.pool.map if self.pool else map)(self.recognize, [crops[i] for i in by_length])
        read = {i: found for i, found in zip(by_length, answers, strict=True) if found[0].strip()}
        return self._lines(quads, crops, read, flipped, set(asked))

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """Corners `[lines, 4, 2]` of the lines, clockwise from the top left, pixels."""
        longer, shorter = max(pixels.shape[:2]), min(pixels.shape[:2])
        scale, most = min(1.0, FIRST_SIDE / longer), LAST_SIDE / longer
        quads = self._find_at(pixels, scale)
        wanted = min(max(1.0, FIRST_SIDE / shorter), most)
        if len(quads) and not _letters_left(pixels, quads, scale):
            low = float(np.quantile(_low_sides(quads), 0.1)) * scale
            wanted = min(wanted, scale * LOW / low)
        return self._find_at(pixels, wanted) if wanted > scale else quads

    def _find_at(self, pixels: np.ndarray, scale: float) -> np.ndarray:
        height, width = pixels.shape[:2]
        size = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height)]
        found, _ = self.finder.postprocess_op(self.finder.session(_network_input(pixels, size)), (height, width))
        quads = self.finder.sorted_boxes(found) if len(found) else found
        return np.asarray(quads, dtype=np.float32).reshape(-1, 4, 2)

    def upside_down(self, crops: Sequence[np.ndarray], which: Sequence[int]) -> set[int]:
        """Those of the lines `which` that stand on their heads."""
        if not which:
            return set()
        answers = self.classifier([np.ascontiguousarray(crops[i]) for i in which]).cls_res
        return {i for i, (label, score) in zip(which, answers, strict=True) if "180" in label and score > SURE}

    def recognize(self, crop: np.ndarray) -> tuple[str, float, Any]:
        """A line's text, its score, and RapidOCR's notes on where its words are."""
        width = max(1, math.ceil(_width(crop)))
        values = _network_input(crop, (width, LINE))
        full = max(math.ceil(width / STEP) * STEP, NARROWEST)
        padded = np.zeros((1, 3, LINE, full), np.float32)
        padded[..., :width] = values
        chances = self.recognizer.session(padded)
        [(text, score)], [places] = self.recognizer.postprocess_op.decode(
            chances.argmax(2), chances.max(2), True, [width / LINE], full / LINE, remove_duplicate=True
        )
        return text, float(score), places

    def _lines(
        self, quads: np.ndarray, crops: Sequence[np.ndarray], read: dict[int, Any], flipped: set[int], asked: set[int]
    ) -> list[Line]:
        from rapidocr.ch_ppocr_rec.typings import TextRecOutput

        kept = sorted(read)
        texts, scores, places = zip(*(read[i] for i in kept), strict=True) if kept else ((), (), ())
        result = TextRecOutput([crops[i] for i in kept], texts, list(scores), places)
        placed = self.place_words(result.imgs, quads[kept].copy(), result, False).word_results if kept else ()
        found = []
        for i, text, score, pieces in zip(kept, texts, scores, placed, strict=True):
            corners = quads[i].astype(float)
            words = join_pieces(text, [(piece, np.asarray(points, dtype=float)) for piece, _, points in pieces])
            if i in flipped:  # RapidOCR counts the words of a line that it turned from the wrong end
                words = [(word, corners[0] + corners[2] - at) for word, at in words]
            if words:
                found.append(Line(words, score, corners, i in flipped, i in asked))
        return found


def _letters_left(pixels: np.ndarray, quads: np.ndarray, scale: float) -> bool:
    """Whether there is something as small as letters outside of the lines that were found in a smaller picture."""
    cv2 = need("cv2")
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ink = (cv2.absdiff(grey, cv2.blur(grey, (SPECK, SPECK))) > INK).astype(np.uint8)
    for quad in quads:
        cv2.fillConvexPoly(ink, np.round(quad * scale).astype(np.int32), 0)
    _, _, specks, _ = cv2.connectedComponentsWithStats(ink)
    width, height, area = specks[1:, 2], specks[1:, 3], specks[1:, 4]
    return int(((width <= SPECK) & (height <= SPECK) & (area >= 4)).sum()) >= LEFT


def cut_lines(pixels: np.ndarray, quads: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Lines cut out and laid flat, long ones in parts: the corners of each, and its picture."""
    from rapidocr.utils.process_img import get_rotate_crop_image

    corners, crops = [], []
    for quad in quads:
        crop = get_rotate_crop_image(pixels, quad.copy())
        edges = [0, *cut_places(crop), crop.shape[1]]
        tall = _side(quad[0], quad[3]) >= TALL * _side(quad[0], quad[1])
        top, bottom = (quad[[0, 3]], quad[[1, 2]]) if tall else (quad[[0, 1]], quad[[3, 2]])
        for start, end in itertools.pairwise(edges):
            at = np.array([[start], [end]], np.float32) / crop.shape[1]
            (a, b), (d, c) = top[:1] + at * (top[1:] - top[:1]), bottom[:1] + at * (bottom[1:] - bottom[:1])
            corners.append([a, d, c, b] if tall else [a, b, c, d])
            crops.append(crop[:, start:end])
    return np.array(corners, np.float32).reshape(-1, 4, 2), crops


def cut_places(crop: np.ndarray) -> list[int]:
    """Where to cut a line `[height, width, 3]` into parts no wider than `WIDEST`: in the widest gap near each even cut."""
    height, width = crop.shape[:2]
    parts = math.ceil(_width(crop) / WIDEST)
    if parts < 2:
        return []
    dark = crop[round(0.1 * height) : max(1, round(0.8 * height))].min(axis=2).astype(np.int16)  # without underlines
    ink = dark.max(axis=0) - dark.min(axis=0)
    blank = ink < max(20, ink.max() / 4)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], blank, [False]])))
    places = []
    for middle in (width * part / parts for part in range(1, parts)):
        low, high = middle - REACH * width / parts, middle + REACH * width / parts
        starts, ends = np.clip(edges[::2], low, high), np.clip(edges[1::2], low, high)
        widest = int(np.argmax(ends - starts)) if len(starts) else 0
        if len(starts) and ends[widest] - starts[widest] >= GAP * height:
            places.append(int(starts[widest] + ends[widest]) // 2)
    return places


def _width(crop: np.ndarray) -> float:
    """Width of a line at the height at which it is read."""
    return LINE * crop.shape[1] / crop.shape[0]


def _side(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(other - one))


def _low_sides(quads: np.ndarray) -> np.ndarray:
    return np.minimum(
        np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1), np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)
    )


def _network_input(pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A picture at `size` (width, height), -1..1, as the networks take it: `[1, 3, height, width]`."""
    values = need("cv2").resize(np.ascontiguousarray(pixels), tuple(size)).astype(np.float32)
    values /= 127.5
    values -= 1.0
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
