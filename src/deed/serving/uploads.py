"""What a request brings, as bytes in memory: base64 undone, and told apart by its first bytes. Names of files are not looked
at, nothing is written to disk, nothing that a text names is opened."""

from __future__ import annotations

import base64
import binascii
import re

from deed.utils.images import is_pdf, is_tiff

from .api_errors import ApiError

PICTURE, DOCUMENT, SOUND = "picture", "document", "sound"
GZIP = b"\x1f\x8b"
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_SOUNDS = (b"RIFF", b"ID3", b"fLaC", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b"caff", b".snd", b"#!AMR", b"0&\xb2u")


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
