"""The RapidOCR engine: PP-OCR's detection, direction and recognition models, as its wheel has them, on ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from deed.errors import DataError
from deed.utils.optional import INSTALL, need

from .base import Reading
from .words import Word, unit_box

MIN_SIDE = 6  # pixels; no letter is legible below
MAX_ASPECT = 2.5  # longer images are padded, as the engine would blow their short side up to 736 pixels
TALL = 1.5  # from here on (height over width) RapidOCR takes a line's text to stand on end
ASKED = 32  # lines, the longest, whose direction is asked for: a millisecond each
SURE = 0.9  # RapidOCR's own threshold for taking a line to be upside down
MIN_SCORE = 0.5  # and for what it takes to be text
LOW_SCORE = 0.8  # text read in the wrong direction gets 0.4 to 0.75, rightly read text rarely below 0.9
# A page is turned for this much text. With less the direction is a guess, and turned lines are read all the same.
TURN_LINES, TURN_CHARS = 2, 12

# By process and threads: a forked process cannot use its parent's sessions, whose threads it did not inherit.
_engines: dict[tuple[int, int], Any] = {}
_lock = threading.RLock()


class Line(NamedTuple):
    """A line of text: its words with their corners (`[n, 2]` pixels), score and corners (`[4, 2]`, clockwise from the
    top left)."""

    words: list[tuple[str, np.ndarray]]
    score: float
    corners: np.ndarray

    @property
    def chars(self) -> int:
        """Number of characters."""
        return sum(len(text) for text, _ in self.words)

    @property
    def sides(self) -> tuple[float, float]:
        """Width along the text and height across it, pixels."""
        across, down = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        return math.hypot(*across), math.hypot(*down)

    @property
    def tall(self) -> bool:
        """Whether it stands on end."""
        width, height = self.sides
        return height >= TALL * width


def version() -> str:
    """Name and version; the version decides about the models.

    Raises:
        DataError: the package is not installed.
    """
    try:
        return f"rapidocr {importlib.metadata.version('rapidocr')}"
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"rapidocr is not installed: {INSTALL}") from None


def start(threads: int) -> None:
    """Make the engine ready, so that the first reading takes no longer than the next.

    Raises:
        DataError: a package or a model is missing or damaged.
    """
    _engine(threads)


def read(image: Any, threads: int) -> Reading:
    """The words of an RGB image as it lies."""
    if min(image.size) < MIN_SIDE:
        return Reading([], 0.0, 0)
    pixels = _padded(np.asarray(image)[:, :, ::-1])  # RapidOCR works in OpenCV's order, blue first
    with _lock, _quiet():
        engine = _engine(threads)
        try:
            result = engine(pixels, use_det=True, use_cls=True, use_rec=True, return_word_box=True, text_score=0.0)
            lines = reading_order(_lines(result))
            by_length = sorted(range(len(lines)), key=lambda i: -lines[i].chars)
            asked = [i for i in by_length[:ASKED] if lines[i].chars > 1]
            flipped = {i for i in asked if _was_flipped(lines[i], image, engine)}
        except Exception as error:
            raise DataError(f"rapidocr failed: {error}") from error
    words = []
    upright = 0.0
    for i, line in enumerate(lines):
        if line.score < MIN_SCORE:
            continue
        if not line.tall and i not in flipped:
            upright += line.score * line.chars
        for text, corners in line.words:
            # RapidOCR forgets that it flipped a line, and counts its words from the wrong end.
            places = line.corners[0] + line.corners[2] - corners if i in flipped else corners
            (x0, y0), (x1, y1) = places.min(0), places.max(0)
            words.append(Word(text, unit_box(x0, y0, x1, y1, *image.size)))
    return Reading(words, upright, _advice([(lines[i], i in flipped) for i in asked]))


def _advice(lines: list[tuple[Line, bool]]) -> int:
    """The turn that most characters ask for."""
    chars: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for line, flipped in lines:
        # A line on end was turned to the left; then, as any other, flipped if it looked upside down. What that made of
        # it tells whether the look was right.
        upside_down = flipped if line.score >= LOW_SCORE else not flipped
        turn = (90 if upside_down else 270) if line.tall else (180 if upside_down else 0)
        chars[turn] += line.chars
        count[turn] += 1
    turn = max(chars, key=lambda turn: chars[turn], default=0)
    return turn if count[turn] >= TURN_LINES and chars[turn] >= TURN_CHARS else 0


def _was_flipped(line: Line, image: Any, engine: Any) -> bool:
    """Whether RapidOCR took the line to be upside down, which its results do not say: its classifier is asked again."""
    corners, (width, height) = line.corners, line.sides
    if line.tall:  # turned to the left first: the top right becomes the top left
        corners, width, height = np.roll(corners, -1, axis=0), height, width
    size = min(192, max(32, math.ceil(48 * width / max(height, 1)))), 48  # as the classifier gets it
    quad = [float(v) for corner in corners[[0, 3, 2, 1]] for v in corner]
    crop = image.transform(size, need("PIL.Image").Transform.QUAD, quad, need("PIL.Image").Resampling.BILINEAR)
    result = engine(np.asarray(crop)[:, :, ::-1].copy(), use_det=False, use_cls=True, use_rec=False)
    label, score = result.cls_res[0]
    return "180" in label and score > SURE


def _lines(result: Any) -> list[Line]:
    """RapidOCR's result, which is of another type, without these fields, where nothing was found."""
    if not getattr(result, "txts", None):
        return []
    lines = []
    for text, score, corners, pieces in zip(
        result.txts, result.scores, result.boxes, result.word_results, strict=True
    ):
        words = join_pieces(text, [(piece, np.asarray(points, dtype=float)) for piece, _, points in pieces])
        if words:
            lines.append(Line(words, float(score), np.asarray(corners, dtype=float)))
    return lines


def join_pieces(text: str, pieces: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Words of a line. Where it has a single Chinese character in it, RapidOCR gives a box to every character; those of
    other scripts are put together to words again.

    Args:
        text: the line.
        pieces: parts of it in their order, with their corners `[4, 2]`.

    Returns:
        Words without white space, with the corners of all their pieces `[n, 2]`.
    """
    by_character = any(_is_wide(piece) for piece, _ in pieces)
    words: list[tuple[str, np.ndarray]] = []
    place = 0
    for piece, corners in pieces:
        found = text.find(piece, place)
        adjacent = found == place and place > 0
        place = max(found, place) + len(piece)
        piece = "".join(piece.split())
        if not piece:
            continue
        if by_character and adjacent and words and not _is_wide(piece) and not _is_wide(words[-1][0]):
            words[-1] = words[-1][0] + piece, np.concatenate([words[-1][1], corners])
        else:
            words.append((piece, corners))
    return words


def _is_wide(text: str) -> bool:
    return any("\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\uffef" for char in text)


def reading_order(lines: list[Line]) -> list[Line]:
    """Lines row by row, each row from left to right; rows of a skewed page run along its skew."""
    if not lines:
        return []
    flat = [line for line in lines if not line.tall] or lines
    slopes = sorted((math.atan2(*(line.corners[1] - line.corners[0])[::-1]), line.sides[0]) for line in flat)
    half, angle = sum(width for _, width in slopes) / 2, 0.0
    for slope, width in slopes:  # the median, by length: short lines tell little
        angle, half = slope, half - width
        if half <= 0:
            break
    cos, sin = math.cos(-angle), math.sin(-angle)
    placed = []
    for line in lines:
        x, y = line.corners.mean(0)
        placed.append((x * sin + y * cos, x * cos - y * sin, min(line.sides), line))
    placed.sort(key=lambda item: item[0])
    rows: list[list[Any]] = []
    for item in placed:
        row = rows[-1] if rows else []
        level = sum(y for y, *_ in row) / len(row) if row else -math.inf
        if row and item[0] - level < min(item[2], min(size for _, _, size, _ in row)) / 2:
            row.append(item)
        else:
            rows.append([item])
    return [line for row in rows for *_, line in sorted(row, key=lambda item: item[1])]


def _padded(pixels: np.ndarray) -> np.ndarray:
    """White below or to the right of an image that is longer than `MAX_ASPECT` times its width."""
    height, width = pixels.shape[:2]
    down, right = max(0, math.ceil(width / MAX_ASPECT) - height), max(0, math.ceil(height / MAX_ASPECT) - width)
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), constant_values=255)


def _engine(threads: int) -> Any:
    key = os.getpid(), threads
    with _lock:
        if key not in _engines:
            with _quiet():
                _engines[key] = _make_engine(threads)
        return _engines[key]


def _make_engine(threads: int) -> Any:
    need("onnxruntime")
    rapidocr = need("rapidocr")
    options = {
        # RapidOCR ignores more threads than there are CPUs, and then takes them all.
        "EngineConfig.onnxruntime.intra_op_num_threads": min(threads, os.cpu_count() or 1),
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        # Named, so that a missing or changed file is an error here and not a download.
        "Det.model_path": _model("det"),
        "Cls.model_path": _model("cls"),
        "Rec.model_path": _model("rec"),
    }
    try:
        engine = rapidocr.RapidOCR(params=options)
        # Models are loaded when first used: the one for detection, then the others.
        engine(np.zeros((64, 64, 3), np.uint8), use_det=True, use_cls=True, use_rec=True)
        engine(np.zeros((48, 192, 3), np.uint8), use_det=False, use_cls=True, use_rec=True)
    except Exception as error:
        raise DataError(
            f"rapidocr cannot load its models ({error}): pip install --force-reinstall --no-deps rapidocr"
        ) from error
    return engine


def _model(task: str) -> str:
    """The model file that the wheel brought, not one that was downloaded beside it."""
    files = importlib.metadata.files("rapidocr") or []
    found = [file for file in files if file.suffix == ".onnx" and f"_{task}_" in file.name]
    if len(found) != 1 or not found[0].locate().exists():  # type: ignore[attr-defined]
        raise DataError(
            f"{version()} has no {task} model of its own: pip install --force-reinstall --no-deps 'rapidocr>=3.10,<4'"
        )
    return str(found[0].locate())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps RapidOCR's log lines of this thread back; its logger's level, which it sets itself, is put back after."""
    logger, thread = logging.getLogger("RapidOCR"), threading.get_ident()
    level = logger.level

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)
        logger.setLevel(level)
