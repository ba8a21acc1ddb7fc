"""Where the pictures of the data sets on COCO lie."""

from __future__ import annotations

from pathlib import Path

from .locating import existing_image

# Where downloads are unpacked to: beside the data, in `images`, as lichengunc/refer or the official VQA code has it.
FOLDERS = (
    "{folder}",
    "images/{folder}",
    "images/mscoco/images/{folder}",
    "Images/mscoco/{folder}",
    "coco/{folder}",
    "coco/images/{folder}",
    "images",
    "",
)


def coco_image(roots: list[Path], folder: str, name: str, where: str, field: str) -> Path:
    """A picture's file.

    Args:
        roots: the folders to look in.
        folder: the pictures' own (`train2014`), looked for in each root or one of the usual places below.
        name: the file's.
        where: file and entry, for errors.
        field: which of its fields names the picture.

    Raises:
        MissingPictureError: it is in none of them.
    """
    places = [root / place.format(folder=folder) / name for root in roots for place in FOLDERS]
    return existing_image(places, where, field)
