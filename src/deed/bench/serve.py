"""`deed bench serve`: `deed serve` under load beside other servers of the same model.

One server is up at a time. In every round each subject is started, warmed up and put under every load; the order changes
from round to round. Rounds of several runs can be collected in one result, so that each run is short.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deed.constants import NEVER_EXIT
from deed.utils.files import read_json
from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import installed, machine

from .serve_answers import recorded
from .serve_load import Ask, Reply, ask, closed, opened, session
from .serve_process import MB, SUBJECTS, Server, Setup, environment, running
from .serve_stats import compare, memory_summary, summary
from .serve_ties import explain
from .serve_work import SHAPES, Work, make_work
from .shapes import NotAvailable
from .speed import header

LIBRARIES = ("fastapi", "uvicorn", "litserve", "aiohttp")
WARM_REQUESTS = 12  # before anything is measured; four at a time


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        shapes: of `serve_work.SHAPES`.
        answers: whose lengths and depths random weights follow, of `serve_answers.TASKS`.
        subjects: of `serve_process.SUBJECTS`.
        clients: closed loops, one run each.
        rates: Poisson arrivals per second, one run each.
        stream: ask for streams too (a run each): time to the first token and between tokens.
        rounds: of all subjects.
        seconds: of each run, after `warm` seconds.
        warm: seconds.
        requests: how many different ones.
        timeout: seconds that one answer may take.
        setup: of the servers.
    """

    shapes: tuple[str, ...] = ("t5-small",)
    answers: str = "documents"
    subjects: tuple[str, ...] = SUBJECTS
    clients: tuple[int, ...] = (1, 4, 16, 64)
    rates: tuple[float, ...] = ()
    stream: bool = False
    rounds: int = 1
    seconds: float = 10.0
    warm: float = 2.0
    requests: int = 64
    timeout: float = 600.0
    setup: Setup = field(default_factory=Setup)

    def __post_init__(self) -> None:
        for name, known in (("shape", SHAPES), ("subject", SUBJECTS)):
            strange = set(getattr(self, f"{name}s")) - set(known)
            if strange:
                raise ValueError(f"--{name} must be one of {', '.join(known)}, got {', '.join(sorted(strange))}")
        recorded(self.answers)
        for name in ("rounds", "seconds", "requests", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(self, name)}")
        if not self.clients and not self.rates:
            raise ValueError("nothing to do: give --clients or --rate")
        if min((*self.clients, *self.rates)) <= 0 or self.warm < 0:
            raise ValueError("--clients and --rate must be above 0, --warm at least 0")

    def loads(self) -> list[tuple[dict[str, Any], bool]]:
        """`(load, streamed)` of every run of a subject."""
        kinds: list[dict[str, Any]] = [
            *({"kind": "closed", "clients": n} for n in self.clients),
            *({"kind": "open", "rate": rate} for rate in self.rates),
        ]
        return [(load, stream) for stream in ((False, True) if self.stream else (False,)) for load in kinds]


def measure_serving(
    settings: Settings, folder: Path, progress: Tell | None = None, earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Every subject under every load.

    Args:
        settings: what to measure.
        folder: where models and reference answers are kept from run to run.
        progress: takes what is being done, and the share that is done.
        earlier: a result whose rounds are kept; those of this run are added.

    Returns:
        JSON values: of `header`; `machine`; `rows`, one per round, subject and load; `summary`, medians and ratios.

    Raises:
        ValueError: an unknown shape.
    """
    say = progress or SILENT_BAR.update
    report = {**header("serve", asdict(settings)), "machine": machine(), "rows": []}
    report["versions"].update(installed(LIBRARIES))
    report["kernels"] = kernels_used(settings.setup)
    done = 0
    if earlier is not None:
        report["rows"] = list(earlier["rows"])
        report["commands"] = [*earlier.get("commands", [earlier["command"]]), report["command"]]
        done = 1 + max((row["round"] for row in report["rows"]), default=-1)
    works = [prepared(shape, settings, folder, say) for shape in settings.shapes]
    turns = [(r, work) for r in range(settings.rounds) for work in works]
    for i, (r, work) in enumerate(turns):
        first = (done + r) % len(settings.subjects)
        order = settings.subjects[first:] + settings.subjects[:first]
        for j, subject in enumerate(order):
            share = (i + j / len(order)) / len(turns)
            say(f"{work.shape}: {subject}", share)
            report["rows"] += asyncio.run(measure_subject(subject, work, settings, done + r))
    say("comparing", 1.0)
    explain(report["rows"], {work.shape: work for work in works}, settings.setup)
    report["summary"] = compare(report["rows"])
    return report


def prepared(shape: str, settings: Settings, folder: Path, say: Tell) -> Work:
    """The model, the requests and the answers alone, made if they are not there.

    Args:
        shape: one of the settings'.
        settings: of the run.
        folder: where they are kept.
        say: takes what is being done.
    """
    say(f"{shape}: model and requests", 0.0)
    work = make_work(shape, settings.answers, settings.requests, folder)
    for subject in settings.subjects:
        say(f"{shape}: answers of {subject} alone", 0.0)
        reference(work, subject, settings.setup)
    return work


def reference(work: Work, subject: str, setup: Setup) -> dict[str, Any]:
    """`{"texts", "tokens"}` of all requests, each answered alone by the subject's runtime, in a process of its own.

    Args:
        work: what is asked.
        subject: a server; LitServe's is Transformers.
        setup: of servers; the threads count.

    Raises:
        NotAvailable: the runtime cannot run the model; with its last words.
    """
    name = subject.replace("litserve", "transformers")
    path = work.folder / f"alone_{name.replace(' ', '_')}.json"
    if not path.exists():
        given = [name, str(work.model), str(work.folder / "requests.json"), str(path), str(setup.threads)]
        line = [sys.executable, "-m", "deed.bench.serve_engines", *given]
        ended = subprocess.run(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(subject, setup)
        )
        if ended.returncode:
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            raise NotAvailable(said[-1][:300] if said else f"ended with {ended.returncode}")
    return dict(read_json(path))


async def measure_subject(subject: str, work: Work, settings: Settings, number: int) -> list[dict[str, Any]]:
    """A row per load of one subject, whose server is started for them.

    Args:
        subject: of `SUBJECTS`.
        work: what it serves.
        settings: of the run.
        number: of the round.
    """
    alone = reference(work, subject, settings.setup)
    common = {"round": number, "shape": work.shape, "answers": work.answers, "subject": subject}
    log = work.folder / f"server_{subject.replace(' ', '_')}.log"
    rows = []
    loads = [(load, stream) for load, stream in settings.loads() if not (stream and subject.startswith("litserve"))]
    try:
        async with running(subject, work, settings.setup, log) as server, session(settings.timeout) as http:

            def asker(stream: bool) -> Ask:
                bodies = [body(subject, work, i) for i in range(len(work.requests))]
                return lambda index: ask(http, server.url, index, bodies[index], stream)

            order = range(len(work.requests))
            await closed(asker(False), order[:WARM_REQUESTS], 4, 1.0)
            for load, stream in loads:
                row = await one_run(asker(stream), load, settings, server, alone, len(order))
                rows.append({**common, "load": load, "stream": stream, "available": True, **row})
    except NotAvailable as why:
        rows += [
            {**common, "load": load, "stream": stream, "available": False, "reason": str(why)}
            for load, stream in loads[len(rows) :]
        ]
    return rows


def body(subject: str, work: Work, index: int) -> dict[str, Any]:
    """The JSON of a request as this subject is sent it.

    Args:
        subject: of `SUBJECTS`.
        work: with the requests.
        index: of one of them.
    """
    ours = subject.startswith("deed")
    if ours and "full" in subject:
        return {**work.requests[index].body(scheduled=False), "threshold": NEVER_EXIT}
    return work.requests[index].body(scheduled=ours)


async def one_run(
    ask_for: Ask, load: dict[str, Any], settings: Settings, server: Server, alone: dict[str, Any], count: int
) -> dict[str, Any]:
    """One load on a server that is up.

    Args:
        ask_for: sends a request.
        load: kind and size.
        settings: of the run.
        server: under test.
        alone: answers of the reference.
        count: of different requests.
    """
    me, looked = psutil.Process(), len(server.memory)
    start, cpu, own = time.perf_counter(), server.cpu_seconds(), sum(me.cpu_times()[:2])
    length = settings.warm + settings.seconds
    replies: list[Reply]
    if load["kind"] == "closed":
        replies = await closed(ask_for, range(count), load["clients"], length)
    else:
        replies = await opened(ask_for, range(count), load["rate"], length)
    whole = time.perf_counter() - start
    lengths = [len(tokens) for tokens in alone["tokens"]]
    window = (start + settings.warm, start + length)
    memory = [*server.memory[looked:], (time.perf_counter(), server.resident())]
    return {
        **summary(replies, lengths, alone["texts"], window, load["kind"] == "closed"),
        "memory_mb": memory_summary(memory, MB),
        "server_cpus": (server.cpu_seconds() - cpu) / whole,
        "client_cpus": (sum(me.cpu_times()[:2]) - own) / whole,
        "drained_s": whole - length,
    }


def kernels_used(setup: Setup) -> dict[str, Any]:
    """What deed's servers multiply with: `DEED_KERNELS`, and the native library's instruction set (None: not built)."""
    from deed.kernels.native import instruction_set

    return {"DEED_KERNELS": environment("deed", setup)["DEED_KERNELS"], "native": instruction_set()}


def same_settings(earlier: dict[str, Any], settings: Settings) -> None:
    """Raises:
    ValueError: a result to which rounds of these settings do not belong.
    """
    if earlier.get("kind") != "serve" or "rows" not in earlier:
        raise ValueError("--add needs a result of `deed bench serve`")
    new = asdict(settings)
    for name in ("seconds", "warm", "requests", "setup"):
        if earlier["settings"].get(name) != _plain(new[name]):
            raise ValueError(f"--add: the earlier result has {name} {earlier['settings'].get(name)}, not {new[name]}")


def _plain(value: Any) -> Any:
    """As it is after a way through JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
