"""OCR: rendered pages in every direction through the real RapidOCR, offline and quiet; what may go wrong with it."""

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from deed.ocr import DataError, lines, rapid, read_page, read_words, turn_image
from deed.utils.images import shrink

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
LINES = ["Invoice number 20931", "Total amount due 1,204.50 USD", "Please pay within thirty days"]
WORDS = " ".join(LINES).split()


def font(size):
    return ImageFont.truetype(FONT, size)


def page(lines=LINES, size=(640, 480), pitch=60, points=26):
    image = Image.new("RGB", size, "white")
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 40 + i * pitch), line, fill="black", font=font(points))
    return image


def read(image, **options):
    return read_page(image, threads=1, **options)


def texts(words):
    return [word.text for word in words]


def near(one, other, by):
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def upright():
    return read(page())


def test_words_in_order_with_boxes(upright):
    assert texts(upright.words) == WORDS
    assert (upright.rotation, upright.size, upright.cached) == (0, (640, 480), False)
    assert upright.engine.startswith("rapidocr 3.") and upright.seconds > 0
    for word in upright.words:
        assert all(type(edge) is int and 0 <= edge <= 1000 for edge in word.box)
    # "number": where it was drawn, to within half a letter.
    x0, x1 = (40 + font(26).getlength(text) for text in ("Invoice ", "Invoice number"))
    assert near(upright.words[1].box, (x0 / 0.64, 40 / 0.48, x1 / 0.64, 70 / 0.48), 15)


@pytest.mark.parametrize("skew", [0, 3])
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_page_scanned_the_wrong_way_up_is_turned(upright, turn, skew):
    scan = turn_image(page(), 360 - turn)
    if skew:
        scan = scan.rotate(skew, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    result = read(scan)
    assert result.rotation == turn
    assert texts(result.words) == WORDS
    assert turn_image(scan, result.rotation).size == result.size
    if not skew:
        assert result.size == (640, 480)
        assert all(near(a.box, b.box, 12) for a, b in zip(result.words, upright.words, strict=True))


def test_an_upright_page_is_read_once_and_a_turned_one_twice(monkeypatch):
    sizes, plain = [], rapid.read
    monkeypatch.setattr(rapid, "read", lambda image, threads: sizes.append(image.size) or plain(image, threads))
    read(page())
    assert sizes == [(640, 480)]
    read(turn_image(page(), 90))
    assert sizes[1:] == [(480, 640), (640, 480)]


def test_rows_of_a_skewed_page_with_two_columns():
    image = page([])
    for i in range(3):
        ImageDraw.Draw(image).text((40, 60 + i * 70), f"left{i}", fill="black", font=font(26))
        ImageDraw.Draw(image).text((480, 66 + i * 70), f"right{i}", fill="black", font=font(26))
    skewed = image.rotate(4, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    assert texts(read_words(skewed, threads=1)) == ["left0", "right0", "left1", "right1", "left2", "right2"]


def test_an_axis_label_is_read_upwards_and_turns_nothing():
    image = page(["Growth of the town", "1990 1995 2000"], pitch=340)
    label = Image.new("RGB", (300, 40), "white")
    ImageDraw.Draw(label).text((5, 3), "Number of people", fill="black", font=font(26))
    image.paste(label.rotate(90, expand=True), (5, 100))
    result = read(image)
    assert result.rotation == 0
    number, people = (next(w for w in result.words if w.text == text) for text in ("Number", "people"))
    assert number.box[1] > people.box[3] and number.box[0] < 100


def test_a_page_with_little_text_stays_as_it_is():
    result = read(turn_image(page(["Hello"], size=(300, 120)), 180))
    assert (result.rotation, texts(result.words)) == (0, ["Hello"])


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (300, 7), (64, 64)])
def test_no_text_no_words_no_noise(size, recwarn, capfd):
    assert read_words(Image.new("RGB", size, "white"), threads=1) == []
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_large_images_are_read_small(upright, monkeypatch):
    assert shrink(Image.new("RGB", (3000, 2000))).size == (2449, 1632)
    assert shrink(page()).size == (640, 480)
    monkeypatch.setattr("deed.utils.images.OCR_PIXELS", 200_000)
    result = read(page())
    assert texts(result.words) == WORDS and result.size == (640, 480)
    assert all(near(a.box, b.box, 15) for a, b in zip(result.words, upright.words, strict=True))


def line(text, x0, y0, x1, y1):
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)
    return lines.Line([(text, corners)], 0.9, corners)


def test_reading_order():
    found = [
        line("c", 10, 50, 90, 70),
        line("b", 300, 14, 390, 34),
        line("tall", 500, 0, 520, 120),
        line("a", 10, 10, 90, 30),
        line("e", 10, 90, 90, 110),
        line("d", 300, 54, 390, 74),
    ]
    ordered = [row.words[0][0] for row in lines.reading_order(found)]
    assert ordered == ["a", "b", "c", "d", "tall", "e"]
    assert lines.reading_order([]) == []


def test_characters_are_joined_to_words_where_rapidocr_splits_them():
    def pieces(*parts):
        return [(part, np.full((4, 2), i, dtype=float)) for i, part in enumerate(parts)]

    split = lines.join_pieces("Tel 中文12 a", pieces(*"Tel中文12a"))
    assert [text for text, _ in split] == ["Tel", "中", "文", "12", "a"]
    assert split[0][1].max() == 2
    # A gap without a space in the text is RapidOCR's own word boundary.
    assert [text for text, _ in lines.join_pieces("ab cd", pieces("a", "b", "cd", " "))] == ["a", "b", "cd"]


# The engine


def test_one_engine_for_all_threads(upright):
    engines = dict(rapid._engines)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: read(page()), range(3)))
    assert [r.words for r in results] == [upright.words] * 3
    assert rapid._engines == engines and (os.getpid(), 1) in engines


def test_threads_default_to_usable_cpus(monkeypatch):
    asked = []
    monkeypatch.setattr(rapid, "start", asked.append)
    monkeypatch.setattr(rapid, "read", lambda image, threads: asked.append(threads) or rapid.Reading([], 0, 0))
    read_words(page())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert asked == [usable, usable]


def test_logging_stays_as_the_user_set_it(monkeypatch, capfd):
    monkeypatch.setattr(rapid, "_engines", {})
    logger = logging.getLogger("RapidOCR")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        read_words(Image.new("RGB", (64, 64)), threads=1)
        assert (logger.level, logger.filters) == (logging.DEBUG, [])
        assert capfd.readouterr() == ("", "")
    finally:
        logger.setLevel(before)


def test_other_threads_may_log_while_rapidocr_is_kept_quiet():
    logger, seen = logging.getLogger("RapidOCR"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with rapid._quiet():
            logger.error("ours")
            other = threading.Thread(target=logger.error, args=("theirs",))
            other.start()
            other.join()
        logger.error("after")
    finally:
        logger.removeHandler(handler)
    assert seen == ["theirs", "after"]


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.setattr(rapid, "_engines", {})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf'^{package} cannot be imported .*pip install "deed-transformers\[ocr\]"$'):
        read_words(page())


def test_rapidocr_not_installed_at_all(monkeypatch):
    def missing(name):
        raise rapid.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(rapid.importlib.metadata, "version", missing)
    with pytest.raises(DataError, match=r'rapidocr is not installed: pip install "deed-transformers\[ocr\]"'):
        read_words(page())


def test_missing_and_damaged_models(monkeypatch, tmp_path):
    monkeypatch.setattr(rapid, "_engines", {})
    with monkeypatch.context() as patch:
        patch.setattr(rapid.importlib.metadata, "files", lambda name: None)
        with pytest.raises(DataError, match=r"rapidocr 3\S+ has no det model of its own: pip install"):
            read_words(page())
    broken = tmp_path / "x.onnx"
    broken.write_bytes(b"no model")
    monkeypatch.setattr(rapid, "_model", lambda task: str(broken))
    with pytest.raises(DataError, match=r"(?s)cannot load its models.*pip install --force-reinstall"):
        read_words(page())


def test_a_failing_engine_names_the_image(monkeypatch, tmp_path):
    class Broken:
        def read(self, pixels):
            raise RuntimeError("out of luck")

    monkeypatch.setitem(rapid._engines, (os.getpid(), 1), Broken())
    page().save(tmp_path / "page.png")
    with pytest.raises(DataError, match=r"page\.png: rapidocr failed: out of luck"):
        read(tmp_path / "page.png")


def test_bad_arguments():
    with pytest.raises(DataError, match="engine must be one of rapidocr, tesseract, got 'easyocr'"):
        read_words(page(), engine="easyocr")
    with pytest.raises(DataError, match="threads must be at least 1, got 0"):
        read_words(page(), threads=0)


def test_nothing_is_downloaded(tmp_path):
    page().save(tmp_path / "page.png")
    script = (
        "import socket, sys\n"
        "def refuse(*args, **options): raise OSError('the network is off')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse\n"
        "from deed.ocr import read_words\n"
        "print(*(word.text for word in read_words(sys.argv[1], threads=1)))\n"
    )
    run = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "page.png")]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.split(), done.stderr) == (WORDS, "")
