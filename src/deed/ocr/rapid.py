"""The RapidOCR engine: the models for detection, direction and recognition of its wheel, on OpenVINO or ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from deed.errors import DataError
from deed.utils.optional import INSTALL, need

from . import networks
from .base import Reading
from .line_images import Engine
from .lines import Line, reading_order
from .words import Word, unit_box

MIN_SIDE = 6  # pixels; no letter is legible below
MAX_ASPECT = 2.5  # longer images are padded, as the engine would blow their short side up to 736 pixels
MIN_SCORE = 0.5  # RapidOCR's own threshold for what it takes to be text
LOW_SCORE = 0.8  # text read in the wrong direction gets 0.4 to 0.75, rightly read text rarely below 0.9
# A page is turned for this much text. With less the direction is a guess, and turned lines are read all the same.
TURN_LINES, TURN_CHARS = 2, 12

# By process and threads: a forked process cannot use its parent's sessions, whose threads it did not inherit.
_engines: dict[tuple[int, int], Engine] = {}
_lock = threading.RLock()


def version() -> str:
    """Name and version; the version decides about the models, and the precision, if it is not float32, about slips.

    Raises:
        DataError: the package is not installed.
    """
    try:
        name = _release()
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"rapidocr is not installed: {INSTALL}") from None
    return f"{name} {networks.HALF}" if networks.precision() == networks.HALF else name


def _release() -> str:
    return f"rapidocr {importlib.metadata.version('rapidocr')}"


def start(threads: int) -> None:
    """Make the engine ready, so that the first reading takes no longer than the next.

    Raises:
        DataError: a package or a model is missing or damaged.
    """
    _engine(threads)


def read(image: Any, threads: int) -> Reading:
    """The words of an RGB image as it lies.

    Args:
        image: a `PIL.Image.Image`.
        threads: as many lines are read at once.
    """
    if min(image.size) < MIN_SIDE:
        return Reading([], 0.0, 0)
    engine = _engine(threads)
    try:
        lines = engine.read(_padded(np.asarray(image)[:, :, ::-1]))  # the networks take blue first
    except Exception as error:
        raise DataError(f"rapidocr failed: {error}") from error
    words = []
    upright = 0.0
    for line in reading_order(lines):
        if line.score < MIN_SCORE:
            continue
        if not line.tall and not line.flipped:
            upright += line.score * line.chars
        for text, corners in line.words:
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            words.append(Word(text, unit_box(x0, y0, x1, y1, *image.size)))
    return Reading(words, upright, _advice([line for line in lines if line.asked and line.chars > 1]))


def _advice(lines: list[Line]) -> int:
    """The turn that most characters ask for."""
    chars: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for line in lines:
        # A line on end was turned to the left; then, as any other, flipped if it looked upside down. What that made of
        # it tells whether the look was right.
        upside_down = line.flipped if line.score >= LOW_SCORE else not line.flipped
        turn = (90 if upside_down else 270) if line.tall else (180 if upside_down else 0)
        chars[turn] += line.chars
        count[turn] += 1
    turn = max(chars, key=lambda turn: chars[turn], default=0)
    return turn if count[turn] >= TURN_LINES and chars[turn] >= TURN_CHARS else 0


def _padded(pixels: np.ndarray) -> np.ndarray:
    """White below or to the right of an image that is longer than `MAX_ASPECT` times its width."""
    height, width = pixels.shape[:2]
    down, right = max(0, math.ceil(width / MAX_ASPECT) - height), max(0, math.ceil(height / MAX_ASPECT) - width)
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), constant_values=255)


def _engine(threads: int) -> Engine:
    key = os.getpid(), threads
    with _lock:
        if key not in _engines:
            with _quiet():
                _engines[key] = _make_engine(threads)
        return _engines[key]


def _make_engine(threads: int) -> Engine:
    need("onnxruntime")
    rapidocr = need("rapidocr")
    options = {
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        # Else memory is handed back to the system and asked for anew at every layer.
        "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
        # Named, so that a missing or changed file is an error here and not a download.
        "Det.model_path": _model("det"),
        "Cls.model_path": _model("cls"),
        "Rec.model_path": _model("rec"),
    }
    share = "EngineConfig.onnxruntime.intra_op_num_threads"
    # RapidOCR ignores more threads than there are CPUs, and then takes them all.
    threads = min(threads, os.cpu_count() or 1)
    try:
        finder, reader = (rapidocr.RapidOCR(params={**options, share: count}) for count in (threads, 1))
        # Models are loaded when first used.
        finder(np.zeros((64, 64, 3), np.uint8), use_det=True, use_cls=False, use_rec=False)
        reader(np.zeros((48, 192, 3), np.uint8), use_det=False, use_cls=True, use_rec=True)
        if kind := networks.precision():
            finder.text_det.session = networks.Network(_model("det"), threads)
            reader.text_rec.session = networks.Network(_model("rec"), threads, threads, kind)
        return Engine(finder, reader, threads)
    except Exception as error:
        raise DataError(
            f"rapidocr cannot load its models ({error}): pip install --force-reinstall --no-deps rapidocr"
        ) from error


def _model(task: str) -> str:
    """The model file that the wheel brought, not one that was downloaded beside it."""
    files = importlib.metadata.files("rapidocr") or []
    found = [file for file in files if file.suffix == ".onnx" and f"_{task}_" in file.name]
    if len(found) != 1 or not found[0].locate().exists():  # type: ignore[attr-defined]
        raise DataError(
            f"{_release()} has no {task} model of its own: pip install --force-reinstall --no-deps 'rapidocr>=3.10,<4'"
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
