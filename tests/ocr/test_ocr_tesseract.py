"""Tesseract, with `pytesseract` faked."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_ocr import page, read

from deed.ocr import DataError, Word, read_words, tesseract, turn_image


class NotFound(OSError):
    pass


class Failed(RuntimeError):
    pass


def fake_tesseract(monkeypatch, reads, missing=False):
    """`pytesseract` whose readings are given by the image's size: lists of (text, conf, left, top, width, height)."""

    def get_tesseract_version():
        if missing:
            raise NotFound("tesseract is not installed")
        return "5.3.0"

    def image_to_data(image, output_type):
        rows = reads(image)
        if rows is None:
            raise Failed(1, "no eng.traineddata")
        return dict(zip(("text", "conf", "left", "top", "width", "height"), zip(*rows, strict=True), strict=False))

    module = SimpleNamespace(
        get_tesseract_version=get_tesseract_version,
        image_to_data=image_to_data,
        Output=SimpleNamespace(DICT="dict"),
        TesseractNotFoundError=NotFound,
        TesseractError=Failed,
    )
    monkeypatch.setitem(sys.modules, "pytesseract", module)


def test_tesseract(monkeypatch):
    rows = [
        ("", "-1", 0, 0, 640, 480),
        (" Total ", 96.5, 64, 48, 64, 24),
        ("x y", 91, 128, 48, 64, 24),
        ("", 95, 1, 1, 1, 1),
    ]
    fake_tesseract(monkeypatch, lambda image: rows)
    result = read(page(), engine="tesseract")
    assert result.words == [Word("Total", (100, 100, 200, 150)), Word("xy", (200, 100, 300, 150))]
    assert (result.engine, result.rotation) == ("tesseract 5.3.0", 0)


def test_tesseract_without_text(monkeypatch):
    fake_tesseract(monkeypatch, lambda image: [])
    assert read_words(page(), engine="tesseract") == []


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_tesseract_turns_pages(monkeypatch, turn):
    """Gibberish on end, gibberish along the line, good text on end: what it makes of a page turned by 90, 180, 270."""
    scan = turn_image(page(), 360 - turn)
    upright = np.asarray(page())

    def reads(image):
        if np.array_equal(np.asarray(image), upright):
            return [("Total", 95, 64, 48, 64, 24)]
        if turn == 180:
            return [("jeyoL", 30, 10, 10, 60, 20)]
        return [("Total", 95 if turn == 270 else 28, 10, 10, 20, 60)]

    fake_tesseract(monkeypatch, reads)
    result = read(scan, engine="tesseract")
    assert (result.rotation, result.words, result.size) == (turn, [Word("Total", (100, 100, 200, 150))], (640, 480))


def test_a_poor_scan_is_not_turned_for_its_poor_text(monkeypatch):
    fake_tesseract(monkeypatch, lambda image: [("Tota1", 40, 64, 48, 64, 24)])
    assert read(page(), engine="tesseract").rotation == 0


def test_tesseract_errors(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pytesseract", None)
        with pytest.raises(DataError, match=r"pytesseract cannot be imported.*apt-get install tesseract-ocr"):
            read_words(page(), engine="tesseract")
    with monkeypatch.context() as patch:
        fake_tesseract(patch, lambda image: None, missing=True)
        with pytest.raises(DataError, match=r"the program tesseract is not in PATH: .*apt-get install tesseract-ocr"):
            read_words(page(), engine="tesseract")
    fake_tesseract(monkeypatch, lambda image: None)
    page().save(tmp_path / "page.png")
    with pytest.raises(DataError, match=r"page\.png: tesseract failed: .*no eng\.traineddata"):
        read_words(tmp_path / "page.png", engine="tesseract")


def test_the_real_pytesseract_without_the_program(monkeypatch):
    pytesseract = pytest.importorskip("pytesseract")
    monkeypatch.setattr(pytesseract.pytesseract, "tesseract_cmd", "/nowhere/tesseract")
    with pytest.raises(DataError, match="the program tesseract is not in PATH"):
        tesseract.version()
