"""`deed batch`: answer every row of a file, or every file of a folder, into Parquet; goes on where it was stopped.

IN is .jsonl or .parquet with a row for each input (text, or image and question, or audio), or a folder of pictures, PDFs or
sounds. OUT is a folder with a Parquet file for each block of the input: answer, depths, confidence, error. With --ray many
workers share the work, on this machine or on a Ray cluster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deed.utils.shipped import shipped

from .options import Column, Exact, Json, MaxNewTokens, Questions
from .shared import check_threshold

EXAMPLE = (
    'Example: deed batch invoices/ answers/ --question "what is the total?"; deed batch texts.jsonl out/ --model '
    "runs/g2p/model"
)


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help=".jsonl, .parquet, or a folder of files.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the answers.")],
    model: Annotated[
        str | None, typer.Option(help="Folder or Hub name of a model.", show_default="the LaTr++ shipped with deed")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="text2text, summarize, translate, transcribe, caption, vqa or document-qa.",
            show_default="what the model is for",
        ),
    ] = None,
    question: Questions = None,
    column: Column = None,
    threshold: Annotated[float | None, typer.Option(help="Exit threshold.", show_default="the model's own")] = None,
    exact: Exact = False,
    source_language: Annotated[str | None, typer.Option("--from", help="For translate: the language of IN.")] = None,
    target_language: Annotated[str | None, typer.Option("--to", help="For translate: the language of OUT.")] = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs generated at once.")] = 8,
    block_size: Annotated[int, typer.Option(min=1, help="Inputs in a file of OUT.")] = 256,
    ray: Annotated[bool, typer.Option("--ray", help="Work on a Ray cluster: $RAY_ADDRESS, or this machine.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With --ray: workers at most.", show_default="as many as there is room for"),
    ] = None,
    num_cpus: Annotated[float, typer.Option(min=0.01, help="With --ray: processors of each worker.")] = 1,
    num_gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each worker, also a share of one.")] = 0,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        source, output, model, task, question, column, block_size: as for `deed.data_job`.
        threshold, exact, source_language, target_language, max_new_tokens, batch_size: how it is answered.
        ray, workers, num_cpus, num_gpus: where.
        as_json: print the counts as JSON.
    """
    check_threshold(threshold)
    from deed.serving.data_job import data_job
    from deed.utils.progress import RichProgress

    from .shared import quiet_libraries

    quiet_libraries()
    given = {
        "threshold": threshold,
        "src_lang": source_language,
        "tgt_lang": target_language,
        "max_new_tokens": max_new_tokens,
        "exact": exact or None,
    }
    if num_gpus:
        given["device"] = "cuda"
    with RichProgress(quiet=as_json) as bars:
        done = data_job(
            source,
            output,
            model or shipped("documents"),
            task=task,
            question=question or None,
            column=column,
            block_size=block_size,
            ray=ray,
            workers=workers,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            progress=bars,
            batch_size=batch_size,
            **{name: value for name, value in given.items() if value is not None},
        )
    if as_json:
        typer.echo(json.dumps(done))
        return
    before = f" ({done['answered_before']} of {done['blocks']} files were there)" if done["answered_before"] else ""
    errors = f", {done['errors']} of them with an error (column error)" if done["errors"] else ""
    typer.echo(f"{done['rows']} rows{errors} in {done['output']}{before}")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(batch)
