"""`deed estimate`: what early exit would give a model, before any training, and one sentence of advice.

DATA is .jsonl or .parquet with a row for each input (text, or image and question, or audio), or a folder of pictures, PDFs or
sounds, as for `deed batch`; without it --task names a data set. The model may be plain or have exits; it is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Column, HeldOutSplit, Json, MaxNewTokens, Questions

if TYPE_CHECKING:
    from deed.calibration.estimate import Estimate

EXAMPLE = (
    "Example: deed estimate facebook/bart-large-cnn articles.jsonl; deed estimate whisper-base recordings/; deed estimate "
    "runs/g2p/model --task g2p"
)
EXAMPLES = 200


def estimate(
    model: Annotated[
        str, typer.Argument(help="Folder or Hub name of a model, plain or with exits, or base (Whisper).")
    ],
    source: Annotated[
        Path | None, typer.Argument(metavar="DATA", help=".jsonl, .parquet, or a folder of files.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="With DATA: text2text, summarize, translate, transcribe, caption, vqa or document-qa. Without: whose "
            "held-out data (g2p, pages, scenes-refer …).",
            show_default="what the model is for",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Without DATA: folder of the task's data set on disk.")] = None,
    split: HeldOutSplit = None,
    question: Questions = None,
    column: Column = None,
    count: Annotated[int, typer.Option(min=8, help="Inputs looked at, from the first.")] = EXAMPLES,
    budget: Annotated[
        list[float] | None,
        typer.Option(help="Share of tokens that may change; may be repeated.", show_default="0, 0.01 and 0.02"),
    ] = None,
    source_language: Annotated[str | None, typer.Option("--from", help="For translate: the language of DATA.")] = None,
    target_language: Annotated[str | None, typer.Option("--to", help="For translate: the language to.")] = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs answered at once.")] = 8,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        model: what is estimated.
        source, task, data, split, question, column, count: on which inputs.
        budget, batch_size: as for `deed.estimate`.
        source_language, target_language, max_new_tokens: how they are answered.
        as_json: print the estimate as JSON.
    """
    from deed.calibration.estimate import BUDGETS
    from deed.calibration.estimate import estimate as estimated
    from deed.utils.progress import RichProgress

    from .shared import quiet_libraries, whisper_or_folder

    if source is not None and (data or split):
        raise ValueError("--data and --split are for a task's own data set; with DATA leave them out")
    model = str(whisper_or_folder(Path(model)))
    quiet_libraries()
    given = {"src_lang": source_language, "tgt_lang": target_language, "max_new_tokens": max_new_tokens}
    given = {name: value for name, value in given.items() if value is not None}
    with RichProgress(quiet=as_json, transient=True) as bars, bars.bar("reading") as bar:
        if source is None:
            loaded, rows, options = of_task(model, task, data, split, count)
            options |= {k: v for k, v in given.items() if k == "max_new_tokens"}
        else:
            loaded, rows, options = of_inputs(model, source, task, tuple(question or ()), column, count, given)
        found = estimated(
            loaded,
            rows,
            budgets=tuple(budget or BUDGETS),
            batch_size=batch_size,
            progress=lambda line: bar.update(line),
            **options,
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        show(found)


def of_task(
    model: str, task: str | None, data: Path | None, split: str | None, count: int
) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """A model, its encoder inputs from a task's held-out data, and the task's options of `generate()`.

    Args:
        model, task, data, split, count: as given.

    Raises:
        ValueError: no such task or data, or a model that is not for it.
    """
    from deed.tasks.task import tasks_of

    each = tasks_of(Path(model), [task] if task else None, split)[0]
    loaded, processor = each.load(Path(model))
    rows = []
    for example in each.examples(split or each.calibration_split, count, data):
        row = each.encode(processor, each.opened(example))
        rows.append({k: v for k, v in row.items() if k != "labels"})
        if len(rows) == count:
            break
    return loaded, rows, each.generation_options(loaded, processor)


def of_inputs(
    model: str,
    source: Path,
    task: str | None,
    questions: tuple[str, ...],
    column: str | None,
    count: int,
    given: Mapping[str, Any],
) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """Likewise from a file or folder; inputs that cannot be read are left out.

    Args:
        model, source, task, column, count: as given.
        questions: of inputs that have none.
        given: options of the pipeline's calls.

    Raises:
        DataError: nothing that can be read.
    """
    from deed.errors import DataError
    from deed.pipelines.making import pipeline
    from deed.serving.data_job import Job, task_of

    name = task or task_of(model, bool(questions))
    reader = Job(str(source), "", name, model, column, questions).reader()
    blocks = reader.blocks(count)
    pipe = pipeline(name, model)
    call = {k: v for k, v in given.items() if k in pipe.call_options}
    rows: list[Mapping[str, Any]] = []
    reasons: list[str] = []
    for one in (one for block in blocks for one in reader.read(block)):
        if len(rows) >= count:
            break
        if one.error:
            reasons.append(one.error)
            continue
        try:
            rows += pipe.pieces(one.item, call)
        except (ValueError, TypeError, OSError) as error:
            reasons.append(str(error))
    if not rows:
        raise DataError(f"nothing in {source} can be read: {reasons[0]}")
    options = {**pipe.task_options(call), **{k: v for k, v in given.items() if k not in call}}
    return pipe.model, [dict(row) for row in rows[:count]], options


def show(found: Estimate) -> None:
    """The estimate as tables, readable in 60 columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    total = found.encoder_ms + found.decoder_ms
    console.print(
        f"{found.examples} inputs; an answer of {found.answer_tokens:.0f} tokens takes {total:.0f} ms at full depth, the "
        f"encoder {found.encoder_share:.0%} of it; a layer {found.costs.layer_ms or 0:.2f} ms, an exit check "
        f"{found.costs.exit_check:.1f} layers"
    )
    names = [name for name in ("own", "fitted") if name in found.exits[0]]
    exits = Table(
        "exit", *("agrees, as it is" if name == "own" else name for name in names), box=None, header_style="dim"
    )
    for row in found.exits:
        exits.add_row(f"{row['depth']:.0f}", *(f"{row[name]:.0%}" for name in names))
    console.print(exits)
    ways = Table("exits", "tokens changed", "decoder", "answer", box=None, header_style="dim")
    told: list[tuple[str, ...]] = []
    for p in found.predictions:
        changed = "none (exact)" if p.mode == "exact" else f"{p.changed:.1%}"
        told.append((p.exits, changed, span(p.decoder), span(p.answer)))
    for line in dict.fromkeys(told):  # budgets that come to the same thresholds
        ways.add_row(*line)
    console.print("times faster, on inputs held out:")
    console.print(ways)
    gates = ", ".join(f"{value:.2f} ({name})" for name, value in found.perfect_gate.items())
    console.print(f"decoder with a perfect gate, which nothing reaches: {gates} times")
    console.print(found.advice, style="bold")


def span(values: list[float]) -> str:
    """`expected (low-high)`, short enough for a narrow terminal."""
    low, middle, high = values
    return f"{middle:.2f} ({low:.1f}-{high:.1f})"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(estimate)
