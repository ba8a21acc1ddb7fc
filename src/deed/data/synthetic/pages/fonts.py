"""The fonts pages are set in: files from PyPI packages, and fast widths of texts."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from deed.errors import DataError

# Family: package, folder in it, regular file, bold file.
FAMILIES = {
    "roboto": ("font_roboto", "files", "Roboto-Regular.ttf", "Roboto-Bold.ttf"),
    "sans": ("font_source_sans_pro", "files", "SourceSansPro-Regular.ttf", "SourceSansPro-Semibold.ttf"),
    "serif": ("font_source_serif_pro", "files", "SourceSerifPro-Regular.ttf", "SourceSerifPro-Semibold.ttf"),
    "caladea": ("font_caladea", "files", "Caladea-Regular.ttf", "Caladea-Bold.ttf"),
    "manrope": ("font_manrope", "files", "Manrope-Regular.ttf", "Manrope-Bold.ttf"),
    "hanken": ("font_hanken_grotesk", "files", "HankenGrotesk-Regular.otf", "HankenGrotesk-Bold.otf"),
    "dejavu": ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "mono": ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
}
_MEASURED = 200  # px, at which advances are taken


def font_path(font: str) -> Path:
    """The file of a font key: a family, or a family with `-bold`.

    Raises:
        DataError: no such font, or its package is not installed.
    """
    family, _, weight = font.partition("-")
    if family not in FAMILIES or weight not in ("", "bold"):
        raise DataError(f"font must be one of {', '.join(FAMILIES)}, with or without '-bold', got {font!r}")
    package, folder, regular, bold = FAMILIES[family]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise DataError(f"the pages are set in fonts of {name}, which is not installed: pip install {name}")
    return Path(spec.origin).parent / folder / (bold if weight else regular)


@lru_cache(maxsize=512)
def load_font(font: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size in px, without complex layout, so that texts are as wide everywhere."""
    return ImageFont.truetype(str(font_path(font)), size, layout_engine=ImageFont.Layout.BASIC)


class _Advances(dict[str, float]):
    """Characters to their widths at size 1, measured when first asked for."""

    def __init__(self, font: str) -> None:
        super().__init__()
        self.font = font

    def __missing__(self, char: str) -> float:
        self[char] = load_font(self.font, _MEASURED).getlength(char) / _MEASURED
        return self[char]


@lru_cache(maxsize=64)
def advances(font: str) -> dict[str, float]:
    """Characters to widths at size 1; the sum over a text is its width up to kerning (about 1 %)."""
    return _Advances(font)


def text_width(text: str, font: str, size: float) -> float:
    """In px, up to kerning.

    Args:
        text: as printed.
        font: a key of the fonts.
        size: pixels.
    """
    return sum(map(advances(font).__getitem__, text)) * size
