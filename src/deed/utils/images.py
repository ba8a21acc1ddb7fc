"""The one place that opens a picture: upright 8-bit RGB of any kind, or one clear error for what is broken or too large.

Files come from elsewhere, so only formats that Pillow decodes by itself are tried: it hands PostScript to Ghostscript, which
runs it as a program.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deed.errors import DataError

from .optional import need

# Just below the 89.5 megapixels from which on Pillow itself warns; an A2 page at 400 dpi has 62.
MAX_PIXELS = 89_000_000
# A4 at 200 dpi has 3.9 megapixels. More costs time and memory and reads no better.
OCR_PIXELS = 4_000_000
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # as text, and with a preview before it
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # and BigTIFF
REDUCED = 1  # of TIFF's NewSubfileType: a smaller copy of another page


def check_file(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """The path and the first bytes of a file that can be read.

    Raises:
        DataError: no such file, a folder, a device, not readable, or empty.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: {'is a folder, not a file' if file.is_dir() else 'no such file'}")
    try:
        with file.open("rb") as stream:
            head = stream.read(1024)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    if not head:
        raise DataError(f"{file} is empty")
    return file, head


def is_pdf(head: bytes) -> bool:
    """Whether a file that begins like this is a PDF."""
    return b"%PDF-" in head


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins like this is a TIFF, which may have many pages."""
    return head.startswith(TIFF)


def source_name(source: Any) -> str:
    """How errors call an image."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    return str(getattr(source, "filename", "") or "the image")


def load_image(source: Any) -> Any:
    """An image, ready for OCR or a vision model.

    EXIF orientation is applied, transparency laid on white, 16-bit and float grey stretched to 8 bits; of several
    frames the first is taken (of an image already open: the current one). The source is not changed.

    Args:
        source: a path, the bytes of a file, or a `PIL.Image.Image`.

    Returns:
        A `PIL.Image.Image` of mode RGB.

    Raises:
        DataError: missing, empty, broken or cut off, no image, or more than 89 megapixels (`MAX_PIXELS`; looked up in
            the header, before anything is decoded). Names the file.
    """
    name = source_name(source)
    if isinstance(source, need("PIL.Image").Image):
        return _to_rgb(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        head = bytes(source[:1024])
        if not head:
            raise DataError(f"{name} is empty: no bytes")
        stream: Any = io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        stream, head = check_file(source)
    else:
        raise DataError(f"an image is a path, bytes or a PIL image, got {type(source).__name__}")
    if is_pdf(head):
        raise DataError(f"{name} is a PDF; take a page of it with page_image(path, page)")
    with _opened(stream, head, name) as image:
        return _to_rgb(image, name)


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture file by its header; nothing is decoded. Raises as `load_image`."""
    with _opened(io.BytesIO(data), data[:1024], source_name(data)) as image:
        return int(image.size[0]), int(image.size[1])


def tiff_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of every frame of a TIFF, by their headers; nothing is decoded. Raises as `load_image`."""
    with _opened(io.BytesIO(data), TIFF[0], source_name(data)) as image:
        for frame in itertools.count():
            try:
                image.seek(frame)
            except EOFError:
                return
            yield int(image.size[0]), int(image.size[1])


def tiff_pages(source: Path | bytes) -> list[int]:
    """Which frames of a TIFF are its pages; the others are smaller copies of them.

    Raises:
        DataError: broken, cut off, or no TIFF.
    """
    with _opened(_stream(source), TIFF[0], source_name(source)) as image:
        frames = range(getattr(image, "n_frames", 1))
        return [i for i in frames if not _seek(image, i) & REDUCED] or [0]


def tiff_page(source: Path | bytes, frame: int) -> Any:
    """A frame of a TIFF, as `load_image` gives a picture; raises as that does."""
    with _opened(_stream(source), TIFF[0], source_name(source)) as image:
        _seek(image, frame)
        return _to_rgb(image, source_name(source))


def _stream(source: Path | bytes) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _seek(image: Any, frame: int) -> int:
    """Go to a frame; its NewSubfileType."""
    image.seek(frame)
    kind = getattr(image, "tag_v2", {}).get(254, 0)
    return kind if isinstance(kind, int) else 0


@contextmanager
def _opened(stream: Any, head: bytes, name: str) -> Iterator[Any]:
    """An image file, opened; what goes wrong with it inside the block is told as what is wrong with the file."""
    pillow = need("PIL.Image")
    if head.startswith(POSTSCRIPT):
        raise DataError(_postscript(name))
    pillow.init()
    try:
        with pillow.open(stream, formats=[known for known in FORMATS if known in pillow.OPEN]) as image:
            yield image
    except DataError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        size = re.search(r"\d+", str(error))
        raise DataError(_too_large(name, f"{size[0] if size else 'too many'} pixels")) from None
    except pillow.UnidentifiedImageError:
        raise DataError(f"{name} is no image that Pillow can read; convert it to PNG or JPEG") from None
    except Exception as error:  # broken files make Pillow raise all sorts: OSError, SyntaxError, struct.error …
        raise DataError(_broken(name, error)) from error


def _postscript(name: str) -> str:
    return f"{name} is PostScript; convert it to PNG or PDF first"


def _too_large(name: str, size: str) -> str:
    return f"{name} has {size}, above the limit of {MAX_PIXELS // 10**6} megapixels; scale it down first"


def _broken(name: str, error: Exception) -> str:
    return f"{name} is damaged or cut off: {error}; get the file again, or save it anew from an image viewer"


def _to_rgb(image: Any, name: str) -> Any:
    pillow, image_ops = need("PIL.Image"), need("PIL.ImageOps")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(_too_large(name, f"{width}x{height} pixels ({width * height / 1e6:.0f} megapixels)"))
    if not width * height:
        raise DataError(f"{name} has no pixels: {width}x{height}")
    if image.format == "EPS":  # opened by the caller; not yet run
        raise DataError(_postscript(name))
    files = need("PIL.ImageFile")
    tolerant = files.LOAD_TRUNCATED_IMAGES
    files.LOAD_TRUNCATED_IMAGES = False  # other libraries (weasyprint) switch it on for the whole process
    try:
        image.load()
    except Exception as error:  # as in load_image; here for images opened by the caller
        raise DataError(_broken(name, error)) from error
    finally:
        files.LOAD_TRUNCATED_IMAGES = tolerant
    try:
        image = image_ops.exif_transpose(image)
    except Exception:  # damaged EXIF data: the picture itself is there
        image = image.copy()
    if image.mode.startswith(("I", "F")):
        return _stretch(image).convert("RGB")
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = pillow.new("RGBA", image.size, "white")
            return pillow.alpha_composite(white, image).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:  # La, in older versions of Pillow LAB
        raise DataError(f"{name} has colors of mode {image.mode}, which cannot be converted ({error})") from None


def _stretch(image: Any) -> Any:
    """16-bit, 32-bit and float grey on 0..255: the brightest pixel is white, as such files use a part of their range."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    low = min(0.0, float(values.min()))
    span = float(values.max()) - low
    return need("PIL.Image").fromarray(((values - low) * (255 / span if span else 0)).astype(np.uint8))


def shrink(image: Any) -> Any:
    """The image at `OCR_PIXELS` at most, its proportions kept."""
    width, height = image.size
    ratio = math.sqrt(OCR_PIXELS / (width * height))
    if ratio >= 1:
        return image
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    return image.resize(size, need("PIL.Image").Resampling.BICUBIC, reducing_gap=3.0)


def turn_image(image: Any, rotation: int) -> Any:
    """The image turned clockwise by 0, 90, 180 or 270 degrees, as `OcrResult.rotation` says it."""
    transpose = need("PIL.Image").Transpose  # which counts counter-clockwise
    turns = {90: transpose.ROTATE_270, 180: transpose.ROTATE_180, 270: transpose.ROTATE_90}
    return image.transpose(turns[rotation]) if rotation else image
