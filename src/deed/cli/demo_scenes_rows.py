"""What `deed demo --task scenes` says of its answers: scores, a row of the report each, groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .demo_scenes import Asked


def judged(
    processor: Any, asked: Sequence[Asked], answers: Sequence[Sequence[int]], corpus: Any
) -> tuple[list[float], list[bool]]:
    """Each answer's score by its task's own metric, and whether it is right (`demo_scenes.RIGHT_NOTE`).

    Args:
        answers: ids.
        corpus: what captions' words are weighed by.
    """
    from deed.tasks.picture_scores import equals_reference
    from deed.tasks.scenes import score_each

    values: list[float] = [0.0] * len(asked)
    for task in {a.task for a in asked}:
        at = [i for i, a in enumerate(asked) if a.task == task]
        found = score_each(processor, task, [asked[i].example for i in at], [answers[i] for i in at], corpus)
        for i, value in zip(at, found, strict=True):
            values[i] = value
    right = [
        equals_reference(processor, ids, a.example) if a.task == "caption" else value == 1.0
        for a, ids, value in zip(asked, answers, values, strict=True)
    ]
    return values, right


def overall(asked: Sequence[Asked], values: Sequence[float], right: Sequence[bool]) -> dict[str, Any]:
    """`score` (0..1: the mean over tasks of each one's own metric divided by its best), `tasks` (each one's own metric)
    and `right` (the share of right answers)."""
    from deed.tasks.scenes import BEST, TASKS

    by_task: dict[str, list[float]] = {task: [] for task in TASKS}
    for a, value in zip(asked, values, strict=True):
        by_task[a.task].append(value)
    means = {task: sum(found) / len(found) for task, found in by_task.items() if found}
    score = sum(mean / BEST[task] for task, mean in means.items()) / len(means)
    return {"score": score, "tasks": means, "right": sum(right) / len(right)}


def example_rows(processor: Any, asked: Sequence[Asked], measured: Any, corpus: Any) -> list[dict[str, Any]]:
    """A row of the report per answer, with its picture's name."""
    from deed.metrics.boxes import iou
    from deed.report import text_pieces
    from deed.tasks.scenes import box_of

    from .demo_measure import timed_pair

    runs = {"": measured.deed.runs, "full_depth_": measured.full.runs}
    scored = {key: judged(processor, asked, [run.tokens for run in found], corpus) for key, found in runs.items()}
    rows = []
    for i, a in enumerate(asked):
        full, deed = measured.full.runs[i], measured.deed.runs[i]
        row = {
            "task": a.task,
            "question": a.example.question or "what does the image describe?",
            "picture": a.picture,
            "place": a.place,
            "kind": a.example.kind,
            "asked": False,
            "expected": a.example.answers,
            **timed_pair(full, deed, processor.tokenizer),
            "pieces": text_pieces(processor.tokenizer, deed.tokens),
            "encoder_ms": deed.encoder_ms,
        }
        for key, (values, right) in scored.items():
            row |= {f"{key}value": values[i], f"{key}right": right[i]}
        if a.task == "refer":
            wanted = a.example.extra["box"]
            box, full_box = (box_of(processor, run.tokens, a.example) for run in (deed, full))
            row |= {"box": box, "full_depth_box": full_box, "expected_box": wanted, "expected": [box_text(wanted)]}
            row |= {
                "overlap": iou(box, wanted) if box else 0.0,
                "answer": box_text(box),
                "full_depth": box_text(full_box),
            }
            row["pieces"] = box_pieces(processor, deed.tokens, row["pieces"], box)
        elif a.task == "caption":
            row["nearest"] = nearest(row["answer"], a.example.answers)
        row["pieces"][0] = row["pieces"][0].lstrip(" ")  # answers begin with a space
        rows.append(row)
    return rows


def box_text(box: Sequence[float] | None) -> str:
    """`box 12 40 57 88 px`: left, top, right, bottom."""
    return "no box" if box is None else "box " + " ".join(f"{value:.0f}" for value in box) + " px"


def box_pieces(processor: Any, tokens: Sequence[int], pieces: Sequence[str], box: Any) -> list[str]:
    """`pieces` with the bins that make the box as what `box_text` says, each token its number; other bins as `bin 12`."""
    told, left = list(pieces), [] if box is None else box_text(box).split(" ")[1:-1]
    for i, token in enumerate(tokens):
        number = token - processor.first_bin
        if not 0 <= number < processor.n_bins:
            continue
        if not left:
            told[i] = f" bin {number}"
            continue
        told[i] = f"{'box' if len(left) == 4 else ''} {left.pop(0)}{'' if left else ' px'}"
    return told


def nearest(answer: str, references: Sequence[str]) -> str:
    """The reference with the most in common with a caption, word by word; the first of equals."""
    from difflib import SequenceMatcher

    from deed.metrics.caption_words import words

    said = words(answer)
    return max(references, key=lambda reference: SequenceMatcher(None, said, words(reference)).ratio())


def groups(
    asked: Sequence[Asked], examples: Sequence[dict[str, Any]], measured: Any, n_layers: int
) -> list[dict[str, Any]]:
    """The headline numbers again for each task, known and unseen scenes of it apart, and for known and unseen scenes.

    Each with `score` in [0, 1] and `value` by the metric named, 0..`best`.
    """
    from deed.tasks.scenes import BEST

    from .demo_measure import part_results
    from .demo_scenes import SPLITS, TASKS

    def scores(at: Sequence[int], prefix: str) -> dict[str, Any]:
        about = [asked[i] for i in at]
        return overall(about, [examples[i][f"{prefix}value"] for i in at], [examples[i][f"{prefix}right"] for i in at])

    def pair(at: Sequence[int]) -> dict[str, dict[str, Any]]:
        return {"full_depth": scores(at, "full_depth_"), "deed": scores(at, "")}

    def where(**wanted: str) -> list[int]:
        return [i for i, e in enumerate(examples) if all(e[key] == value for key, value in wanted.items())]

    found = []
    parts = [(name, metric, BEST[task], where(task=task), task) for task, (name, metric) in TASKS.items()]
    parts += [(place, "score", 1.0, where(place=place), "") for place in SPLITS.values()]
    for name, metric, best, at, task in parts:
        subjects = pair(at)
        for subject in subjects.values():
            subject["value"] = subject["tasks"][task] if task else subject["score"]
        group = {"name": name, "metric": metric, "best": best, "answers": len(at)}
        group |= part_results(measured, at, n_layers, subjects["full_depth"], subjects["deed"])
        halves = {place: where(task=task, place=place) for place in SPLITS.values()}
        group["halves"] = {
            place: {key: scored["tasks"][task] for key, scored in pair(half).items()}
            for place, half in halves.items()
            if half
        }
        found.append(group)
    return found
