"""`deed bench curve`: how score and decoding time go together, measured at many thresholds and kept with the model.

Held-out examples are answered at full depth and at every threshold in turns, also with thresholds of each exit's own that
were chosen on other examples. With --score-drop or --speedup the model's threshold is set by the curve, which is
a measurement and no promise: `deed calibrate` gives one.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.utils.saved_model import read_saved_model

from .options import Data, HeldOutSplit, Json, SkipMissing

EXAMPLE = "Example: deed bench curve runs/g2p/model --score-drop 0.01"
COUNT = 600  # examples, half of them to choose thresholds per exit on
SEED = 0  # of their order: dictionaries are sorted, and a page's questions follow one another


def curve(
    model: Annotated[Path, typer.Argument(help="Folder of a saved deed model; its config.json is updated.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="Whose held-out data: g2p, pages, easyvqa, scenes (its parts mixed) …",
            show_default="g2p, for a LaTr++ pages, for an OFA scenes",
        ),
    ] = None,
    data: Data = None,
    split: HeldOutSplit = None,
    count: Annotated[
        int, typer.Option(min=2, help="Examples; on half of them thresholds per exit are chosen.")
    ] = COUNT,
    timed: Annotated[int, typer.Option(min=1, help="Time so many of the other half; all of it is scored.")] = 100,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Thresholds for all exits.", show_default="eighteen from 0.9999 to 0.3"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded at once when timed.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 1,
    score_drop: Annotated[
        float | None, typer.Option(help="Then set the fastest point that costs at most so much score.")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Then set the best-scoring point that decodes so many times faster.")
    ] = None,
    skip_missing: SkipMissing = False,
    as_json: Json = False,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        model: the folder; its configuration gets the curve.
        task, data, split, count: on which examples.
        timed, threshold, batch_size, repeats: how it is measured.
        score_drop, speedup: the target that is set.
        skip_missing: leave out examples whose picture is missing.
        as_json: print the curve as JSON.
    """
    check_targets(score_drop, speedup)
    read_saved_model(model)  # before PyTorch is imported, which takes a second
    from deed.calibration.curve import record_curve, set_target
    from deed.errors import ExitsCostMore
    from deed.modeling.saving import save_deed_config
    from deed.utils.progress import RichProgress

    with warnings.catch_warnings(record=True) as caught, RichProgress(quiet=as_json) as progress:
        warnings.simplefilter("always", ExitsCostMore)
        with progress.bar("reading", total=1.0) as bar:
            loaded, examples, score, options = held_out(
                model, task, data, split, count, lambda n: bar.update(completed=n / count), skip_missing
            )
            found = record_curve(
                loaded,
                examples,
                score=score,
                thresholds=threshold,
                batch_size=batch_size,
                timed=timed,
                repeats=repeats,
                progress=bar.update,
                **options,
            )
        save_deed_config(loaded, model)  # the curve has taken minutes: it stays, whether the target is reached or not
        point = None
        if score_drop is not None or speedup is not None:
            point = set_target(loaded, score_drop=score_drop, speedup=speedup)
            save_deed_config(loaded, model)
    notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ExitsCostMore)))
    for other in caught:
        if not issubclass(other.category, ExitsCostMore):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if as_json:
        typer.echo(json.dumps({**found, "target": point, "notes": notes}))
    else:
        show(found, point, notes, model)


def check_targets(score_drop: float | None, speedup: float | None) -> None:
    """Before minutes of measuring.

    Raises:
        ValueError: both targets, or one out of range.
    """
    if score_drop is not None and speedup is not None:
        raise ValueError("give --score-drop or --speedup, not both")
    if score_drop is not None and not 0 <= score_drop < 1:
        raise ValueError(f"--score-drop must lie in [0, 1), got {score_drop}")
    if speedup is not None and not speedup >= 1:
        raise ValueError(f"--speedup must be at least 1, got {speedup}")


def held_out(
    folder: Path,
    task: str | None,
    data: Path | None,
    split: str | None,
    count: int,
    tick: Callable[[int], None],
    skip_missing: bool = False,
) -> tuple[Any, list[Any], Callable[[list[int], Mapping[str, Any]], float], dict[str, Any]]:
    """The model, its tasks' held-out examples and score as `record_curve` takes them, and options of `generate()`.

    Args:
        folder: of the model.
        task: as `--task` has it; several tasks have equal shares of the examples.
        data, split: as the verb has them.
        count: examples of all tasks together.
        tick: called with the number of examples read.
        skip_missing: leave out examples whose picture is missing.

    Raises:
        ValueError: an unknown task or split, missing data, too few examples.
        DeedLoadError: not the folder of such a model, or a damaged one.
    """
    from deed.tasks.task import tasks_of

    from .shared import counted, quiet_libraries

    tasks = tasks_of(folder, [task] if task else None, split)
    quiet_libraries()
    loaded, processor = tasks[0].load(folder)
    rows: list[Any] = []
    judges: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for i, each in enumerate(tasks):
        each.skip_missing = skip_missing
        share = count // len(tasks) + (i < count % len(tasks))
        found = counted(
            each.examples(split or each.calibration_split, share, data), partial(tick_from, tick, len(rows))
        )
        mine = [each.row(processor, example) for example in found]
        rows += mine
        judges[each.name] = each.calibration_score(processor, [row["example"] for row in mine])
        options = merged(options, each.generation_options(loaded, processor))
    if len(rows) < 2:
        raise ValueError(f"a curve needs at least two examples, {tasks[0].name} has {len(rows)} in this split")
    random.Random(SEED).shuffle(rows)

    def score(tokens: list[int], row: Mapping[str, Any]) -> float:
        return judges[row["task"].name](tokens, row)

    return loaded, rows, score, options


def tick_from(tick: Callable[[int], None], before: int, count: int) -> None:
    """Report progress with an offset.

    Args:
        tick: is told.
        before: where it begins.
        count: since then.
    """
    tick(before + count)


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Options of `generate()` under which the answers of either task are as under its own: the longer length.

    Raises:
        ValueError: they differ in anything else.
    """
    if not first:
        return second
    length = {"max_length": max(o["max_length"] for o in (first, second))} if "max_length" in first else {}
    if {**first, **length} != {**second, **length}:
        raise ValueError("these tasks are answered in different ways; name one of them")
    return {**first, **length}


def show(found: dict[str, Any], point: dict[str, Any] | None, notes: list[str], folder: Path) -> None:
    """The curve as a table, fastest last; what does not fit a narrow terminal is folded.

    Args:
        found: of `record_curve`.
        point: what was set; None: nothing.
        notes: of warnings.
        folder: where the curve is saved.
    """
    from rich.console import Console
    from rich.table import Table

    from .shared import busy_note

    console = Console(highlight=False)
    wide, depths = console.width >= 72, found["exit_layers"]
    table = Table(box=None, padding=(0, 2 if wide else 1, 0, 0), pad_edge=False)
    table.add_column("threshold", overflow="fold", min_width=9)
    for header in ("score", "drop", *(["±"] if wide else []), "depth", "speedup", *(["quartiles"] if wide else [])):
        table.add_column(header, justify="right", no_wrap=True)
    for row in sorted(found["points"], key=lambda p: p["speedup"]["median"]):
        ratio = row["speedup"]
        cells = [f"{row['score']:.4f}", f"{row['score_drop']:.4f}", f"{row['score_drop_error']:.4f}"]
        cells += [f"{row['mean_depth']:.2f}", f"{ratio['median']:.2f}", f"{ratio['p25']:.2f}-{ratio['p75']:.2f}"]
        shown = cells if wide else [*cells[:2], *cells[3:5]]
        table.add_row(threshold_text(row["threshold"], depths), *shown, style="bold" if row is point else None)
    console.print(table)
    console.print(
        f"\n{found['examples']} examples scored, {found['timed']} timed (decoding, batch {found['batch_size']}) against "
        f"the same model at full depth in the same run; saved in {folder / 'config.json'}"
    )
    if point is not None:
        drop, error = point["score_drop"], point["score_drop_error"]
        console.print(
            f"Set: threshold {threshold_text(point['threshold'], depths)}; {point['speedup']['median']:.2f} times full "
            f"depth's speed at a score drop of {drop:.4f} (standard error {error:.4f}). Measured, not promised: "
            "`deed calibrate` promises."
        )
    busy = busy_note(found["machine"])
    for note in [*notes, *([busy] if busy else [])]:
        console.print(f"Note: {note}")


def threshold_text(value: float | list[float], depths: Sequence[int]) -> str:
    """`0.9`, `full depth`, or for a threshold per exit `1:0.970 4:0.900` with the depth of each exit that is asked."""
    if not isinstance(value, list):
        return "full depth" if value > 1 else f"{value:g}"
    return " ".join(f"{depth}:{t:.3f}" for depth, t in zip(depths, value, strict=False) if t <= 1)


def register(group: typer.Typer) -> None:
    """Add the verb to those of `deed bench`."""
    group.command("curve", epilog=EXAMPLE, help=__doc__)(curve)
