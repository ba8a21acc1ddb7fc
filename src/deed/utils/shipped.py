"""The trained models that ship with deed: where they lie, and by which names commands and pipelines know them."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
#: What a model is for, and its folder. "documents" are short business documents as OCR reads them, "paperwork" PDFs' own text
#: and long pages.
NAMES = {"documents": "latr", "paperwork": "paperwork", "pictures": "ofa", "pronunciation": "g2p"}


def shipped(name: str) -> Path:
    """Folder of the model of that name.

    Args:
        name: of `NAMES`.
    """
    return CHECKPOINTS / NAMES[name]


__all__ = ["CHECKPOINTS", "NAMES", "shipped"]
