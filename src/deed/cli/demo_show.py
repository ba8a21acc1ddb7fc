"""What `deed demo` prints: some answers, their tokens colored by depth, and what was saved; readable in 60 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deed.report import threshold_text
from deed.report.html import change, metric, metric_change, milliseconds, percent, points

from .painting import Painter

SHOWN_WORDS = 12
SHOWN_QUESTIONS = {"pages": 8}  # others: 7


def show(results: dict[str, Any], page: Path) -> None:
    """Answers and numbers in the terminal.

    Args:
        page: the report written.
    """
    from rich.text import Text

    painter = Painter(results["n_layers"], results["end_token"])
    console = painter.console
    console.print()
    (show_words if results["task"] == "g2p" else show_questions)(results, painter)
    painter.legend()
    console.print()
    console.print(numbers(results, painter))
    if "groups" in results:
        console.print()
        console.print(group_table(results, painter))
    if "ocr" in results:
        ocr = results["ocr"]
        console.print()
        console.print(
            f"OCR ({ocr['engine']}) comes before and is not in these times: "
            f"{milliseconds(ocr['per_page_ms']['median'])} per page (median), {milliseconds(ocr['sum_ms'])} for all "
            f"{ocr['pages']} pages."
        )
    full, deed = results["full_depth"], results["deed"]
    source = {"given": "as given", "calibrated": "calibrated", "model": "the model's"}[deed["threshold_source"]]
    sample = results.get("sample", f"{full['inputs']} {results['unit']}s that training never saw")
    console.print()
    console.print(
        f"{sample}, batch 1, summed; the untouched base class and early exit "
        f"took turns. Threshold {threshold_text(deed['threshold'])} ({source}). "
        f"{results['changes']['lost']} answers became wrong, {results['changes']['gained']} became right."
    )
    for key in ("score_note", "right_note"):
        if key in results:
            console.print()
            console.print(results[key])
    for note in results["notes"]:
        console.print(Text(note, style="yellow"))
    console.print(Text(f"report: {page}"), soft_wrap=True)  # unbroken, so that it can be copied


def show_words(results: dict[str, Any], painter: Painter) -> None:
    """The user's words and the first of the sample."""
    from rich.text import Text

    table = painter.table("")
    table.show_header = True
    table.add_column("word", max_width=18, overflow="fold")
    table.add_column("answer, early exit")
    asked = [e for e in results["examples"] if e["asked"]]
    for e in [*asked, *[e for e in results["examples"] if not e["asked"]][:SHOWN_WORDS]]:
        text = painter.words(e["tokens"], e["depths"])
        if e["asked"]:
            text.append(f"\n{e['seen']}", style="dim")
        if e["right"] is False:
            text.append("\nlisted " + ", ".join(e["expected"]), style="dim")
        if e["tokens"] != e["full_depth_tokens"]:
            text.append(f"\nfull depth {e['full_depth']}", style="dim")
        table.add_row(Text(*painter.marks[e["right"]]), e["word"], text)
    painter.console.print(table)


def show_questions(results: dict[str, Any], painter: Painter) -> None:
    """The first answers, page by page or picture by picture; below the questions, as they may be long."""
    from rich.text import Text

    table, last = painter.table("", ""), None
    for e in results["examples"][: SHOWN_QUESTIONS.get(results["task"], 7)]:
        where = place_of(e)
        if where and where != last:
            last = where
            table.add_row("", Text(where, style="dim"))
        question = f'"{e["question"]}"' if e.get("task") == "refer" else e["question"]
        text = Text(question, style="bold").append("\n")
        text.append_text(painter.running(e["pieces"], e["depths"]))
        if not e["right"]:
            expected = e.get("nearest") or next(iter(e["expected"]), "another answer")
            text.append(f"\nexpected {expected}", style="dim")
        if e["tokens"] != e["full_depth_tokens"]:
            text.append(f"\nfull depth {e['full_depth'] or 'nothing'}", style="dim")
        text.overflow = "fold"
        table.add_row(Text(*painter.marks[e["right"]]), text)
    painter.console.print(table)


def place_of(e: dict[str, Any]) -> str:
    """The page or picture that a question is about; nothing where the report has neither."""
    if "page" not in e and "picture" not in e:
        return ""
    if "page" in e:
        return f"page {e['page']}: {e['layout']}, {e['layouts']}"
    return f"picture {e['picture']}" + (f": {e['place']}" if e["place"] not in e["picture"] else "")


def numbers(results: dict[str, Any], painter: Painter) -> Any:
    """Full depth, early exit, and what changed."""
    from rich.text import Text

    full, deed, saving = results["full_depth"], results["deed"], results["saving"]
    table = painter.table("", "full depth", "early exit", "change")
    names = {
        "score": results["score_name"],
        "right": "right answers",
        "exact_match": "exact answers",
        "field_f1": "JSON field F1",
    }
    for key, name in names.items():
        if key in full:
            table.add_row(name, percent(full[key]), percent(deed[key]), points(deed[key] - full[key]))
    for name in ("decoder", "overall"):
        times = [milliseconds(subject[f"{name}_ms"]) for subject in (full, deed)]
        table.add_row(f"{name} latency", *times, Text(change(saving[name]), style="bold"))
    medians = [subject["decoder_ms_per_input"]["median"] for subject in (full, deed)]
    per_input = change(1 - medians[1] / medians[0])
    unit = "" if "groups" in results else f" {results['unit']}"
    table.add_row(f"decoder, median{unit}", *map(milliseconds, medians), per_input)
    table.add_row(
        "mean depth", str(results["n_layers"]), f"{deed['mean_depth']:.2f}", f"of {results['n_layers']} layers"
    )
    return table


def group_table(results: dict[str, Any], painter: Painter) -> Any:
    """The same by parts of the sample: layouts and length of the answers, or tasks, each with a metric of its own."""
    table = painter.table("", results["score_name"], "change", "decoder", "overall", "depth")
    for group in results["groups"]:
        full, deed = group["full_depth"], group["deed"]
        best, key = group.get("best", 1), "value" if "value" in deed else "score"
        name = group["name"].removesuffix(" combinations")
        table.add_row(
            f"{name}, {group['metric']}" if "metric" in group else name,
            metric(deed[key], best),
            metric_change(deed[key] - full[key], best),
            change(group["saving"]["decoder"]),
            change(group["saving"]["overall"]),
            f"{deed['mean_depth']:.2f}",
        )
    return table
