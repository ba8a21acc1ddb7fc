"""`deed bench serve`: `deed serve` under load, beside other servers of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Json

EXAMPLE = "Example: deed bench serve --shape t5-small --clients 16 --rounds 3"
EVERY_CLIENTS = (1, 4, 16, 64)


def serve(
    shape: Annotated[list[str] | None, typer.Option(help="t5-small, t5-base, g2p.", show_default="t5-small")] = None,
    answers: Annotated[
        str, typer.Option(help="Whose recorded lengths and depths random weights follow: documents, g2p.")
    ] = "documents",
    subject: Annotated[list[str] | None, typer.Option(help="Only these servers.", show_default="all")] = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=0, help="Closed loops; 0: none.", show_default="1, 4, 16 and 64")
    ] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Poisson arrivals per second.", show_default="none")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Measure streams as well: first token, gaps.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each subject.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each run, after --warm.")] = 10.0,
    warm: Annotated[float, typer.Option(min=0, help="Seconds before each run that do not count.")] = 2.0,
    requests: Annotated[int, typer.Option(min=1, help="Different ones, at most 1000.", max=1000)] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Of every model.")] = 2,
    inter: Annotated[int, typer.Option(min=1, help="Batches that CTranslate2 runs at once.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="Requests of a peer's batch.")] = 32,
    wait_ms: Annotated[int, typer.Option(min=0, help="How long a peer's batch waits for more.")] = 5,
    serve_option: Annotated[
        list[str] | None, typer.Option(help="Passed on to `deed serve`, such as --serve-option=--limit=queue=64.")
    ] = None,
    soak: Annotated[
        str | None, typer.Option(help="Instead: one subject under many clients for so long, such as 10m or 90s.")
    ] = None,
    add: Annotated[Path | None, typer.Option(help="An earlier result: this run's rounds are added to it.")] = None,
    name: Annotated[str, typer.Option(help="Of the result's files.")] = "serve",
    work: Annotated[Path, typer.Option(help="Where models and reference answers are kept.")] = Path("runs/serve"),
    out: Annotated[Path, typer.Option("--output", "--out", help="Folder for the result (JSON) and its plot.")] = Path(
        "runs/bench"
    ),
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make models and reference answers.")] = False,
    as_json: Json = False,
) -> None:
    """The same model served by deed, by Transformers and CTranslate2 behind FastAPI with dynamic batching, and by LitServe,
    one after the other, under the same load: tokens and requests per second, latency, memory. Every answer is compared with
    the same runtime's answer to that request alone. Weights are random, from a seed; nothing is downloaded."""
    from deed.bench.plots import write_result
    from deed.utils.files import read_json
    from deed.utils.optional import need
    from deed.utils.progress import RichProgress

    from .shared import check_output, quiet_libraries

    for library in ("aiohttp", "psutil"):
        need(library, 'pip install "deed-transformers[bench]"')
    from deed.bench.serve import Settings, measure_serving, prepared, same_settings
    from deed.bench.serve_plot import serve_figure
    from deed.bench.serve_process import SUBJECTS, Setup
    from deed.bench.serve_soak import soak as run_soak

    quiet_libraries()
    counts = tuple(n for n in dict.fromkeys(EVERY_CLIENTS if clients is None else clients) if n)
    settings = Settings(
        shapes=tuple(dict.fromkeys(shape or ["t5-small"])),
        answers=answers,
        subjects=tuple(dict.fromkeys(subject or SUBJECTS)),
        clients=counts or ((64,) if soak else ()),
        rates=tuple(dict.fromkeys(rate or ())),
        stream=stream,
        rounds=rounds,
        seconds=seconds,
        warm=warm,
        requests=requests,
        setup=Setup(threads, inter, most, wait_ms, tuple(serve_option or ())),
    )
    duration = seconds_of(soak) if soak is not None else None
    earlier = None
    if add is not None:
        earlier = read_json(add, ValueError)
        same_settings(earlier, settings)
    check_output(out)
    with RichProgress(quiet=as_json) as progress, progress.bar("starting", total=1.0) as bar:
        if prepare:
            for one in settings.shapes:
                prepared(one, settings, work, bar.update)
            return
        if duration is not None:
            report = run_soak(
                settings.shapes[0], settings.subjects[0], settings, work, duration, max(settings.clients), bar.update
            )
        else:
            report = measure_serving(settings, work, bar.update, earlier)
    paths = write_result(report, out, name, serve_figure)
    if as_json:
        typer.echo(json.dumps(report))
    elif duration is not None:
        show_soak(report, paths)
    else:
        show(report, paths)


def seconds_of(text: str) -> float:
    """ "10m", "90s" or "45" in seconds.

    Raises:
        ValueError: anything else.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        found = float(number) * unit
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"--soak must be a time such as 10m or 90s, got {text!r}")
    return found


def show(report: dict[str, Any], paths: list[Path]) -> None:
    """A table per shape and load."""
    from rich.console import Console

    from .bench_tables import closing, plain_table

    console = Console(highlight=False)
    rows = report["summary"]
    groups = dict.fromkeys((r["shape"], r["answers"], json.dumps(r["load"]), r["stream"]) for r in rows)
    for shape, answers, load, stream in groups:
        table = plain_table("server", "tokens/s", "req/s", "p50 ms", "p95 ms", "first", "wrong", "MB", "×CT2", "p95×")
        for row in rows:
            if (row["shape"], row["answers"], json.dumps(row["load"]), row["stream"]) == (
                shape,
                answers,
                load,
                stream,
            ):
                table.add_row(*cells(row))
        title = "streams, " if stream else ""
        console.print(f"\n[bold]{shape}[/bold], answers of {answers}: {title}{load_name(json.loads(load))}")
        console.print(table)
    reasons = {(r["shape"], r["subject"], r["reason"]) for r in report["rows"] if not r["available"]}
    for shape, subject, reason in sorted(reasons):
        console.print(f"Not available: {shape}, {subject}: {reason}", style="dim")
    console.print("\n×CT2, p95×: tokens per second and 95th percentile over those of CTranslate2's faster precision.")
    closing(console, report, paths)


def load_name(load: dict[str, Any]) -> str:
    """A load in words."""
    return f"{load['clients']} clients" if load["kind"] == "closed" else f"{load['rate']:g} arrivals a second"


def cells(row: dict[str, Any]) -> list[str]:
    """A summary row as text."""
    against = row["against"]["ctranslate2's faster precision"]
    first = row["first_token_ms_p95"]
    slow = None if against is None else against["p95"]
    failed = row["errors"] + row["refused"]
    return [
        row["subject"],
        f"{row['tokens_per_s']['median']:.0f}",
        f"{row['requests_per_s']['median']:.1f}",
        f"{row['p50_ms']['median']:.0f}",
        f"{row['p95_ms']['median']:.0f}",
        "-" if first is None else f"{first['median']:.0f}",
        f"{row['wrong']}" + (f" +{failed} failed" if failed else ""),
        f"{row['memory_mb']:.0f}",
        "-" if against is None else f"{against['tokens_per_s']['median']:.2f}",
        "-" if slow is None else f"{slow['median']:.2f}",
    ]


def show_soak(report: dict[str, Any], paths: list[Path]) -> None:
    """A few lines."""
    from rich.console import Console

    found, console = report["result"], Console(highlight=False)
    latency = found["latency_ms"]
    console.print(
        f"[bold]{report['shape']}, {report['subject']}[/bold]: {found['sent_by_clients']} requests, {found['answered']} "
        f"answered, {found['refused']} refused, {found['errors']} errors, {found['lost']} lost, {found['wrong']} wrong; "
        f"{found['tokens_per_s']:.0f} tokens/s, p95 {latency.get('p95', 0):.0f} ms"
    )
    console.print(
        f"Memory grows by {found['memory_mb_per_minute']:.2f} MB a minute (standard error "
        f"{found['memory_mb_per_minute_error']:.2f}); {found['memory_mb'][0][1]:.0f} MB first, "
        f"{found['memory_mb'][-1][1]:.0f} MB last"
    )
    console.print(f"Written: {', '.join(map(str, paths))}", soft_wrap=True)


def register(group: typer.Typer) -> None:
    group.command("serve", epilog=EXAMPLE)(serve)
