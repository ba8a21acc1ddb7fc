"""Pictures are opened in one place, which runs no program, whatever the file is called and whoever opens it."""

import ast
import base64
import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.picture_formats import write_tsv
from data.tiny_ofa import build_small_processor
from deed.data.readers import ofa_tsv
from deed.errors import DataError
from deed.ocr import load_pages, page_count, page_image, read_words
from deed.utils.images import load_image

SOURCE = Path(__file__).parents[2] / "src" / "deed"
OPENERS = {"Image.open", "PIL.Image.open", "pillow.open", "ImageFile.Parser", "imread", "read_image", "read_file"}


def openers(text):
    """Calls that open a picture, by name; also of names that modules are imported as."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in OPENERS or called.rpartition(".")[2] in OPENERS or called.endswith("Image').open"):
                yield called
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "PIL.Image" and "open" in names:
                yield "from PIL.Image import open"
            if (node.module or "").startswith("transformers") and names & {"load_image", "load_images"}:
                yield "transformers' load_image"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_pictures_are_opened_in_one_place(path):
    found = list(openers(path.read_text(encoding="utf-8")))
    assert found == (["pillow.open"] if path == SOURCE / "utils" / "images.py" else [])


@pytest.mark.parametrize(
    "text",
    [
        "Image.open(path)",
        "with PIL.Image.open(path) as image: pass",
        "need('PIL.Image').open(path)",
        "plt.imread(path)",
        "from PIL.Image import open",
        "from transformers.image_utils import load_image",
    ],
)
def test_the_check_sees_other_openers(text):
    assert list(openers(text))


def encoded(image, kind):
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


RED = Image.new("RGB", (8, 8), "red")
EPS = encoded(RED, "EPS")
# With a preview before it: a header that says where the PostScript is.
DOS_EPS = b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + len(EPS).to_bytes(4, "little") + bytes(18) + EPS


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """A `gs` on the path that leaves a trace when it is run."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/trace\nexit 0\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return tmp_path / "trace"


def test_the_trace_is_left_by_pillow_alone(trace, tmp_path):
    (tmp_path / "a.eps").write_bytes(EPS)
    with pytest.raises(OSError), Image.open(tmp_path / "a.eps") as image:  # the stub draws nothing
        image.load()
    assert trace.exists()


def tsv_row(data, path):
    return next(
        ofa_tsv.read(
            write_tsv(path, [["1", "7", base64.urlsafe_b64encode(data).decode(), "a", "b", "entailment"]]), "snli_ve"
        )
    )


def of_a_task(path):
    from deed.data.base import Example
    from deed.tasks.pictures import opened

    return opened(Example("?", [], image=path))


@pytest.mark.parametrize("data", [EPS, DOS_EPS], ids=["eps", "with a preview"])
def test_postscript_is_not_run(trace, tmp_path, data):
    path = tmp_path / "scan.png"  # whatever it is called
    path.write_bytes(data)
    openings = [
        lambda: load_image(path),
        lambda: load_image(data),
        lambda: page_image(path),
        lambda: list(load_pages(path)),
        lambda: read_words(path),
        lambda: of_a_task(path),
        lambda: build_small_processor().caption(path),
        lambda: tsv_row(data, tmp_path / "a.tsv"),
    ]
    for opening in openings:
        with pytest.raises(DataError, match=r"is PostScript; convert it to PNG or PDF first"):
            opening()
    with Image.open(io.BytesIO(data)) as image, pytest.raises(DataError, match="is PostScript"):
        load_image(image)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["PSD", "FITS", "ICNS", "SGI", "XBM", "MSP", "IM", "SPIDER"])
def test_only_common_formats_are_tried(tmp_path, kind):
    try:
        data = encoded(RED.convert("1" if kind in ("XBM", "MSP") else "F" if kind == "SPIDER" else "RGB"), kind)
    except (KeyError, OSError):
        pytest.skip(f"Pillow cannot write {kind}")
    with pytest.raises(DataError, match="is no image that Pillow can read"):
        load_image(data)


def test_deep_gray_and_transparency_are_the_same_on_every_path(tmp_path):
    deep = Image.fromarray(np.array([[0, 1000, 4095]], np.uint16))
    clear = Image.new("LA", (3, 1), (0, 0))
    for image, shown in ((deep, [0, 62, 255]), (clear, [255] * 3)):
        data = encoded(image, "PNG")
        (tmp_path / "a.png").write_bytes(data)
        row = tsv_row(data, tmp_path / "a.tsv")
        processor = build_small_processor()
        seen = [processor.caption(picture)["patch_images"] for picture in (tmp_path / "a.png", row.image)]
        assert seen[0].equal(seen[1]) and (image is deep) == (float(seen[0].min()) < 0)
        for found in (
            load_image(data),
            row.image,
            of_a_task(tmp_path / "a.png").image,
            page_image(tmp_path / "a.png"),
        ):
            assert found.mode == "RGB" and np.asarray(found)[0, :, 0].tolist() == shown


def test_the_pixel_limit_holds_in_every_place(tmp_path, monkeypatch):
    monkeypatch.setattr("deed.utils.images.MAX_PIXELS", 63)
    data = encoded(RED, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for opening in (
        lambda: load_image(data),
        lambda: tsv_row(data, tmp_path / "a.tsv"),
        lambda: of_a_task(tmp_path / "a.png"),
        lambda: page_image(tmp_path / "a.png"),
    ):
        with pytest.raises(DataError, match=r"8x8 pixels .*above the limit"):
            opening()


# Pages of a TIFF


def tiff(path, *images, **options):
    images[0].save(path, "TIFF", save_all=True, append_images=images[1:], **options)
    return path


def test_pages_of_a_tiff(tmp_path):
    path = tiff(tmp_path / "fax.tif", *[Image.new("1", (10 + i, 20), i) for i in range(3)], compression="group4")
    assert page_count(path) == 3
    assert [page.size for page in load_pages(path)] == [(10, 20), (11, 20), (12, 20)]
    assert page_image(path).size == (10, 20) and page_image(path, 3).mode == "RGB"
    assert load_image(path).size == (10, 20)
    for page in (0, 4, -1):
        with pytest.raises(DataError, match=rf"fax\.tif has pages 1 to 3, got page {page}"):
            page_image(path, page)


def test_a_tiff_of_one_page(tmp_path):
    path = tiff(tmp_path / "a.tif", Image.fromarray(np.array([[0, 4095]], np.uint16)))
    assert page_count(path) == 1 and np.asarray(page_image(path))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(DataError, match="has pages 1 to 1, got page 2"):
        page_image(path, 2)


def test_smaller_copies_are_no_pages(tmp_path):
    small = Image.new("L", (4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = tiff(tmp_path / "a.tif", Image.new("L", (16, 16)), small, Image.new("L", (8, 8)))
    assert page_count(path) == 2
    assert [page.size for page in load_pages(path)] == [(16, 16), (8, 8)]


def test_damaged_tiffs(tmp_path):
    noise = Image.effect_noise((64, 64), 50)
    whole = tiff(tmp_path / "whole.tif", noise, noise).read_bytes()
    path = tmp_path / "a.tif"
    for cut in (4, 8, 60, len(whole) - 200):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a\.tif"):
            list(load_pages(path))
    path.write_bytes(b"II*\0" + (8).to_bytes(4, "little") + b"\0\0" + (8).to_bytes(4, "little"))  # points at itself
    with pytest.raises(DataError, match=r"a\.tif"):
        page_count(path)


def test_the_limits_hold_for_later_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("deed.utils.images.MAX_PIXELS", 100)
    path = tiff(tmp_path / "a.tif", Image.new("L", (8, 8)), Image.new("L", (80, 80)))
    assert page_image(path).size == (8, 8)
    with pytest.raises(DataError, match=r"80x80 pixels .*above the limit"):
        page_image(path, 2)


def test_other_files_of_many_frames_are_one_page(tmp_path):
    RED.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    assert page_count(tmp_path / "a.gif") == 1
