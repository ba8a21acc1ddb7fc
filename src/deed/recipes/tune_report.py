"""What a run of `deed tune --recipe` bought: per exit, on which tokens, at which share of changed tokens, for which time."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deed.calibration.exit_statistics import ExitStatistics
from deed.utils.files import atomic_write, write_json

from .tune_eval import leaving

KINDS = ("word starts", "inside words", "punctuation", "digits", "special")


def kind_of(piece: str, special: bool, starts: bool) -> str:
    """What kind of token it is.

    Args:
        piece: its text, spaces included.
        special: the tokenizer calls it special.
        starts: whether it begins a word.
    """
    text = piece.strip()
    if special or not piece:
        return "special"
    if any(letter.isdigit() for letter in text):
        return "digits"
    if text and all(unicodedata.category(letter)[0] in "PS" for letter in text):
        return "punctuation"
    return "word starts" if starts else "inside words"


def kinds_of(tokenizer: Any, tokens: Sequence[int], first: Sequence[bool]) -> list[str]:
    """The kind of each token.

    Args:
        tokenizer: the model's.
        tokens: `[tokens]`.
        first: `[tokens]`, whether it is the first of its sequence, which begins a word whatever its spaces.
    """
    special = set(tokenizer.all_special_ids)
    told: dict[int, tuple[str, bool]] = {}
    for token in {int(t) for t in tokens}:
        raw = tokenizer.convert_ids_to_tokens(token) or ""
        # Spaces of a byte-level BPE and of SentencePiece; WordPiece marks what goes on.
        starts = raw[:1] in ("Ġ", "▁", " ") or (raw[:2] != "##" and _word_piece(tokenizer))
        told[token] = (tokenizer.decode([token]), starts)
    return [
        kind_of(told[int(t)][0], int(t) in special or (told[int(t)][0].startswith("<|")), told[int(t)][1] or begins)
        for t, begins in zip(tokens, first, strict=True)
    ]


def _word_piece(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordPiece"


def by_kind(
    statistics: ExitStatistics, kinds: Sequence[str], thresholds: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Per kind of token how many there are, which share leaves early, and which share of those is right; per exit also its
    agreement, whether it is asked or not.

    Args:
        statistics: held out.
        kinds: `[tokens]`.
        thresholds: one per exit before the last.
    """
    names, exits = np.array(kinds), len(statistics.exit_layers) - 1
    left = leaving(statistics, thresholds)
    early = left < exits
    right = np.zeros(statistics.tokens, dtype=bool)
    right[early] = statistics.agrees[left[early], np.flatnonzero(early)]
    found = {}
    for kind in KINDS:
        at = names == kind
        if not at.any():
            continue
        found[kind] = {
            "tokens": int(at.sum()),
            "leave": float(early[at].mean()),
            "right_of_those": float(right[at & early].mean()) if (at & early).any() else None,
            "agreement": {
                str(d): float(a[at].mean()) for d, a in zip(statistics.exit_layers, statistics.agrees, strict=False)
            },
        }
    return found


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` and `report.md`.

    Args:
        folder: of the run.
        report: of `tune`.
    """
    write_json(folder / "report.json", report)
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text(as_text(report), encoding="utf-8")


def as_text(report: Mapping[str, Any]) -> str:
    """The report as Markdown that is readable in a terminal."""
    recipe, percent = report["recipe"], _percent
    lines = [
        f"# Exits by the recipe {recipe['method']}",
        "",
        f"{recipe['start']}, exits after {_layers(recipe['exits'])} of {report['layers']} layers, adapter "
        f"{recipe['adapter']}: {report['steps']} steps, {report['trained_tokens']:,} tokens trained on (the pool has "
        f"{report['pool_tokens']:,}), {report['seconds'] / 3600:.2f} h of training, {report['cpu_hours']:.2f} CPU "
        f"hours, and {report['pool_cpu_hours']:.2f} for the pool. The best weights are of step {report['best']['step']}.",
        "",
        "## Agreement with the untouched model's next token, held out, teacher-forced",
        "",
        *_table(
            ("layer", "agreement"),
            [(depth, percent(value)) for depth, value in report["agreement"].items()],
        ),
        "",
        "## Depth over changed tokens",
        "",
        "Depth in shares of full depth; exits' own layers count, also where an exit is refused. Thresholds were chosen on one",
        "half of the held-out examples, and are counted on the other. With heads: the same in products, where an exit that is",
        "asked also takes its head; catching up is left out.",
        "",
        *_table(
            ("allowed", "changed", "depth", "with heads", "thresholds"),
            [
                (
                    *(percent(row[name]) for name in ("budget", "changed", "depth", "with_heads")),
                    _thresholds(row["thresholds"]),
                )
                for row in report["choices"]
            ],
        ),
    ]
    if draft := report.get("draft_head"):
        lines += [
            "",
            f"Exits answer by a draft head worth {draft['layers']:.2f} layers; it says what the whole head says of "
            f"{percent(draft['recall'])} of the tokens.",
        ]
    if free := report.get("free_running"):
        lines += [
            "",
            "## Generating freely, against the untouched model",
            "",
            "Changed are tokens that an edit would have to insert, delete or replace. At full depth nothing leaves early: "
            "what changes there is the last layer's drift, or the rounding of cached states.",
            "",
            *_table(
                ("allowed", "changed", "answers alike", "depth", "tokens"),
                [
                    (
                        "full depth" if row["budget"] is None else percent(row["budget"]),
                        percent(row["changed"]),
                        percent(row["same"]),
                        percent(row["depth"]),
                        row["tokens"],
                    )
                    for row in free
                ],
            ),
        ]
    if kinds := report.get("by_kind"):
        depths = list(next(iter(kinds.values()))["agreement"])
        lines += [
            "",
            f"## Which tokens, at {percent(recipe['budget'])} allowed",
            "",
            *_table(
                ("kind", "tokens", "leave early", "right of those", *(f"exit {d} agrees" for d in depths)),
                [
                    (
                        kind,
                        row["tokens"],
                        percent(row["leave"]),
                        percent(row["right_of_those"]),
                        *(percent(row["agreement"][d]) for d in depths),
                    )
                    for kind, row in kinds.items()
                ],
            ),
        ]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _layers(exits: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(exits)))


def _thresholds(values: Sequence[float]) -> str:
    return ", ".join("not asked" if value > 1 else f"{value:.3f}" for value in values)


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
