"""`deed bench`: decoding speed side by side with other runtimes, how cost grows, and score against time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .bench_tables import closing, isa_line, plain_table
from .options import Json

EXAMPLE = "Example: deed bench speed --shape t5-small --rounds 3"
SPEED_EXAMPLE = "Example: deed bench speed --shape t5-base --batch 1 --batch 8 --compare runs/bench/speed.json"
SCALING_EXAMPLE = "Example: deed bench scaling --sweep source --sweep batch"
OUT = Path("runs/bench")
EVERY_SHAPE = ("t5-small", "t5-base", "bart-base", "latr-base", "g2p", "latr")

group = typer.Typer(help=__doc__, epilog=EXAMPLE, no_args_is_help=True)

Out = Annotated[Path, typer.Option("--output", "--out", help="Folder for the result (JSON) and its plots.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of every runtime.", show_default="torch's")]


def speed(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(EVERY_SHAPE)}, or all.", show_default="t5-base")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows decoded at once.", show_default="1")] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(help="Only these (and Transformers); * stands for anything.", show_default="all"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each subject, after a warm one.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=2, help="Forced length of every answer.")] = 60,
    threads: Threads = None,
    isa: Annotated[
        str, typer.Option(help="avx2: start over with every library restricted to it that can be.")
    ] = "native",
    keep: Annotated[
        Path | None, typer.Option(help="Folder where converted models stay for later runs.", show_default="none")
    ] = None,
    compile_limit: Annotated[float, typer.Option(min=1, help="Seconds that torch.compile may take.")] = 120,
    out: Out = OUT,
    compare: Annotated[
        Path | None, typer.Option(help="A recorded speed.json: its ratios beside those of this run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every subject on the same weights in one run, in turns: Transformers (eager, static cache, compiled), CTranslate2,
    ONNX Runtime, OpenVINO, and deed at full depth, at random depths and at those of real answers. Whole answers first, then
    steps, then how the goals stand. Weights are random, from a seed; nothing is downloaded."""
    from deed.bench.isa import restart_restricted

    restart_restricted(isa)  # before anything else is loaded
    from deed.bench.plots import speed_figure, write_result
    from deed.bench.speed import Settings, compare_reports, measure_speed, read_report
    from deed.utils.progress import RichProgress

    from .shared import check_output, quiet_libraries

    quiet_libraries()
    names = EVERY_SHAPE if shape and "all" in shape else tuple(dict.fromkeys(shape or ["t5-base"]))
    settings = Settings(
        shapes=names,
        batches=tuple(dict.fromkeys(batch or [1])),
        subjects=tuple(subject or ()),
        rounds=rounds,
        new_tokens=new_tokens,
        threads=threads,
        compile_limit=compile_limit,
        isa=isa,
        keep=None if keep is None else str(keep),
    )
    before = read_report(compare) if compare is not None else None  # read now: the result may take its place
    check_output(out)
    with RichProgress(quiet=as_json) as progress, progress.bar("starting", total=1.0) as bar:
        report = measure_speed(settings, bar.update)
    report["compared"] = compare_reports(before, report) if before is not None else None
    paths = write_result(report, out, "speed", speed_figure)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show_speed(report, paths)


def scaling(
    sweep: Annotated[
        list[str] | None, typer.Option(help="source, answer, batch, layers, vocab.", show_default="all")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each subject, after a warm one.")] = 3,
    width: Annotated[int, typer.Option(min=64, help="d_model, a multiple of 64.")] = 256,
    threads: Threads = None,
    out: Out = OUT,
    as_json: Json = False,
) -> None:
    """Cost against source length, answer length, batch, layers and vocabulary, one swept at a time: Transformers, deed
    never leaving, deed at a mean depth of a quarter of the layers. Also the work done and the memory of caches."""
    from deed.bench.plots import scaling_figure, write_result
    from deed.bench.scaling import SWEEPS, Point, check, measure_scaling
    from deed.utils.progress import RichProgress

    from .shared import check_output, quiet_libraries

    quiet_libraries()
    if width % 64:
        raise ValueError(f"--width must be a multiple of 64, got {width}")
    check({name: SWEEPS.get(name, (1,)) for name in sweep or SWEEPS}, rounds)
    check_output(out)
    sweeps = {name: SWEEPS[name] for name in dict.fromkeys(sweep or SWEEPS)}
    with RichProgress(quiet=as_json) as progress, progress.bar("starting", total=1.0) as bar:
        report = measure_scaling(sweeps, Point(width=width), rounds, threads, bar.update)
    paths = write_result(report, out, "scaling", scaling_figure)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show_scaling(report, paths)


def show_speed(report: dict[str, Any], paths: list[Path]) -> None:
    """A table per shape and batch, within 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    for workload in report["workloads"]:
        rows = [r for r in report["rows"] if (r["shape"], r["batch"]) == (workload["shape"], workload["batch"])]
        memory = max(values["median"] for values in workload["memory_gb_s"].values())
        longest = max(workload["source"])
        console.print(
            f"\n[bold]{workload['shape']}, batch {workload['batch']}[/bold]: {workload['layers']} layers, {longest} tokens "
            f"read, {workload['new_tokens']} written; "
            f"memory {memory:.1f} GB/s"
        )
        console.print(answer_table(rows, workload["layers"]))
        console.print()
        console.print(speed_table(rows, workload["layers"]))
        for line in missing_lines(rows, workload["layers"]):
            console.print(line, style="dim")
        for cost in report["exit_checks"]:
            if (cost["shape"], cost["batch"]) == (workload["shape"], workload["batch"]):
                console.print(check_line(cost))
    measured = {(s["shape"], s["batch"]) for s in report["workloads"]}
    for row in report["rows"]:
        if (row["shape"], row["batch"]) not in measured:
            console.print(f"\n{row['shape']}, batch {row['batch']}: {row['reason']}")
    if report["goals"]:
        console.print("\n[bold]Goals[/bold]")
        console.print(goals_table(report["goals"]))
    console.print(f"\n{isa_line(report['isa'])}")
    if report["compared"] is not None:
        console.print("\n[bold]Times faster than Transformers, then and now[/bold]")
        console.print(compared_table(report["compared"]))
    closing(console, report, paths)


def missing_lines(rows: list[dict[str, Any]], n_layers: int) -> list[str]:
    """What could not be measured: a line per reason, which names three subjects at most (the JSON has them all)."""
    from deed.bench.catalogue import shown_name

    missing = [r for r in rows if not r["available"]]
    lines = []
    for reason in dict.fromkeys(r["reason"] for r in missing):
        names = [shown_name(r["subject"], n_layers) for r in missing if r["reason"] == reason]
        more = f" and {len(names) - 2} more" if len(names) > 3 else ""
        lines.append(f"Not available: {', '.join(names[:2] if more else names)}{more}: {reason}")
    return lines


def check_line(cost: dict[str, Any]) -> str:
    """What an exit check costs beside a layer, or that this run cannot tell."""
    name, share = f"One exit check, {cost['precision']} {cost['exit_check']}", cost["of_a_layer"]
    if share is None:
        return f"{name}: less than times wavered in this run"
    return (
        f"{name}: {share['median']:.2f} of a layer ({share['p25']:.2f} to {share['p75']:.2f}; a layer "
        f"{cost['layer_ms']['median']:.2f} ms)"
    )


def answer_table(rows: list[dict[str, Any]], n_layers: int) -> Any:
    """Whole answers, the encoder's time among them: ms for each length, times faster than Transformers at the longest, tokens
    per second."""
    from deed.bench.catalogue import shown_name
    from deed.bench.subjects import BASELINE

    there = [row for row in rows if row["available"]]
    lengths = list(there[0]["answer_ms"]) if there else []
    table = plain_table("whole answer, ms", *lengths, "times", "tokens/s")
    for row in there:
        table.add_row(
            shown_name(row["subject"], n_layers),
            *(f"{row['answer_ms'][n]['median']:.0f}" for n in lengths),
            f"{row['answer_times_faster_than'][BASELINE][lengths[-1]]['median']:.2f}",
            f"{row['tokens_per_s']['median']:.0f}",
        )
    return table


def goals_table(goals: list[dict[str, Any]]) -> Any:
    """Each goal with what was reached, its quartiles, and against whom."""
    table = plain_table("goal", "wanted", "reached", "quartiles", "met")
    for row in goals:
        found, against = row["reached"], f" ({row['against']})" if row["against"] else ""
        if row["unrestricted"]:
            other = row["unrestricted"]
            against += f"; {other['reached']['median']:.2f} to {other['against']}, not restricted"
        table.add_row(
            f"{row['shape']}, {row['goal']}{against}",
            row["wanted"],
            f"{found['median']:.2f}",
            f"{found['p25']:.2f}-{found['p75']:.2f}",
            "yes" if row["met"] else "no",
        )
    return table


def speed_table(rows: list[dict[str, Any]], n_layers: int) -> Any:
    """Steps of the subjects that were measured. "floor": step time over that of reading the bytes it needs; "same": share of
    tokens that are those of the subject's reference."""
    from deed.bench.catalogue import shown_name
    from deed.bench.subjects import BASELINE

    table = plain_table("ms per later step", "step", "quartiles", "times", "floor", "same")
    for row in rows:
        if not row["available"]:
            continue
        step = row["step_ms"]
        table.add_row(
            shown_name(row["subject"], n_layers),
            f"{step['median']:.2f}",
            f"{step['p25']:.2f}-{step['p75']:.2f}",
            f"{row['times_faster_than'][BASELINE]['median']:.2f}",
            f"{row['over_floor']['median']:.2f}",
            f"{row['parity']['equal']:.2f}",
        )
    return table


def compared_table(rows: list[dict[str, Any]]) -> Any:
    """Medians of the ratios, side by side."""
    table = plain_table("subject", "then", "now")
    for row in rows:
        values = [f"{row[k]['median']:.2f}" if row[k] is not None else "-" for k in ("then", "now")]
        table.add_row(f"{row['shape']}, batch {row['batch']}, {row['subject']}", *values)
    return table


def show_scaling(report: dict[str, Any], paths: list[Path]) -> None:
    """A row per point."""
    from rich.console import Console

    from deed.bench.scaling import EARLY, FULL
    from deed.bench.subjects import BASELINE

    console = Console(highlight=False)
    table = plain_table("", "ms/token", "full", "mean 1/4", "cells", "padding", "memory")
    for row in report["rows"]:
        times, work = row["times"], row["work"][EARLY]
        ratios = [times[n]["times_faster_than_transformers"]["median"] for n in (FULL, EARLY)]
        table.add_row(
            f"{row['sweep']} {row['value']}",
            f"{times[BASELINE]['token_ms']['median']:.2f}",
            *(f"{r:.2f}" for r in ratios),
            f"{work['computed_cells'] / work['full_depth_cells']:.2f}",
            f"{work['padding_cells'] / work['full_depth_cells']:.2f}",
            f"{row['memory']['over']:+.1%}",
        )
    console.print(table)
    console.print(
        "\nms/token: Transformers' decoder. full, mean 1/4: how many times faster deed is at full depth and at a quarter of "
        "it.\ncells, padding: computed at a quarter, as shares of full depth's. memory: deed's caches beyond Transformers' "
        "and one hidden buffer."
    )
    closing(console, report, paths)


def register(app: typer.Typer) -> None:
    from . import bench_curve, bench_serve, bench_speech

    if not group.registered_commands:
        group.command("speed", epilog=SPEED_EXAMPLE)(speed)
        group.command("scaling", epilog=SCALING_EXAMPLE)(scaling)
        bench_curve.register(group)
        bench_serve.register(group)
        bench_speech.register(group)
    app.add_typer(group, name="bench")
