"""Options that several verbs have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Data = Annotated[Path | None, typer.Option(help="Folder of a data set on disk.")]
HeldOutSplit = Annotated[str | None, typer.Option(help="Split.", show_default="calibration, or for data on disk val")]
Count = Annotated[
    int | None, typer.Option(min=1, help="Use only so many examples of each task.", show_default="all; 1000 of scenes")
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Give exactly the answers of full depth: tokens that leave early are verified by the last layer.",
    ),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out examples whose picture is missing, and say how many.")
]
Questions = Annotated[
    list[str] | None, typer.Option(help="Asked of every input that has no question of its own; may be repeated.")
]
Column = Annotated[
    str | None, typer.Option(help="Column with text, picture or sound.", show_default="text, image, audio …")
]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer.")]
