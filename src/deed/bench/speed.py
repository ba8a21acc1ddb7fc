"""`deed bench speed`: every subject on the same weights in one run, in turns, and what follows from the times.

Only ratios within a run mean anything, so every ratio is taken round by round and reported as median and quartiles.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import read_json
from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import command_line, installed, interleave, machine, spread, versions

from .catalogue import CHECK_MEAN, catalogue, mean_name
from .costs import Memory, checks_on_the_way, describe, step_bytes, step_counts
from .goals import goal_rows
from .isa import RESTRICTED, UNRESTRICTED, ran
from .shapes import NotAvailable, Workload, make_workload, shape_of
from .subjects import BASELINE, EXIT_CHECKS, PRECISIONS, Subject, Timing

RUNTIME = "ctranslate2 int8"  # a ratio to it is recorded beside the one to Transformers
RUNTIMES = ("ctranslate2", "onnxruntime", "openvino", "nncf")
ANSWERS = (5, 16, 20, 60)  # tokens of the answers that are reported, as far as they are decoded


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        shapes: names of `shapes.SHAPES`.
        batches: rows decoded at once, each a table of its own.
        subjects: names or patterns; none: all.
        rounds: every subject's turns, after a warm one.
        new_tokens: forced length of every answer.
        threads: of every runtime; None: as torch is set.
        compile_limit: seconds that `torch.compile` may take.
        isa: of `isa.RESTRICTED`, which the process must have been started under.
        keep: folder where what other runtimes convert stays for later runs; None: it goes when the run ends.
    """

    shapes: tuple[str, ...] = ("t5-base",)
    batches: tuple[int, ...] = (1,)
    subjects: tuple[str, ...] = ()
    rounds: int = 5
    new_tokens: int = 60
    threads: int | None = None
    compile_limit: float = 120.0
    isa: str = "native"
    keep: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("new_tokens", 2), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        if not self.shapes or not self.batches or min(self.batches) < 1:
            raise ValueError(f"--shape and --batch need one value of at least 1 each, got {list(self.batches)}")
        for name in self.shapes:
            shape_of(name)
        catalogue(self.subjects)
        if self.isa not in RESTRICTED:
            raise ValueError(f"--isa must be one of {', '.join(RESTRICTED)}, got {self.isa!r}")


def measure_speed(settings: Settings, progress: Tell | None = None) -> dict[str, Any]:
    """Every subject of the settings, one shape and batch size after the other.

    Returns:
        JSON values: `settings`, `command`, `versions`, `machine`, `isa`; `workloads` (sizes, memory), `rows` (one
        per workload and subject), `exit_checks` (what one costs) and `goals`.
    """
    report = header("speed", asdict(settings))
    threads = torch.get_num_threads()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    report["machine"] = machine()
    report["isa"] = ran(settings.isa)
    report.update({"workloads": [], "rows": [], "exit_checks": [], "goals": []})
    parts = len(settings.shapes) * len(settings.batches)
    done, say = 0, progress or SILENT_BAR.update
    try:
        for shape in settings.shapes:
            workload = None
            with workplace(shape, settings.keep) as folder:
                for rows in settings.batches:
                    base = done / parts

                    def tell(
                        line: str, share: float, base: float = base, name: str = f"{shape}, batch {rows}"
                    ) -> None:
                        say(f"{name}: {line}", base + share / parts)

                    done += 1
                    tell("building", 0.0)
                    try:
                        workload = make_workload(shape, rows, settings.new_tokens, folder, workload)
                    except NotAvailable as missing:
                        report["rows"].append(absent(shape, rows, BASELINE, str(missing)))
                        continue
                    found = measure_workload(workload, settings, tell)
                    for key, values in found.items():
                        report[key] += values
            del workload
            forget_compiled()
    finally:
        torch.set_num_threads(threads)
    return report


@contextlib.contextmanager
def workplace(shape: str, keep: str | None) -> Iterator[Path]:
    """A folder for what is converted of a shape: under `keep`, or one that goes."""
    if keep is not None:
        folder = Path(keep) / shape
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="deed-bench-") as name:
        yield Path(name)


def header(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """How a result came about: `kind`, command, date, versions, settings."""
    return {
        "kind": kind,
        "command": command_line(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {**versions(), **installed(RUNTIMES)},
        "settings": settings,
    }


def measure_workload(workload: Workload, settings: Settings, tell: Tell) -> dict[str, list[dict[str, Any]]]:
    """`{"workloads", "rows", "exit_checks", "goals"}` of one shape at one batch size.

    Args:
        workload: the shape.
        settings: of the whole run.
        tell: takes what is being done, and the share of the workload that is done.
    """
    makers = catalogue(settings.subjects, settings.compile_limit)
    subjects: dict[str, Subject] = {}
    missing: dict[str, str] = {}
    # Compiled code last: it is thrown away when Transformers meets another class of model, as recorded depths need.
    for i, name in enumerate(sorted(makers, key=lambda n: "compiled" in n)):
        tell(f"preparing {name}", 0.4 * i / len(makers))
        try:
            subjects[name] = makers[name](workload)
        except NotAvailable as why:
            missing[name] = str(why)
    memory = Memory()
    turns: dict[str, Any] = {name: lambda _, s=s: s.run() for name, s in subjects.items()}
    turns["memory"] = lambda _: memory.measure()
    taken = 0

    def tick(n: int) -> None:
        nonlocal taken
        taken += n
        tell("measuring", 0.4 + 0.5 * taken / (len(turns) * settings.rounds))

    # Subjects are warm: making one runs it.
    rounds: Any = range(settings.rounds)
    timings: dict[str, Any] = interleave(turns, rounds, warmup=0, tick=tick)
    speeds = timings.pop("memory")
    speed = spread([s["best"] for s in speeds])["median"]
    size = {
        **describe(workload),
        "memory_gb_s": {k: spread([s[k] / 1e9 for s in speeds]) for k in ("read", "copy")},
    }
    rows = []
    for i, name in enumerate(makers):
        tell(f"checking {name}", 0.9 + 0.1 * i / len(makers))
        if name in missing:
            rows.append(absent(workload.shape, workload.rows, name, missing[name]))
        else:
            rows.append(result_row(workload, name, subjects[name], timings, speed))
    floors = {row["subject"]: row["floor_ms"] for row in rows if row["available"]}
    unrestricted = UNRESTRICTED if RESTRICTED[settings.isa] else ()
    return {
        "workloads": [size],
        "rows": rows,
        "exit_checks": exit_check_costs(workload, subjects, timings),
        "goals": goal_rows(workload.shape, workload.rows, timings, floors, unrestricted),
    }


def absent(shape: str, batch: int, subject: str, reason: str) -> dict[str, Any]:
    """The row of a subject that could not be measured.

    Args:
        shape, batch, subject: what it was to decode, and its name.
        reason: why not.
    """
    return {"shape": shape, "batch": batch, "subject": subject, "available": False, "reason": reason}


def result_row(
    workload: Workload, name: str, subject: Subject, timings: dict[str, list[Timing]], speed: float
) -> dict[str, Any]:
    """Times, ratios, work, bytes and parity of one subject.

    Args:
        speed: of memory, bytes per second.
    """
    own = timings[name]
    steps = [t.step_ms for t in own]
    others = {BASELINE: BASELINE, "full depth of its runtime": f"{subject.runtime} full", RUNTIME: RUNTIME}
    others = {label: other for label, other in others.items() if other in timings}

    def ratios(other: str, ms: Callable[[Timing], float]) -> dict[str, float]:
        return spread([ms(t) / ms(o) for t, o in zip(timings[other], own, strict=True)])

    touched = step_bytes(workload, subject.depths, subject.exit_check, subject.weight_bytes, subject.head_bytes)
    floor = touched / speed * 1e3
    lengths = sorted({n for n in ANSWERS if n < workload.new_tokens} | {workload.new_tokens})
    whole = [t.answer_ms(workload.new_tokens) for t in own]
    counts = step_counts(subject.depths) if subject.depths is not None else None
    return {
        "shape": workload.shape,
        "batch": workload.rows,
        "subject": name,
        "available": True,
        "runtime": subject.runtime,
        "answer_ms": {str(n): spread([t.answer_ms(n) for t in own]) for n in lengths},
        "answer_times_faster_than": {
            label: {str(n): ratios(other, partial(Timing.answer_ms, tokens=n)) for n in lengths}
            for label, other in others.items()
        },
        "first_token_ms": spread([t.first_ms for t in own]),
        "step_ms": spread(steps),
        "times_faster_than": {label: ratios(other, lambda t: t.step_ms) for label, other in others.items()},
        "tokens_per_s": spread([workload.rows * workload.new_tokens * 1e3 / ms for ms in whole]),
        "step_tokens_per_s": spread([workload.rows * 1e3 / ms for ms in steps]),
        "exit_check": subject.exit_check,
        "layers_per_step": workload.n_layers if counts is None else sum(c["layers"] for c in counts) / len(counts),
        "work": subject.work,
        "mb_per_step": touched / 1e6,
        "floor_ms": floor,
        "over_floor": spread([s / floor for s in steps]),
        "parity": subject.check(own[-1].tokens),
    }


def exit_check_costs(
    workload: Workload, subjects: dict[str, Subject], timings: dict[str, list[Timing]]
) -> list[dict[str, Any]]:
    """What one exit check costs, in ms and as a fraction of a layer, per precision and kind of check: from subjects of the
    same run, the same depths with and without checks, and full depth against depth 1 for a layer.

    Args:
        workload: what they decoded.
        subjects: by name.
        timings: of all rounds, by subject.

    Returns:
        `of_a_layer` is None where a layer or the check cost less than times wavered: there is nothing to compare.
    """
    found = []
    for precision in PRECISIONS:
        silent = mean_name(precision, CHECK_MEAN, None)
        needed = (f"deed {precision} full", f"deed {precision} depth 1 not asked", silent)
        if not all(name in timings for name in needed) or workload.n_layers < 2:
            continue
        full, shallow, without = ([t.step_ms for t in timings[name]] for name in needed)
        layer = [(a - b) / (workload.n_layers - 1) for a, b in zip(full, shallow, strict=True)]
        checks = checks_on_the_way(subjects[silent].depths or [])
        for exit_check in EXIT_CHECKS:
            name = mean_name(precision, CHECK_MEAN, exit_check)
            if name not in timings or not checks:
                continue
            cost = [(t.step_ms - u) / checks for t, u in zip(timings[name], without, strict=True)]
            told_apart = min(layer) > 0 and spread(cost)["p25"] > 0
            found.append(
                {
                    "shape": workload.shape,
                    "batch": workload.rows,
                    "precision": precision,
                    "exit_check": exit_check,
                    "checks_per_step": checks,
                    "layer_ms": spread(layer),
                    "check_ms": spread(cost),
                    "of_a_layer": spread([c / m for c, m in zip(cost, layer, strict=True)]) if told_apart else None,
                }
            )
    return found


def forget_compiled() -> None:
    """Let go of models, and of what `torch.compile` keeps of them."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()


# -- against a recorded run -------------------------------------------------------------------------------------------


def read_report(path: Path) -> dict[str, Any]:
    """Raises:
    ValueError: not a result of `deed bench speed`.
    """
    try:
        report: dict[str, Any] = read_json(path, ValueError)
    except ValueError as error:
        raise ValueError(f"--compare {error}") from None
    if report.get("kind") != "speed" or "rows" not in report:
        raise ValueError(f"--compare {path} is not a result of `deed bench speed`")
    return report


def compare_reports(then: dict[str, Any], now_: dict[str, Any]) -> list[dict[str, Any]]:
    """Per shape, batch and subject measured in either run: times faster than Transformers, then and now (None: not
    measured)."""

    def ratios(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, float]]:
        return {
            (r["shape"], r["batch"], r["subject"]): r["times_faster_than"][BASELINE] for r in rows if r["available"]
        }

    old, new = ratios(then["rows"]), ratios(now_["rows"])
    here = {(r["shape"], r["batch"]) for r in now_["rows"]}
    keys = [*new, *(k for k in old if k not in new and k[:2] in here)]
    return [{"shape": k[0], "batch": k[1], "subject": k[2], "then": old.get(k), "now": new.get(k)} for k in keys]
