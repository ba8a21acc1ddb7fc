"""What the data sets on COCO's pictures share: lists in big JSON files, and where the pictures lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .reading import Entry, existing_image, stream

# Where downloads are unpacked to: beside the data, in `images`, or as lichengunc/refer has it.
FOLDERS = ("{folder}", "images/{folder}", "images/mscoco/images/{folder}", "images", "")


def list_entries(path: Path, name: str) -> Iterator[Entry]:
    """The entries of a list in a file `{"NAME": [{…}, …], …}`, one at a time; the rest is passed over.

    Raises:
        DataError: no such file, not JSON, cut short (after the entries before the cut), or no such list.
    """
    items = stream(path, lambda ijson, f: enumerate(ijson.items(f, f"{name}.item", use_float=True)), f'"{name}": […]')
    for i, value in items:
        yield Entry(value, f"{path}, {name}[{i}]")


def coco_image(roots: list[Path], folder: str, name: str, where: str, field: str) -> Path:
    """A picture's file, `NAME` in `FOLDER` (`train2014`) or one of the usual places, looked for under each root.

    Raises:
        DataError: it is in none of them.
    """
    places = [root / place.format(folder=folder) / name for root in roots for place in FOLDERS]
    return existing_image(places, where, field)
