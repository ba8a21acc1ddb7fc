"""Images of every kind become upright RGB; PDF pages become images; what is broken or too large is one clear error."""

import io
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from deed.ocr import DataError, load_image, load_pages, page_count, page_image, turn_image
from deed.utils.images import MAX_PIXELS

RED, WHITE = (255, 0, 0), (255, 255, 255)


def half_red():
    """4 x 2 pixels, the left half red, the right half white."""
    image = Image.new("RGB", (4, 2), WHITE)
    image.paste(RED, (0, 0, 2, 2))
    return image


def encoded(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_paths_bytes_and_images(tmp_path, format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(half_red(), format, **options)
    file = tmp_path / "picture"
    file.write_bytes(data)
    with Image.open(file) as opened:
        for source in (file, str(file), data, bytearray(data), opened):
            image = load_image(source)
            assert (image.mode, image.size) == ("RGB", (4, 2))
            assert (image.getpixel((0, 0)), image.getpixel((3, 1))) == (RED, WHITE)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: turn clockwise
    for format in ("PNG", "TIFF"):
        image = load_image(encoded(half_red(), format, exif=exif))
        assert (image.size, image.getpixel((0, 0)), image.getpixel((0, 3))) == ((2, 4), RED, WHITE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_ignored():
    assert load_image(encoded(half_red(), exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\xff\xff")).size == (4, 2)


def test_transparency_is_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    gray = Image.new("LA", (2, 1), (0, 0))
    gray.putpixel((1, 0), (128, 255))
    for source, shown in (
        (clear, RED),
        (encoded(clear), RED),
        (encoded(palette, transparency=0), RED),
        (gray, (128,) * 3),
        (encoded(Image.new("RGB", (2, 1), RED), transparency=(0, 0, 0)), RED),
    ):
        image = load_image(source)
        assert image.getpixel((1, 0)) == shown
        if shown != RED or source is clear:
            assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), [0, 127, 255]),
        (np.array([[0, 2048, 4095]], np.uint16), [0, 127, 255]),  # 12 bits of 16
        (np.array([[-10, 0, 10]], np.int32), [0, 127, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 127, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.zeros((1, 3), np.uint16), [0, 0, 0]),
    ],
)
def test_deep_gray_is_stretched(values, shown):
    for source in (Image.fromarray(values), encoded(Image.fromarray(values), "TIFF")):
        assert np.asarray(load_image(source))[0, :, 0].tolist() == shown


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes(mode):
    red = half_red().convert(mode)
    image = load_image(red)
    assert image.mode == "RGB" and image.getpixel((3, 1)) == WHITE
    assert red.mode == mode


def test_modes_without_a_conversion():
    with pytest.raises(DataError, match="the image has colors of mode La, which cannot be converted"):
        load_image(Image.new("La", (2, 2)))


def test_the_first_frame_is_taken(tmp_path):
    for format in ("GIF", "TIFF"):
        data = encoded(half_red(), format, save_all=True, append_images=[Image.new("RGB", (4, 2), "blue")])
        assert load_image(data).getpixel((0, 0)) == RED


def test_the_callers_image_stays_as_it_is():
    image = half_red()
    loaded = load_image(image)
    loaded.putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"just some text", "is no image that Pillow can read; convert it to PNG or JPEG"),
        (b"%PDF-1.4 ...", r"is a PDF; take a page of it with page_image\(path, page\)"),
        (encoded(half_red())[:60], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900], "damaged or cut off"),
        (encoded(Image.effect_noise((64, 64), 50), "TIFF")[:900], "damaged or cut off|no image"),
        (encoded(Image.effect_noise((64, 64), 50), "WEBP")[:900], "damaged or cut off|no image"),
        (encoded(half_red(), "EPS"), "is PostScript; convert it"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    file = tmp_path / "scan.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=rf"scan\.png:? .*({message})"):
        load_image(file)


def test_a_damaged_image_opened_by_the_caller(tmp_path):
    (tmp_path / "scan.jpg").write_bytes(encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900])
    with (
        Image.open(tmp_path / "scan.jpg") as image,
        pytest.raises(DataError, match=r"scan\.jpg is damaged or cut off"),
    ):
        load_image(image)
    with pytest.raises(DataError, match="the image is damaged"):
        load_image(encoded(half_red())[:60])


def test_a_cut_off_image_is_refused_whatever_other_libraries_allow(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as weasyprint does when it is imported
    with pytest.raises(DataError, match="the image is damaged or cut off"):
        load_image(encoded(Image.effect_noise((64, 64), 50))[:900])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_sources_that_are_no_image(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path.name}: is a folder, not a file"):
        load_image(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load_image("/dev/zero")
    with pytest.raises(DataError, match="path, bytes or a PIL image, got ndarray"):
        load_image(np.zeros((2, 2)))
    with pytest.raises(DataError, match="the image is empty: no bytes"):
        load_image(b"")
    with pytest.raises(DataError, match="has no pixels: 0x5"):
        load_image(Image.new("RGB", (0, 5)))


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "scan.png").write_bytes(encoded(half_red()))

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"scan\.png cannot be read: Permission denied"):
        load_image(tmp_path / "scan.png")


def png_header(width, height):
    """A PNG that says it is large, and has next to nothing in it."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((9434, 9434), r"9434x9434 pixels \(89 megapixels\)"),
        ((12000, 10000), "12000x10000"),
        ((50000, 50000), "2500000000"),
    ],
)
def test_bombs_are_refused_before_decoding(tmp_path, size, told, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(
        DataError, match=rf"bomb\.png has {told}.*above the limit of 89 megapixels; scale it down first"
    ):
        load_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_below_pillows_own():
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS < Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="has 120000000 pixels, above the limit"):
        load_image(png_header(12000, 10000))


def test_turning():
    image = half_red()
    assert turn_image(image, 0) is image
    assert [turn_image(image, turn).getpixel((0, 0)) for turn in (90, 180, 270)] == [RED, WHITE, WHITE]
    assert turn_image(turn_image(image, 90), 270).tobytes() == image.tobytes()


# PDF


def pdf(boxes=((0, 0, 72, 36),), trailer=b"", content=b"1 0 0 rg 0 0 36 36 re f"):
    """A PDF with a red square of half an inch at the bottom left of each page."""
    kids = b" ".join(b"%d 0 R" % (4 + i) for i in range(len(boxes)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(boxes)),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    for box in boxes:
        media = " ".join(map(str, box)).encode()
        objects.append(b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents 3 0 R >>" % media)
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    xref = b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R %s >>\n" % (size, table, size, trailer)
    return out + xref + b"startxref\n%d\n%%%%EOF\n" % len(out)


def written(tmp_path, data):
    file = tmp_path / "report.pdf"
    file.write_bytes(data)
    return file


def test_pages_of_a_pdf(tmp_path):
    file = written(tmp_path, pdf([(0, 0, 72, 36), (0, 0, 36, 72)]))
    assert page_count(file) == 2
    first = page_image(file)
    assert (first.mode, first.size) == ("RGB", (200, 100))
    assert (first.getpixel((50, 50)), first.getpixel((150, 50))) == (RED, WHITE)
    assert page_image(str(file), page=2).size == (100, 200)
    assert [image.size for image in load_pages(file)] == [(200, 100), (100, 200)]


def test_an_image_file_is_a_document_of_one_page(tmp_path):
    half_red().save(tmp_path / "scan.png")
    assert page_count(tmp_path / "scan.png") == 1
    assert [image.size for image in load_pages(tmp_path / "scan.png")] == [(4, 2)]
    with pytest.raises(DataError, match=r"scan\.png is an image, which has page 1 only, got page 2"):
        page_image(tmp_path / "scan.png", 2)


@pytest.mark.parametrize("box", [(0, 0, 14400, 14400), (0, 0, 14400, 1), (0, 0, 1, 1)])
def test_page_sizes_out_of_the_ordinary(tmp_path, box):
    image = page_image(written(tmp_path, pdf([box])))
    assert 1 <= image.width * image.height < 4_100_000


@pytest.mark.parametrize("page", [0, -1, 3])
def test_page_out_of_range(tmp_path, page):
    file = written(tmp_path, pdf([(0, 0, 72, 36)] * 2))
    with pytest.raises(DataError, match=rf"report\.pdf has pages 1 to 2, got page {page}"):
        page_image(file, page)


LOCKED = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>]" % (b"41" * 32, b"42" * 32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"%PDF-1.4\nand nothing else", "damaged or cut off, PDFium cannot read it"),
        (pdf()[:100], "damaged or cut off, PDFium cannot read it"),
        (pdf(trailer=LOCKED), "is encrypted; save it without a password first"),
        (pdf(boxes=()), "has no pages"),
    ],
)
def test_pdfs_that_cannot_be_read(tmp_path, data, message):
    file = written(tmp_path, data)
    for act in (page_image, load_pages):
        with pytest.raises(DataError, match=rf"report\.pdf (is )?{message}"):
            act(file)


@pytest.mark.parametrize(
    ("whole", "damaged"), [(b"4 0 R", b"9 0 R"), (b"/Type /Page /Parent", b"/Type /Cake /Parent")]
)
def test_a_damaged_page(tmp_path, whole, damaged):
    file = written(tmp_path, pdf().replace(whole, damaged))
    with pytest.raises(DataError, match=r"report\.pdf has a damaged page"):
        page_image(file)


def test_missing_pdf_and_missing_package(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere\.pdf: no such file"):
        load_pages(tmp_path / "nowhere.pdf")
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(DataError, match=r'pypdfium2 cannot be imported .*pip install "deed-transformers\[ocr\]"'):
        page_image(written(tmp_path, pdf()))
