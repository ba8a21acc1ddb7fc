"""`deed demo`: a trained model answers words it never saw, at full depth and with early exit, taking turns; says what was
saved and what it cost, in the terminal and as a report."""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = "Example: deed demo flibbertigibbet tomato"
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "g2p"
SEED = 0  # of the sample of words
TIMED_FOR_CURVE = 100  # words: the curve takes eleven answers to each
SHOWN = 12
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="Words of your own, answered beside the fixed sample.", show_default=False),
    ] = None,
    task: Annotated[str, typer.Option(help="What to show: g2p (words to pronunciations, CMUdict).")] = "g2p",
    model: Annotated[
        Path | None, typer.Option(help="Folder of a saved deed model.", show_default="the one shipped with deed")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Words of the fixed sample of the test split.")] = 1000,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else, to stdout.")] = False,
) -> None:
    from ..report.html import require_report, write_report
    from ..tasks import g2p

    # All that can be wrong is looked at before minutes are spent on measuring.
    if task != "g2p":
        raise ValueError(f"--task must be g2p, got {task!r}")
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"--threshold must be a number of at least 0 (above 1: never leave early), got {threshold}")
    asked = list(dict.fromkeys(g2p.clean_word(word) for word in words or []))
    check_output(output)
    require_report()
    rows = g2p.load_split("test")
    if count > len(rows):
        raise ValueError(f"--count must be at most {len(rows)}, the words of the test split, got {count}")
    random.Random(SEED).shuffle(rows)  # before the cut: a smaller sample is the head of a larger one
    listed = g2p.read_cmudict() if asked else {}
    results = measure(
        find_model(model), rows[:count], [(word, listed.get(word, [])) for word in asked], threshold, quiet=as_json
    )
    page = write_report(results, output)
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    else:
        show(results, page)


def find_model(folder: Path | None) -> Path:
    """The folder given, or that of the shipped checkpoint.

    Raises:
        ValueError: there is no such folder.
    """
    if folder is None:
        if not CHECKPOINT.is_dir():
            raise ValueError(
                f"the shipped checkpoint {CHECKPOINT} is missing; pass --model FOLDER (`deed train` makes one)"
            )
        return CHECKPOINT
    if not folder.is_dir():
        raise ValueError(f"--model must be the folder of a saved deed model, {folder} is not a folder")
    return folder


def check_output(folder: Path) -> None:
    """Raises:
    ValueError: `folder` cannot be made or written.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"--output {folder} cannot be written: {nearest} is not a folder that you may write to")


def pick_threshold(config: Any, given: float | None, folder: Path) -> tuple[Any, str, str | None]:
    """The threshold, where it is from (`"given"`, `"calibrated"`, `"model"`), and what the reader should know of it."""
    if given is not None:
        return given, "given", None
    value = config.threshold
    calibrated = config.calibration is not None and config.calibration.get("threshold") == value
    note = None
    if min(value if isinstance(value, (list, tuple)) else [value]) > 1:
        why = "calibration found no threshold that keeps its promise" if calibrated else "this model is not calibrated"
        note = (
            f"Nothing leaves early: {why} (threshold {value}). Run `deed calibrate {folder}` or pass --threshold 0.95."
        )
    return value, "calibrated" if calibrated else "model", note


def busy_note(machine: dict[str, Any]) -> str | None:
    """A warning where other programs had the processors: waiting for one can take longer than the work itself."""
    load, cpus = machine.get("load_average_before"), machine["usable_cpus"]
    if load is None or cpus is None or load < 0.9 * cpus:
        return None
    return f"The machine was busy (load {load:g} on {cpus} processors): trust medians more than sums, neither much."


def measure(
    folder: Path,
    sample: list[tuple[str, list[str]]],
    asked: list[tuple[str, list[str]]],
    given: float | None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The results dict, which is `report.json`.

    Args:
        sample: words and listed pronunciations that every number is about.
        asked: the user's words, answered and timed with them, but not counted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers import AutoModelForSeq2SeqLM
    from transformers.utils import logging

    from ..bench import compare as bench
    from ..tasks import g2p
    from ..tasks.g2p_run import answer, load

    logging.disable_progress_bar()  # of reading the weights, twice
    model, tokenizer = load(folder)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    n_layers = len(model.deed_family.layers(model))
    rows, n = [*asked, *sample], len(sample)
    words, references = [w for w, _ in sample], [answers for _, answers in sample]
    inputs = [dict(tokenizer(word, return_tensors="pt").to(model.device)) for word, _ in rows]
    greedy = {"do_sample": False, "num_beams": 1}
    thresholds: list[Any] = sorted({*bench.THRESHOLDS, threshold}) if isinstance(threshold, (int, float)) else []
    timed = inputs[len(asked) :][:TIMED_FOR_CURVE]

    def decode(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True)

    machine = bench.machine()
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet) as progress:
        first = progress.add_task("full depth and early exit", total=2 * len(rows))
        curve_total = (1 + len(thresholds)) * len(timed) + len(thresholds) * n
        second = progress.add_task("other thresholds", total=curve_total, visible=bool(thresholds))

        def tick(k: int) -> None:
            progress.advance(second, k)

        result = bench.compare(
            base, model, inputs, threshold, decode, tick=lambda k: progress.advance(first, k), **greedy
        )
        full = bench.Subject(None, result.full.runs[len(asked) :])
        deed = bench.Subject(threshold, result.deed.runs[len(asked) :])
        points = []
        curve_base = full
        if thresholds:
            curve_base, subjects = bench.latency_curve(base, model, timed, thresholds, decode, tick=tick, **greedy)
            for subject in subjects:
                # Timed on some words, scored on all of them: a hundred words alone would tell scores apart too coarsely.
                predictions, depth = answer(model, tokenizer, words, subject.threshold, tick=tick)  # type: ignore[arg-type]
                score = g2p.score(predictions, references)["word_accuracy"]
                point = {"threshold": subject.threshold, "score": score, **subject.summary()}
                points.append({**point, "mean_depth": depth})

    examples = [
        example(row, f, d, tokenizer, i < len(asked))
        for i, (row, f, d) in enumerate(zip(rows, result.full.runs, result.deed.runs, strict=True))
    ]
    counted = examples[len(asked) :]

    def scored(subject: Any) -> dict[str, Any]:
        scores = g2p.score(subject.predictions, references)
        return {"score": scores["word_accuracy"], "phoneme_error_rate": scores["phoneme_error_rate"]}

    full_scored = scored(full)
    config, report = model.deed_config, model.deed_config.calibration
    promise = f"score at most {report['risk']} lower, {report['confidence']:.0%} sure" if report else "none"
    return {
        "title": "CMUdict, words to pronunciations",
        "task": "g2p",
        "unit": "word",
        "score_name": "word accuracy",
        "end_token": tokenizer.eos_token,
        "notes": [text for text in (note, busy_note(machine)) if text],
        "n_layers": n_layers,
        "full_depth": {**full_scored, **full.summary()},
        "deed": {**scored(deed), **deed.summary(), "threshold": threshold, "threshold_source": source},
        "saving": bench.Comparison(full, deed).saving(),
        "changes": {
            "lost": sum(e["full_depth_right"] and not e["right"] for e in counted),
            "gained": sum(e["right"] and not e["full_depth_right"] for e in counted),
        },
        "curve": {
            "timed_inputs": len(timed),
            "scored_inputs": n,
            "full_depth": {**curve_base.summary(), "score": full_scored["score"]},
            "points": points,
        },
        "depth_histogram": bench.depth_histogram(deed.runs, n_layers),
        "depth_by_position": bench.depth_by_position(deed.runs),
        "examples": examples,
        "calibration": report,
        "settings": {
            "model": str(folder),
            "words": f"{n} of the test split, seed {SEED}",
            "threshold": f"{threshold} ({source})",
            "promise": promise,
            "confidence": str(config.confidence),
            "exits": ", ".join(map(str, config.exit_layers)),
            "adaptation_modules": config.adapter,
            "decoding": "greedy, batch 1",
        },
        "versions": bench.versions(),
        "machine": machine,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def example(row: tuple[str, list[str]], full: Any, deed: Any, tokenizer: Any, asked: bool) -> dict[str, Any]:
    """One word's row of the report. `right` is None for a word that the dictionary does not list."""
    from ..tasks import g2p

    word, expected = row
    split = g2p.split_of(word) if expected else None
    seen = {None: "not in the dictionary", "train": "seen in training"}.get(split, "never seen in training")
    return {
        "word": word,
        "asked": asked,
        "split": split,
        "seen": seen,
        "expected": expected,
        "answer": deed.prediction,
        "tokens": tokenizer.convert_ids_to_tokens(deed.tokens),
        "depths": deed.depths,
        "right": deed.prediction in expected if expected else None,
        "overall_ms": deed.overall_ms,
        "decoder_ms": deed.decoder_ms,
        "full_depth": full.prediction,
        "full_depth_tokens": tokenizer.convert_ids_to_tokens(full.tokens),
        "full_depth_right": full.prediction in expected if expected else None,
        "full_depth_overall_ms": full.overall_ms,
        "full_depth_decoder_ms": full.decoder_ms,
    }


def show(results: dict[str, Any], page: Path) -> None:
    """Answers and numbers in the terminal. Depth is a colour and a small number, so it reads without colours too."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..report import depth_colours, threshold_text
    from ..report.html import change, milliseconds, percent

    console = Console(highlight=False)
    unicode = console.encoding.lower().startswith("utf")
    if not unicode and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a lost sign is better than a lost result
    marks = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "dim")}
    if not unicode:
        marks = {True: ("ok", "green"), False: ("no", "red"), None: ("-", "dim")}
    colours, n_layers = depth_colours(results["n_layers"]), results["n_layers"]

    def number(depth: int) -> str:
        return str(depth).translate(SUBSCRIPTS) if unicode else f":{depth}"

    def coloured(e: dict[str, Any]) -> Text:
        text = Text(overflow="fold")
        for token, depth in zip(e["tokens"], e["depths"], strict=True):
            token = "end" if token == results["end_token"] else token
            text.append(token + number(depth), style=colours[depth - 1]).append(" ")
        text.rstrip()
        if e["asked"]:
            text.append(f"\n{e['seen']}", style="dim")
        if e["right"] is False:
            text.append("\nlisted " + ", ".join(e["expected"]), style="dim")
        if e["tokens"] != e["full_depth_tokens"]:
            text.append(f"\nfull depth {e['full_depth']}", style="dim")
        return text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("word", max_width=18, overflow="fold")
    table.add_column("answer, early exit")
    asked = [e for e in results["examples"] if e["asked"]]
    for e in [*asked, *[e for e in results["examples"] if not e["asked"]][:SHOWN]]:
        table.add_row(Text(*marks[e["right"]]), e["word"], coloured(e))
    console.print()
    console.print(table)
    legend = Text("layers run for a token: ", style="dim")
    for depth, colour in enumerate(colours, 1):
        legend.append(str(depth), style=f"bold {colour}").append(" ")
    console.print()
    console.print(legend)

    full, deed, saving = results["full_depth"], results["deed"], results["saving"]
    numbers = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for header in ("", "full depth", "early exit", "change"):
        numbers.add_column(header, justify="right" if header else "left")
    points = 100 * (deed["score"] - full["score"])
    sign = "\N{MINUS SIGN}" if points < 0 else "+" if points > 0 else ""
    numbers.add_row(
        results["score_name"], percent(full["score"]), percent(deed["score"]), f"{sign}{abs(points):.1f} points"
    )
    for name in ("decoder", "overall"):
        times = [milliseconds(subject[f"{name}_ms"]) for subject in (full, deed)]
        numbers.add_row(f"{name} latency", *times, Text(change(saving[name]), style="bold"))
    medians = [subject["decoder_ms_per_input"]["median"] for subject in (full, deed)]
    per_word = change(1 - medians[1] / medians[0])
    numbers.add_row(f"decoder, median {results['unit']}", *map(milliseconds, medians), per_word)
    numbers.add_row("mean depth", str(n_layers), f"{deed['mean_depth']:.2f}", f"of {n_layers} layers")
    console.print()
    console.print(numbers)
    source = {"given": "as given", "calibrated": "calibrated", "model": "the model's"}[deed["threshold_source"]]
    console.print()
    console.print(
        f"{full['inputs']} words that training never saw, batch 1, summed; the untouched base class and early exit "
        f"took turns. Threshold {threshold_text(deed['threshold'])} ({source}). "
        f"{results['changes']['lost']} answers became wrong, {results['changes']['gained']} became right."
    )
    for note in results["notes"]:
        console.print(Text(note, style="yellow"))
    console.print(Text(f"report: {page}"), soft_wrap=True)  # unbroken, so that it can be copied


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(demo)
