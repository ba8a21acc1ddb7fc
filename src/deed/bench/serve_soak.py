"""`deed bench serve --soak`: one server under many clients for long. Is anything lost or wrong, does memory grow?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import installed, machine

from .serve import LIBRARIES, Settings, body, kernels_used, prepared, reference
from .serve_load import Reply, ask, closed, session
from .serve_process import MB, running, slope
from .serve_stats import summary
from .serve_work import Work
from .speed import header


def soak(
    shape: str,
    subject: str,
    settings: Settings,
    folder: Path,
    seconds: float,
    clients: int = 64,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Many clients for long: is anything lost or wrong, does memory grow.

    Args:
        shape, subject: what is served, and by whom.
        settings: requests, answers and setup of it.
        folder: where models and reference answers are kept.
        seconds: how long.
        clients: closed loops; every third asks for a stream.
        progress: takes what is being done, and the share that is done.
    """
    say = progress or SILENT_BAR.update
    work = prepared(shape, settings, folder, say)
    report = {**header("soak", {**asdict(settings), "clients": clients, "seconds": seconds}), "machine": machine()}
    report["versions"].update(installed(LIBRARIES))
    report["kernels"] = kernels_used(settings.setup)
    result = asyncio.run(_soak(subject, work, settings, seconds, clients, say))
    return {**report, "shape": shape, "subject": subject, "result": result}


async def _soak(
    subject: str, work: Work, settings: Settings, seconds: float, clients: int, say: Tell
) -> dict[str, Any]:
    alone = reference(work, subject, settings.setup)
    log = work.folder / f"soak_{subject.replace(' ', '_')}.log"
    bodies = [body(subject, work, i) for i in range(len(work.requests))]
    async with running(subject, work, settings.setup, log, every=1.0) as server, session(settings.timeout) as http:
        start, sent = time.perf_counter(), 0

        async def ask_for(index: int) -> Reply:
            nonlocal sent
            sent += 1
            say(f"{work.shape}: {sent} requests", min(1.0, (time.perf_counter() - start) / seconds))
            return await ask(http, server.url, index, bodies[index], sent % 3 == 0)

        replies = await closed(ask_for, range(len(bodies)), clients, seconds)
        lengths = [len(tokens) for tokens in alone["tokens"]]
        whole = summary(replies, lengths, alone["texts"], (start, start + seconds), True)
        series = [((t - start), size / MB) for t, size in server.memory if t > start]
        alive = server.process.poll() is None
    late = [point for point in series if point[0] >= 0.2 * seconds]
    growth, error = slope(late) if len(late) > 2 else (0.0, 0.0)
    return {
        **whole,
        "sent_by_clients": sent,
        "lost": sent - whole["answered"] - whole["refused"] - whole["errors"],
        "server_alive": alive,
        "memory_mb_per_minute": growth * 60,
        "memory_mb_per_minute_error": error * 60,
        "memory_mb": series[:: max(1, len(series) // 200)],
    }
