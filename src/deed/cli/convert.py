"""`deed convert`: released weights of a model family that Transformers does not have, to a folder that loads.

OFA comes as fairseq checkpoints (`ofa_base.pt`) and as folders of a Transformers port (OFA-Sys/OFA-base). Every tensor is
accounted for, and the weights are not changed. Pickles may hold tensors and plain values; anything else is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: deed convert ofa ofa_base.pt models/ofa-base --bpe OFA/utils/BPE"


def convert(
    family: Annotated[str, typer.Argument(help="ofa.")],
    checkpoint: Annotated[Path, typer.Argument(help="A fairseq .pt file, or a folder of the Transformers port.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; new, or empty.")],
    ema: Annotated[bool, typer.Option("--ema", help="Take the averaged weights of a fairseq checkpoint.")] = False,
    bpe: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the tokenizer: encoder.json, vocab.bpe and dict.txt, or vocab.json and merges.txt.",
            show_default="the port's folder",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, help="Side of the pictures in pixels.", show_default="the checkpoint's")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Grow the vocabulary to so many ids.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        family: of models.
        checkpoint, ema, bpe: what is converted.
        output: where to.
        image_size, vocab_size: changes to it.
        as_json: print the result as JSON.
    """
    from .shared import check_output, quiet_libraries

    if family != "ofa":
        raise ValueError(f"the family must be ofa, got {family!r}")
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint}: no such file or folder")
    check_output(output)
    quiet_libraries()
    from deed.models.ofa.convert_ofa import STEPS
    from deed.models.ofa.convert_ofa import convert as run
    from deed.utils.progress import RichProgress

    with RichProgress(quiet=as_json) as progress, progress.bar(STEPS[0], total=len(STEPS)) as bar:

        def tell(step: str) -> None:
            bar.update(step, STEPS.index(step))

        result = run(checkpoint, output, ema, bpe, image_size, vocab_size, tell)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"{result['parameters']:,} parameters in {result['tensors']} tensors, {result['encoder_layers']} encoder and "
        f"{result['decoder_layers']} decoder layers; model in {output}"
    )
    for note in result["notes"]:
        typer.echo(f"Note: {note}")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(convert)
