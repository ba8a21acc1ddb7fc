"""How a run stands against the goals: deed beside the best peer, round by round, and beside the bytes it has to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deed.utils.timing import spread

from .subjects import Timing

ANSWER = 16  # tokens of the whole answer's goal
FULL, EARLY = "deed {} full", "deed {} mean 3/12 gate"
MEAN_GOALS = {"fp32": 2.2, "int8": 2.5}
BATCH_GOALS = {8: 1.5, 32: 1.3}
BYTES_GOALS = {"fp32": 1.25, "int8": 2.0}
Ms = Callable[[Timing], float]


def is_peer(name: str, precision: str | None) -> bool:
    """Whether a subject is another runtime's, of this precision; None: of any."""
    if name.startswith("deed"):
        return False
    return precision is None or (precision == "int8" and "int8" in name) or (precision == "fp32" and "int" not in name)


def goal_rows(
    shape: str,
    batch: int,
    timings: Mapping[str, Sequence[Timing]],
    floors: Mapping[str, float],
    unrestricted: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The goals that this run can say something about.

    Args:
        shape, batch: what was decoded.
        timings: of every subject, round by round.
        floors: ms per step that reading the weights once takes, by subject.
        unrestricted: peers that used all instruction sets in a restricted run. They count all the same: at batch 1 a step is
            bound by memory, so that they gain little by it.

    Returns:
        Per goal: what, wanted, `reached` (a spread over the rounds), `met` by the median, the two subjects, and whether the
        peer was restricted as deed was.
    """
    rows: list[dict[str, Any]] = []
    rivals = [n for n in timings if is_peer(n, None)]

    def step(timing: Timing) -> float:
        return timing.step_ms

    def answer(timing: Timing) -> float:
        return timing.answer_ms(ANSWER)

    def whole(timing: Timing) -> float:
        return timing.answer_ms(len(timing.token_ms))

    def add(what: str, wanted: float, subject: str | None, peer: str | None, ms: Ms) -> None:
        if subject is None or peer is None:
            return
        ratios = spread([ms(p) / ms(s) for p, s in zip(timings[peer], timings[subject], strict=True)])
        add_row(what, f">= {wanted:g}", ratios, ratios["median"] >= wanted, subject, peer)

    def add_row(what: str, wanted: str, reached: Any, met: bool, subject: str, peer: str | None) -> None:
        row = {"shape": shape, "batch": batch, "goal": what, "wanted": wanted, "reached": reached, "met": met}
        restricted = peer is None or not peer.startswith(tuple(unrestricted))
        rows.append({**row, "subject": subject, "against": peer, "against_restricted": restricted})

    def best(precision: str | None, ms: Ms) -> str | None:
        found = [n for n in rivals if is_peer(n, precision)]
        return min(found, key=lambda n: spread([ms(t) for t in timings[n]])["median"], default=None)

    def own(pattern: str, precision: str) -> str | None:
        """deed's subject; where int8 does not pay, `quantize` leaves the model in float32, and so that one."""
        found = [pattern.format(p) for p in (precision, "fp32")]
        return next((n for n in found if n in timings), None)

    if batch == 1:
        add("full depth, fp32 step / best fp32 peer", 1.0, own(FULL, "fp32"), best("fp32", step), step)
        rival = next((n for n in rivals if n == "ctranslate2 int8"), None)
        add("full depth, int8 step / CTranslate2 int8", 1.6, own(FULL, "int8"), rival, step)
        add("full depth, int8 step / best int8 peer", 1.0, own(FULL, "int8"), best("int8", step), step)
        for precision, wanted in MEAN_GOALS.items():
            what = f"mean depth 3 of 12, {precision} step / best {precision} peer"
            add(what, wanted, own(EARLY, precision), best(precision, step), step)
        what = f"answer of {ANSWER} tokens, int8, mean depth 3 / best peer"
        add(what, 1.6, own(EARLY, "int8"), best(None, answer), answer)
        for precision, most in BYTES_GOALS.items():
            name = FULL.format(precision)
            if name in timings:
                over = spread([t.step_ms / floors[name] for t in timings[name]])
                what = f"full depth, {precision} step / reading its bytes once"
                add_row(what, f"<= {most:g}", over, over["median"] <= most, name, None)
    if batch in BATCH_GOALS:
        wanted, subject = BATCH_GOALS[batch], own(EARLY, "int8")
        add(f"batch {batch}, int8 tokens per second of steps / best peer", wanted, subject, best(None, step), step)
        add(f"batch {batch}, int8 tokens per second of answers / best peer", wanted, subject, best(None, whole), whole)
    return rows
