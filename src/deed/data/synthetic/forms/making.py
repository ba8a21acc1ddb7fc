"""A form: laid out by WeasyPrint, its words and boxes read back from the PDF, its questions from its content."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deed.data.base import UNANSWERABLE, Example
from deed.errors import DataError
from deed.ocr.text_layer import TextLayer, read_text_layer
from deed.utils.optional import need

from .content import ASKED, FIELDS, KINDS, Content, make_content
from .layout import LAYOUTS, UNSEEN_LAYOUTS, to_html

FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "Liberation Sans", "Liberation Serif", "Liberation Mono")
INSTALL = "pip install weasyprint (and Pango: apt-get install libpangoft2-1.0-0)"


@dataclass(frozen=True)
class Form:
    """One page.

    Attributes:
        content: what stands on it.
        layout: arrangement and way of printing fields.
        pdf: the page as a PDF.
        layer: its words with boxes, as the PDF's text layer gives them.
    """

    content: Content
    layout: tuple[str, str]
    pdf: bytes
    layer: TextLayer

    def image(self, width: int = 1000) -> Any:
        """The page as drawn, `width` pixels wide."""
        import pypdfium2

        page = pypdfium2.PdfDocument(self.pdf)[0]
        return page.render(scale=width / page.get_size()[0]).to_pil().convert("RGB")

    def examples(self, rng: random.Random, look_ups: int = 3, missing: int = 1) -> list[Example]:
        """Questions with their answers, and some that the page does not answer.

        Args:
            rng: chooses wordings, cells and what is missing.
            look_ups: rows of the table that are asked about, one cell of each, at most.
            missing: questions without an answer.
        """
        content, found = self.content, []
        for key, (label, value) in content.fields.items():
            forms = (f"what is the {ASKED.get(key, key)}?", f'what comes after "{label}"?', f"{label.lower()}?")
            found.append(("field", rng.choices(forms, (6, 3, 1))[0], value))
        for row in rng.sample(content.rows, min(look_ups, len(content.rows))):
            column = rng.randrange(1, len(content.heads))
            found.append(("table", f'what is the "{content.heads[column]}" of "{row[0]}"?', row[column]))
        found.append(("title", "what is the title?", content.title))
        others = [k for kind in KINDS for k in FIELDS[kind] if k not in content.fields]
        for _ in range(missing):
            found.append(("unanswerable", f"what is the {ASKED.get(k := rng.choice(others), k)}?", UNANSWERABLE))
        extra = {"document": content.kind, "layout": "/".join(self.layout)}
        return [Example(q, [a], self.layer.words, None, "", kind, extra) for kind, q, a in found]


def make_form(rng: random.Random, unseen: bool = False, kinds: Sequence[str] = KINDS) -> Form:
    """A random form whose whole content is on its one page.

    Args:
        rng: decides everything.
        unseen: in a layout that is held out of training.
        kinds: of documents, to choose from.

    Raises:
        DataError: WeasyPrint is not installed.
    """
    try:
        weasyprint = need("weasyprint", INSTALL)
    except OSError as error:  # the library is there, Pango is not
        raise DataError(f"weasyprint cannot be loaded ({error}): {INSTALL}") from None
    for name in ("weasyprint", "fontTools"):
        logging.getLogger(name).setLevel(logging.ERROR)
    while True:
        content = make_content(rng.choice(tuple(kinds)), rng)
        layout = rng.choice(UNSEEN_LAYOUTS if unseen else LAYOUTS)
        pdf = weasyprint.HTML(string=to_html(content, layout, FONTS, rng)).write_pdf()
        layer, pages = _read(pdf)
        if pages == 1 and _is_whole(content, layer):  # what runs over or is cut is made anew
            return Form(content, layout, pdf, layer)


def _read(pdf: bytes) -> tuple[TextLayer, int]:
    import pypdfium2

    document = pypdfium2.PdfDocument(pdf)
    try:
        return read_text_layer(document[0]), len(document)
    finally:
        document.close()


def _is_whole(content: Content, layer: TextLayer) -> bool:
    """Whether every value can be read off the page's words, one after the other."""
    text = " ".join(word.text for word in layer.words)
    values = [value for _, value in content.fields.values()] + [cell for row in content.rows for cell in row]
    return all(" ".join(value.split()) in text for value in values)
