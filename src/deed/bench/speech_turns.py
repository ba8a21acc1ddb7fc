"""Taking turns in `deed bench speech`: every subject hears the same batches, each time another one first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deed.utils.progress import Tell
from deed.utils.timing import spread

from .speech_clips import Sound, batches_of, by_language
from .speech_subjects import Heard, Listener, is_long

if TYPE_CHECKING:
    from .speech import Settings

LEAST = 1  # batches of a workload, whatever the time
# Workload to its share of the time. A batch or a long recording takes a minute for all subjects; what that leaves over, or
# takes too much, is that of short recordings, which come last.
SHARES = {"short": 0.6, "batch": 0.2, "long": 0.2}


def workloads_of(
    settings: Settings, short: Sequence[Sound], long: Sequence[Sound]
) -> list[tuple[str, int, list[list[Sound]], float]]:
    """Name, batch size, batches and share of the time of each workload. Short recordings that are heard alone are not those
    that are heard in batches, so that together they say more of quality."""
    found: list[tuple[str, int, list[list[Sound]], float]] = []
    sizes = list(dict.fromkeys(settings.batches))
    for i, size in enumerate(sizes):
        part = list(short)[i :: len(sizes)] or list(short)
        batches = [[one] for one in by_language(part)] if size == 1 else list(batches_of(part, size))
        if batches:
            share = SHARES["short" if size == 1 else "batch"]
            found.append((f"short, batch {size}", size, batches, share))
    if settings.long and long:
        found.append(("long, batch 1", 1, [[one] for one in by_language(long)], SHARES["long"]))
    return found


@dataclass
class Results:
    """What was heard in a workload: batches, by subject what it heard of batch i, and who failed."""

    inputs: list[list[Sound]]
    heard: dict[str, dict[int, Heard]]
    failed: dict[str, str]


def takes(listener: Listener, sounds: Sequence[Sound], done: int) -> bool:
    """Whether a subject is measured on a batch.

    Args:
        listener: the subject.
        sounds: the batch.
        done: batches that it has heard.
    """
    return (
        len(sounds) <= listener.batches
        and (listener.language is None or all(sound.language == listener.language for sound in sounds))
        and (listener.most is None or done < listener.most)
        and (listener.long or not is_long(sounds))
    )


def run_turns(listeners: dict[str, Listener], inputs: Iterable[list[Sound]], seconds: float, tell: Tell) -> Results:
    """Every subject hears every batch, first another one each time, until the time is up.

    Args:
        listeners: the subjects by name.
        inputs: batches.
        seconds: no batch is begun that would probably end later; but a few are heard in any case.
        tell: takes what is being done, and the share that is done.
    """
    results = Results([], {}, {})
    names, start = list(listeners), time.perf_counter()
    for i, sounds in enumerate(inputs):
        spent = time.perf_counter() - start
        if i >= LEAST and spent * (i + 1) / i > seconds:
            break
        tell(f"batch {i + 1}", min(1.0, spent / seconds) if seconds else 1.0)
        for sound in sounds:
            _ = sound.samples  # read before time counts
        first = i % len(names)
        for name in names[first:] + names[:first]:
            own = results.heard.setdefault(name, {})
            if name in results.failed or not takes(listeners[name], sounds, len(own)):
                continue
            try:
                own[i] = listeners[name].hear(sounds)
            except Exception as error:
                if not listeners[name].optional:
                    raise
                results.failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
                del results.heard[name]
        results.inputs.append(sounds)
    return results


def ratios(results: Results, name: str, other: str, part: str) -> dict[str, float]:
    """How many times less time than another subject's, batch by batch: a spread, and `total`, of the summed times.

    Args:
        results: of the workload.
        name, other: subjects.
        part: of `Heard`.
    """
    common = [i for i in results.heard[name] if i in results.heard[other]]
    ours = [getattr(results.heard[name][i], part) for i in common]
    theirs = [getattr(results.heard[other][i], part) for i in common]
    return {**spread([b / a for a, b in zip(ours, theirs, strict=True)]), "total": sum(theirs) / sum(ours)}


def flat(results: Results, name: str, among: Iterable[int]) -> tuple[list[str], list[Sound]]:
    """Texts and recordings of those of a subject's batches that are `among` others'.

    Args:
        results: of a workload.
        name: of the subject.
        among: numbers of batches.
    """
    kept = [i for i in among if i in results.heard[name]]
    texts = [text for i in kept for text in results.heard[name][i].texts]
    return texts, [sound for i in kept for sound in results.inputs[i]]
