"""The process that reads files which requests bring: `python -m deed.serving.reading_process`, one file after another.

PDFium, Pillow and FFmpeg are large, and what they read comes from anybody. Here they have a limit of memory and of processor
time, no keys, and can write no file; what goes wrong, a crash included, costs this process and the one request. The process
that serves (`reading.py`) gets plain numbers: JSON and the bytes of pixels or samples, never Python objects.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from deed.errors import DataError
from deed.ocr.pages import open_document
from deed.utils.audio import TooLong, load_audio
from deed.utils.images import is_tiff, picture_size, tiff_sizes
from deed.utils.optional import need

MOST_OBJECTS = 20_000  # of a PDF's page that are looked at for pictures
REFUSED, TOO_LARGE, NO_MEMORY = "refused", "too large", "no memory"  # kinds of errors


class TooLarge(Exception):
    """Above a limit; the message says which."""


def check_pixels(size: tuple[int, int], most: int) -> None:
    """Raises `TooLarge` where a picture has more pixels than the limit."""
    width, height = size
    if width * height > most:
        raise TooLarge(f"the picture has {width} x {height} pixels, the limit is {most:,}; scale it down")


@contextmanager
def opened(data: bytes, limits: dict[str, Any], paged: bool) -> Iterator[Any]:
    """A PDF, TIFF or picture as `deed.ocr.open_document` gives it.

    Args:
        data: of the file.
        limits: pages, pixels of a picture (by headers, before anything is decoded), and what a `.pdf.gz` may hold.
        paged: it is a PDF, `.pdf.gz` or TIFF by its first bytes.

    Raises:
        DataError: a damaged or encrypted file.
        TooLarge: above a limit.
    """
    if not paged:
        check_pixels(picture_size(data), limits["pixels"])
    elif is_tiff(data[:1024]):
        for frame, size in enumerate(tiff_sizes(data)):
            if frame == limits["pages"]:
                raise TooLarge(f"the document has more than {limits['pages']} pages; send fewer")
            check_pixels(size, limits["pixels"])
    with open_document(data, limits["unpacked_bytes"]) as document:
        if document.count > limits["pages"]:
            raise TooLarge(f"the document has {document.count} pages, the limit is {limits['pages']}; send fewer")
        yield document


def layer_of(document: Any, page: int) -> dict[str, Any] | None:
    """A page's text layer as JSON values."""
    layer = document.text(page)
    return layer and {**vars(layer), "words": [[word.text, list(word.box)] for word in layer.words]}


class Reader:
    """Does what it is told, a line of JSON at a time, and the file's bytes after it.

    Args:
        told, tells: where that comes from, and where answers go.
    """

    def __init__(self, told: BinaryIO, tells: BinaryIO) -> None:
        self.told, self.tells = told, tells
        self._open = ExitStack()
        self._document: Any = None
        self._limits: dict[str, Any] = {}

    def run(self) -> None:
        """Until nothing is told any more."""
        while line := self.told.readline():
            order = json.loads(line)
            data = self.told.read(order.pop("bytes", 0))
            try:
                answer, content = getattr(self, f"do_{order.pop('do')}")(data, **order)
            except DataError as error:
                kind = NO_MEMORY if isinstance(error.__cause__, MemoryError) else REFUSED
                answer, content = {"error": str(error), "kind": kind}, b""
            except TooLarge as error:
                answer, content = {"error": str(error), "kind": TOO_LARGE}, b""
            except MemoryError:
                answer, content = {"error": "", "kind": NO_MEMORY}, b""
            del data
            self.tells.write(json.dumps({**answer, "bytes": len(content)}).encode() + b"\n")
            self.tells.write(content)
            self.tells.flush()

    def do_limit(self, data: bytes, memory: int, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Memory, and processor time from now on.

        Args:
            data: nothing.
            memory: bytes of address space.
            seconds: of a processor.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return {}, b""

    def do_open(self, data: bytes, limits: dict[str, Any], paged: bool) -> tuple[dict[str, Any], bytes]:
        """A document; the one before it is closed.

        Args:
            data: of the file.
            limits: as of `opened`.
            paged: as of `opened`.
        """
        self._open.close()
        self._document, self._limits = self._open.enter_context(opened(data, limits, paged)), limits
        return {"count": self._document.count}, b""

    def do_close(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        """The document is not needed any more."""
        self._open.close()
        return {}, b""

    def do_check(self, data: bytes, page: int) -> tuple[dict[str, Any], bytes]:
        """Refuse a page of a PDF that holds a picture of more pixels than the limit, as it declares them: to draw the page,
        PDFium would unpack it."""
        self._document.index(page)
        for size in self._document.picture_sizes(page, MOST_OBJECTS):
            check_pixels(size, self._limits["pixels"])
        return {}, b""

    def do_text(self, data: bytes, page: int) -> tuple[dict[str, Any], bytes]:
        """A page's own text."""
        return {"layer": layer_of(self._document, page)}, b""

    def do_image(self, data: bytes, page: int, dpi: float) -> tuple[dict[str, Any], bytes]:
        """A page as an RGB picture.

        Args:
            data: nothing.
            page: counted from 1.
            dpi: of a PDF's page.
        """
        picture = self._document.image(page, dpi)
        return {"size": picture.size}, picture.tobytes()

    def do_sound(self, data: bytes, rate: int, most: float) -> tuple[dict[str, Any], bytes]:
        """A recording's samples, float32.

        Args:
            data: of the file.
            rate: samples a second.
            most: seconds; longer ones are refused.
        """
        try:
            return {}, load_audio(data, rate, most).tobytes()
        except TooLong:
            raise TooLarge(f"the recording is longer than the limit of {most:g} seconds") from None


def main() -> None:
    """Entry point of the process."""
    for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(what, (0, 0))
    need("PIL.Image").MAX_IMAGE_PIXELS = None  # `check_pixels` says what the server's own limit is
    told, tells = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    Reader(told, tells).run()


if __name__ == "__main__":
    main()
