"""How a run stands against the goals: deed beside the best peer, round by round, and beside the bytes it has to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deed.utils.timing import spread

from .subjects import Timing

ANSWER = 16  # tokens of the whole answer's goal
RIVAL = "ctranslate2 int8"
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
        unrestricted: peers that used all instruction sets in a restricted run. They are not who a goal is held against;
            where one of them is ahead of all others, that is said beside it.

    Returns:
        Per goal: what, wanted, `reached` (a spread over the rounds), `met` by the median, the two subjects; `unrestricted`:
        `{"against", "reached"}` of the best peer that had more instruction sets than deed, or None.
    """
    rows: list[dict[str, Any]] = []
    peers = [n for n in timings if is_peer(n, None)]
    complete = any(
        not n.startswith("transformers") for n in peers
    )  # beside Transformers alone, nobody is the best peer
    rivals = [n for n in peers if not n.startswith(tuple(unrestricted))]

    def step(timing: Timing) -> float:
        return timing.step_ms

    def answer(timing: Timing) -> float:
        return timing.answer_ms(ANSWER)

    def whole(timing: Timing) -> float:
        return timing.answer_ms(len(timing.token_ms))

    def ratios(subject: str, peer: str, ms: Ms) -> dict[str, float]:
        return spread([ms(p) / ms(s) for p, s in zip(timings[peer], timings[subject], strict=True)])

    def best(among: Sequence[str], precision: str | None, ms: Ms) -> str | None:
        found = [n for n in among if is_peer(n, precision)]
        return min(found, key=lambda n: spread([ms(t) for t in timings[n]])["median"], default=None)

    def add(
        what: str, wanted: float, subject: str | None, precision: str | None, ms: Ms, peer: str | None = None
    ) -> None:
        rival, ahead = peer or best(rivals, precision, ms), peer or best(peers, precision, ms)
        if subject is None or rival is None or ahead is None or not complete:
            return
        found = ratios(subject, rival, ms)
        free = None if ahead == rival else {"against": ahead, "reached": ratios(subject, ahead, ms)}
        add_row(what, f">= {wanted:g}", found, found["median"] >= wanted, subject, rival, free)

    def add_row(
        what: str, wanted: str, reached: Any, met: bool, subject: str, peer: str | None = None, free: Any = None
    ) -> None:
        row = {"shape": shape, "batch": batch, "goal": what, "wanted": wanted, "reached": reached, "met": met}
        rows.append({**row, "subject": subject, "against": peer, "unrestricted": free})

    def own(pattern: str, precision: str) -> str | None:
        """deed's subject; where int8 does not pay, `quantize` leaves the model in float32, and so that one."""
        found = [pattern.format(p) for p in (precision, "fp32")]
        return next((n for n in found if n in timings), None)

    if batch == 1:
        add("full depth, fp32 step / best fp32 peer", 1.0, own(FULL, "fp32"), "fp32", step)
        if RIVAL in timings:
            add("full depth, int8 step / CTranslate2 int8", 1.6, own(FULL, "int8"), "int8", step, RIVAL)
        add("full depth, int8 step / best int8 peer", 1.0, own(FULL, "int8"), "int8", step)
        for precision, wanted in MEAN_GOALS.items():
            what = f"mean depth 3 of 12, {precision} step / best {precision} peer"
            add(what, wanted, own(EARLY, precision), precision, step)
        add(f"answer of {ANSWER} tokens, int8, mean depth 3 / best peer", 1.6, own(EARLY, "int8"), None, answer)
        for precision, most in BYTES_GOALS.items():
            name = FULL.format(precision)
            if name in timings:
                over = spread([t.step_ms / floors[name] for t in timings[name]])
                what = f"full depth, {precision} step / reading its bytes once"
                add_row(what, f"<= {most:g}", over, over["median"] <= most, name)
    if batch in BATCH_GOALS:
        wanted, subject = BATCH_GOALS[batch], own(EARLY, "int8")
        add(f"batch {batch}, int8 tokens per second of steps / best peer", wanted, subject, None, step)
        add(f"batch {batch}, int8 tokens per second of answers / best peer", wanted, subject, None, whole)
    return rows
