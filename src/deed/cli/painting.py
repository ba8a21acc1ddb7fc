"""Answers in the terminal. Depth is a color and a small number, so that it reads without colors too."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from deed.report import depth_colors, depth_runs

if TYPE_CHECKING:
    from rich.text import Text

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Painter:
    """Draws on stdout, for decoders of `n_layers` layers.

    Attributes:
        console: of Rich.
        unicode: whether the terminal shows more than ASCII.
        marks: sign and style of right (True), wrong (False) and neither (None).
    """

    def __init__(self, n_layers: int, end_token: str | None) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)
        self.colors, self.end_token = depth_colors(n_layers), end_token
        self.unicode = self.console.encoding.lower().startswith("utf")
        if not self.unicode and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a lost sign is better than a lost result
        signs = ("✓", "✗", "–") if self.unicode else ("ok", "no", "-")
        self.marks: dict[bool | None, tuple[str, str]] = dict(
            zip((True, False, None), zip(signs, ("green", "red", "dim"), strict=True), strict=True)
        )

    def _number(self, depth: int) -> str:
        return str(depth).translate(SUBSCRIPTS) if self.unicode else f":{depth}"

    def words(self, tokens: Sequence[str], depths: Sequence[int]) -> Text:
        """Tokens that are words of their own, spaces between them."""
        return self._paint(zip(tokens, depths, strict=True), " ")

    def running(self, pieces: Sequence[str], depths: Sequence[int]) -> Text:
        """Tokens that are pieces of a running text, those of one depth together."""
        return self._paint(depth_runs(pieces, depths, self.end_token))

    def _paint(self, parts: Iterable[tuple[str, int]], between: str = "") -> Text:
        from rich.text import Text

        text = Text(overflow="fold")
        for token, depth in parts:
            if token == self.end_token:
                token = "end" if between or not text else " end"
            text.append(token + self._number(depth), style=self.colors[depth - 1]).append(between)
        text.rstrip()
        return text or Text("(no text)", style="dim")

    def legend(self) -> None:
        """Which color is which depth."""
        from rich.text import Text

        text = Text("layers run for a token: ", style="dim")
        for depth, color in enumerate(self.colors, 1):
            text.append(str(depth), style=f"bold {color}").append(" ")
        self.console.print()
        self.console.print(text)

    def table(self, *headers: str) -> Any:
        """An empty table without lines; columns with a header hold numbers. Without headers, the line for them is left out."""
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(headers))
        for header in headers:
            table.add_column(header, justify="right" if header else "left")
        return table
