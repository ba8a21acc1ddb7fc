"""The trained models that ship with deed: where they lie, and by which names commands and pipelines know them."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
#: Short business documents as OCR reads them; PDFs' own text and long pages.
DOCUMENTS, PAPERWORK = "documents", "paperwork"
#: What a model is for, and its folder.
NAMES = {DOCUMENTS: "latr", PAPERWORK: "paperwork", "pictures": "ofa", "pronunciation": "g2p"}


def shipped(name: str) -> Path:
    """Folder of the model of that name.

    Args:
        name: of `NAMES`.
    """
    return CHECKPOINTS / NAMES[name]


__all__ = ["CHECKPOINTS", "DOCUMENTS", "NAMES", "PAPERWORK", "shipped"]
