"""Pictures as processors take them: every mode of Pillow, files, arrays and tensors; and what is refused."""

import io

import numpy as np
import pytest
import torch
from ofa_files import small_tokenizer
from PIL import Image

from deed.errors import DataError
from deed.models.latr import small as small_latr
from deed.models.ofa import OFAProcessor, build_image_processor
from deed.models.pictures import picture_list, rgb_picture

RGB = Image.effect_noise((31, 23), 80).convert("RGB").transform((31, 23), Image.Transform.AFFINE, (1, 0, 2, 0, 1, 1))
PIXELS = np.asarray(RGB).copy()
PIXELS[..., 1] //= 2
RGB = Image.fromarray(PIXELS)
GRAY = np.asarray(RGB.convert("L"))


@pytest.fixture(scope="module")
def latr():
    return small_latr.build_processor(small_latr.build_tokenizer(["total"]))


@pytest.fixture(scope="module")
def ofa():
    return OFAProcessor(build_image_processor(64), small_tokenizer())


def tensor(array):
    return torch.from_numpy(array.copy())


SAME = {
    "last": PIXELS,
    "first": PIXELS.transpose(2, 0, 1),
    "floats on 0..1": PIXELS / np.float32(255),
    "floats on 0..255": PIXELS.astype(np.float64),
    "int64": PIXELS.astype(np.int64),
    "16 bit": PIXELS.astype(np.uint16) * 257,
    "tensor": tensor(PIXELS.transpose(2, 0, 1)),
    "float tensor": tensor(PIXELS.transpose(2, 0, 1)) / 255,
    "tensor that wants a gradient": (tensor(PIXELS) / 255).requires_grad_(),
    "with alpha": np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)]),
    "alpha first": np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)]).transpose(2, 0, 1),
    "numpy's float16": np.float16(PIXELS / 255),
}


@pytest.mark.parametrize("kind", SAME)
def test_arrays_and_tensors_are_the_picture(kind, latr, ofa):
    got = rgb_picture(SAME[kind])
    assert got.mode == "RGB" and np.abs(np.asarray(got).astype(int) - PIXELS).max() <= (kind == "numpy's float16")
    if kind != "numpy's float16":
        assert torch.equal(latr(SAME[kind], "a")["pixel_values"], latr(RGB, "a")["pixel_values"])
        assert torch.equal(ofa(SAME[kind], "a")["patch_images"], ofa(RGB, "a")["patch_images"])


GRAYS = {
    "plain": GRAY,
    "one channel": GRAY[None],
    "one channel last": GRAY[..., None],
    "tensor": tensor(GRAY)[None] / 255,
    "LA": np.dstack([GRAY, np.full(GRAY.shape, 255, np.uint8)]),
}


@pytest.mark.parametrize("kind", GRAYS)
def test_gray(kind):
    assert np.array_equal(np.asarray(rgb_picture(GRAYS[kind])), np.repeat(GRAY[..., None], 3, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB", "PA"])
def test_every_mode_of_pillow(mode, latr, ofa):
    picture = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == "I;16" else None
    if picture is None:
        source = RGB.convert("P") if mode == "PA" else RGB
        if mode == "LAB":
            picture = Image.new("LAB", RGB.size, (200, 20, 30))
        else:
            picture = source.convert(mode)
    assert latr(picture, "a")["pixel_values"].shape == (1, 3, 64, 64)
    assert ofa(picture, "a")["patch_images"].shape == (1, 3, 64, 64)
    assert np.asarray(rgb_picture(picture)).std() > 0 or mode == "LAB"


@pytest.mark.parametrize("kind", ["picture", "array", "file"])
def test_16_bit_gray_is_not_white(kind, tmp_path, ofa):
    wide = GRAY.astype(np.uint16) * 257
    source = {"picture": Image.fromarray(wide), "array": wide, "file": tmp_path / "gray.png"}[kind]
    Image.fromarray(wide).save(tmp_path / "gray.png")
    stretched = np.round(GRAY.astype(float) * 255 / GRAY.max())
    assert np.abs(np.asarray(rgb_picture(source))[..., 0] - stretched).max() <= 1
    assert ofa(source, "a")["patch_images"].std() > 0.1


def test_transparency_is_white_not_black(ofa):
    nothing = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    assert np.asarray(rgb_picture(nothing)).min() == 255 and ofa(nothing, "a")["patch_images"].min() == 1


def test_a_run_of_pictures_as_one_array(latr, ofa):
    batch = np.stack([PIXELS, PIXELS[::-1]])
    for processor, name in ((latr, "pixel_values"), (ofa, "patch_images")):
        got = processor(batch, ["a", "b"])[name]
        assert torch.equal(got, processor([RGB, Image.fromarray(batch[1])], ["a", "b"])[name])
        assert torch.equal(processor(torch.from_numpy(batch).permute(0, 3, 1, 2), ["a", "b"])[name], got)
    assert torch.equal(ofa.caption(batch)["patch_images"], ofa(batch, ["a", "b"])["patch_images"])
    assert picture_list(None, 2, "texts") is None
    with pytest.raises(ValueError, match="3 texts, but images for 2"):
        picture_list(batch, 3, "texts")
    assert torch.equal(latr([RGB], "a")["pixel_values"], latr(RGB, "a")["pixel_values"])


def test_the_formats_that_shape_leaves_open():
    tiny = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    first = rgb_picture(tiny)  # as Transformers reads it
    assert first.size == (3, 5) and np.array_equal(np.asarray(first), tiny.transpose(1, 2, 0))
    last = rgb_picture(tiny, data_format="channels_last")
    assert last.size == (5, 3) and np.array_equal(np.asarray(last), tiny)
    with pytest.raises(ValueError, match="input_data_format must be"):
        rgb_picture(tiny, data_format="none")


def test_options_of_transformers_image_processors(latr):
    wanted = latr(RGB, "a")["pixel_values"]
    scaled = PIXELS / np.float32(255)
    assert torch.equal(latr(scaled, "a", do_rescale=False)["pixel_values"], wanted)
    assert torch.equal(latr(PIXELS, "a", input_data_format="channels_last")["pixel_values"], wanted)


def sideways():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    RGB.save(file, "PNG", exif=exif)
    return file.getvalue()


def test_files_are_turned_upright_and_boxes_stay_those_of_the_picture(ofa):
    upright, lying = rgb_picture(sideways()), Image.open(io.BytesIO(sideways()))
    assert upright.size == (23, 31) and rgb_picture(lying).size == (23, 31)
    assert rgb_picture(lying, upright=False).size == lying.size == (31, 23)
    assert np.array_equal(np.asarray(rgb_picture(lying, upright=False)), PIXELS)
    assert torch.equal(ofa.refer(lying, "a", (1, 2, 30, 20))["labels"], ofa.refer(RGB, "a", (1, 2, 30, 20))["labels"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_turn_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    RGB.save(file, "PNG", exif=exif)
    assert np.array_equal(np.asarray(rgb_picture(Image.open(file), upright=False)), PIXELS)


REFUSED = {
    "a number": (7, TypeError, "got int"),
    "lists of numbers": (PIXELS.tolist(), TypeError, "make them an array"),
    "one dimension": (np.zeros(9), ValueError, r"two or three dimensions.*\[9\]"),
    "five channels": (np.zeros((9, 9, 5)), ValueError, r"one to four channels.*\[9, 9, 5\]"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), ValueError, "without pixels"),
    "not a number": (np.full((9, 9), np.nan), ValueError, "before they are normalized"),
    "normalized": (PIXELS / 127.5 - 1, ValueError, "before they are normalized"),
    "negative": (np.full((9, 9), -1), ValueError, "0..1 or 0..255"),
    "beyond 16 bits": (np.full((9, 9), 70000), ValueError, "0..65535"),
    "text": (np.full((9, 9), "a"), ValueError, "numbers as pixels"),
    "no such file": ("nowhere.png", DataError, "no such file"),
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        DataError,
        "PostScript",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    source, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        rgb_picture(source)


def test_postscript_is_not_run_however_it_comes(tmp_path, monkeypatch, ofa, latr):
    (tmp_path / "bin").mkdir()
    gs = tmp_path / "bin" / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    file = tmp_path / "picture.png"
    file.write_bytes(REFUSED["PostScript"][0])
    for processor in (ofa, latr):
        for source in (file, str(file), file.read_bytes(), Image.open(file)):
            with pytest.raises(DataError, match="PostScript"):
                processor(source, "what?")
    assert not (tmp_path / "ran").exists()


# -- boxes of words ---------------------------------------------------------------------------------------------------

WORDS, BOXES = ["Total", "7.50"], [[10, 20, 90, 40], [100, 20, 260, 40]]


def test_boxes_as_arrays_tensors_and_numbers(latr):
    wanted = latr(text="what?", words=WORDS, boxes=BOXES)["bbox"]
    kinds = (np.array(BOXES), torch.tensor(BOXES), torch.tensor(BOXES).float(), np.array(BOXES) + 0.25, tuple(BOXES))
    for boxes in kinds:
        assert torch.equal(latr(text="what?", words=WORDS, boxes=boxes)["bbox"], wanted)
    pairs = [(w, torch.tensor(b)) for w, b in zip(WORDS, BOXES, strict=True)]
    assert torch.equal(latr(text="what?", words=pairs)["bbox"], wanted)
    both = latr(text=["what?"] * 2, words=[WORDS] * 2, boxes=torch.tensor([BOXES] * 2))["bbox"]
    assert torch.equal(both, torch.cat([wanted] * 2))


def test_swapped_corners_are_put_right(latr):
    wanted = latr(text="what?", words=WORDS, boxes=BOXES)["bbox"]
    for order in ([2, 1, 0, 3], [0, 3, 2, 1], [2, 3, 0, 1]):
        assert torch.equal(latr(text="what?", words=WORDS, boxes=np.array(BOXES)[:, order])["bbox"], wanted)


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([[1, 2, 3]] * 2, "four numbers"),
        ([[1, 2, 3, 4], [1, 2, 3]], "four numbers"),
        ([[1, 2, 3, float("nan")]] * 2, "four numbers"),
        ([[1, 2, 3, 10**400]] * 2, "four numbers"),
        ([["a", 2, 3, 4]] * 2, "four numbers"),
        ([[1, 2, 3, 1001]] * 2, "0..1000"),
        ([[-1, 2, 3, 4]] * 2, "0..1000"),
        (torch.zeros(3, 4), "2 words, but 3 boxes"),
    ],
)
def test_bad_boxes_are_refused(latr, boxes, message):
    with pytest.raises(ValueError, match=message):
        latr(text="what?", words=WORDS, boxes=boxes)
