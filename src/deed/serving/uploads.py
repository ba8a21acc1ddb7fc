"""What a request brings: pictures, documents and sound as bytes in memory, told apart by their first bytes and held to limits
before they are decoded. Names of files are not looked at, nothing is written to disk, nothing that a text names is opened."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deed.errors import DataError
from deed.ocr import open_document
from deed.utils.images import is_pdf, is_tiff, load_image, picture_size, tiff_sizes

from .api_errors import ApiError
from .settings import Limits

PICTURE, DOCUMENT, SOUND = "picture", "document", "sound"
GZIP = b"\x1f\x8b"
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_SOUNDS = (b"RIFF", b"ID3", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b"caff", b".snd", b"#!AMR", b"0&\xb2u")
_MOST_OBJECTS = 20_000  # of a PDF's page that are looked at for pictures


def from_base64(text: str, param: str) -> bytes:
    """The bytes of a base64 text, bare or as a `data:` URI. Other URIs, and paths, are refused and never opened.

    Args:
        text: as it stands in the request.
        param: its field, for errors.
    """
    match = _DATA.match(text)
    if match is None and re.match(r"\s*[A-Za-z][\w+.-]*:", text):
        raise ApiError(400, f"{param} must be base64 or a data: URI; addresses are not opened", param)
    body = text[match.end() :] if match else text
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{param} must be base64 or a data: URI", param) from None
    if not data:
        raise ApiError(400, f"{param} is empty", param)
    return data


def kind_of(data: bytes) -> str:
    """Picture, document (PDF, `.pdf.gz`, TIFF) or sound, by the first bytes."""
    head = data[:1024]
    if is_pdf(head) or is_tiff(head) or head.startswith(GZIP):
        return DOCUMENT
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PICTURE
    if head.startswith(_SOUNDS) or (
        head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF
    ):
        return PICTURE if head[:3] == b"\xff\xd8\xff" else SOUND
    if head[4:8] == b"ftyp":
        return PICTURE if head[8:12] in (b"avif", b"avis", b"mif1", b"heic") else SOUND
    return PICTURE


def read_picture(data: bytes, limits: Limits) -> Any:
    """A picture, upright RGB.

    Args:
        data: of the file.
        limits: its pixels, looked up in the header.

    Raises:
        DataError: no picture, or a damaged one.
        ApiError: too many pixels.
    """
    if not data:
        raise DataError("the file is empty")
    check_pixels(picture_size(data), limits)
    return load_image(data)


def check_pixels(size: tuple[int, int], limits: Limits) -> None:
    """Raises `ApiError` (413) where a picture has more pixels than the limit."""
    width, height = size
    if width * height > limits.pixels:
        raise ApiError(
            413, f"the picture has {width} x {height} pixels, the limit is {limits.pixels:,}; scale it down"
        )


@contextmanager
def opened_document(data: bytes, limits: Limits) -> Iterator[Any]:
    """A PDF, TIFF or picture as `deed.ocr.open_document` gives it.

    Args:
        data: of the file.
        limits: pages, pixels of a picture, and what a `.pdf.gz` may hold.

    Raises:
        DataError: a damaged or encrypted file.
        ApiError: too large.
    """
    if not data:
        raise DataError("the file is empty")
    if kind_of(data) != DOCUMENT:
        check_pixels(picture_size(data), limits)
    elif is_tiff(data[:1024]):
        for size in _tiff_sizes(data, limits):
            check_pixels(size, limits)
    with open_document(data, limits.unpacked_bytes) as document:
        if document.count > limits.pages:
            raise ApiError(413, f"the document has {document.count} pages, the limit is {limits.pages}; send fewer")
        yield document


def _tiff_sizes(data: bytes, limits: Limits) -> Iterator[tuple[int, int]]:
    for frame, size in enumerate(tiff_sizes(data)):
        if frame == limits.pages:
            break
        yield size
    else:
        return
    raise ApiError(413, f"the document has more than {limits.pages} pages; send fewer")


def check_page(document: Any, number: int, limits: Limits) -> None:
    """Refuse a page of a PDF that holds a picture of more pixels than the limit, as it declares them: PDFium would unpack it
    to draw the page.

    Args:
        document: of `opened_document`.
        number: counted from 1.
        limits: of pixels.

    Raises:
        DataError: there is no such page.
        ApiError: too many pixels.
    """
    for size in document.picture_sizes(number, _MOST_OBJECTS):
        check_pixels(size, limits)


def read_sound(data: bytes, rate: int, limits: Limits) -> Any:
    """Sound as `[samples]` float32, mono.

    Args:
        data: of the file.
        rate: samples a second.
        limits: its seconds.

    Raises:
        DataError: no sound, or a damaged file.
        ApiError: too long; decoding stops there.
    """
    from deed.utils.audio import TooLong, load_audio

    try:
        return load_audio(data, rate, limits.audio_seconds)
    except TooLong:
        raise ApiError(413, f"the recording is longer than the limit of {limits.audio_seconds:g} seconds") from None
