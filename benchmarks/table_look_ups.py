"""How a LaTr++ looks cells up: in tables of random strings, and in forms of the validation split, with and without what tells
it of rows and columns (`LatrConfig.cell_bias`).

    python benchmarks/table_look_ups.py --model src/deed/checkpoints/paperwork --forms paperwork --output table_look_ups.json

Greedy, full depth. Of random tables it is told how many answers are of the row and of the column asked for, too. A model that
was trained without is given it as a fresh one has it (`"added"`), one that has it is asked without it, too (`"without"`).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deed.data.base import Example
from deed.data.synthetic.forms.kept import kept_forms
from deed.data.synthetic.grids import random_table, table_page
from deed.tasks.answering import answer_rows
from deed.tasks.documents import DocumentTask
from deed.utils.timing import machine, versions

TABLES, ASKED = 60, 4  # random tables, and cells asked for of each and of each form
WORDS = (14, 80)  # of a random table, about
BATCH = 16


def main() -> None:
    """Ask, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--forms", type=Path, default=None, help="folder of kept forms; default: none are asked about")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model, processor = DocumentTask("pages").load(options.model)
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}
    result |= {"versions": versions(), "machine": machine(), "model": str(options.model)}
    had = model.config.cell_bias
    for state in ("as it is", "without") if had else ("as it is", "added"):
        if state == "without":
            model.encoder.config.cell_bias = False
        elif state == "added":
            model.add_cells()
        result[state] = {"random tables": of_tables(model, processor)}
        if options.forms is not None:
            result[state]["forms"] = of_forms(model, processor, options.forms)
        print(state, result[state], flush=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def answers(model: Any, processor: Any, examples: Sequence[Example]) -> list[str]:
    """Greedy answers at full depth."""
    task, found = DocumentTask("pages"), []
    rows = [task.encode(processor, example) for example in examples]
    for i in range(0, len(rows), BATCH):
        tokens = answer_rows(task, model, processor, rows[i : i + BATCH], exit_threshold=2.0).tokens
        found += [text.strip() for text in processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return found


def of_tables(model: Any, processor: Any) -> dict[str, Any]:
    """Random tables: shares of answers that are right, of the right row, of the right column."""
    rng = random.Random("tables")
    examples: list[Example] = []
    places: list[tuple[dict[str, tuple[int, int]], str, str]] = []
    for _ in range(TABLES):
        table = random_table(rng, rng.randint(*WORDS))
        words, asked = table_page(table, rng)
        cells = {" ".join(cell): (i, j) for i, row in enumerate(table) for j, cell in enumerate(row)}
        for _, question, answer in asked[:ASKED]:
            examples.append(Example(question, [answer], words))
            head, name = question.split('"')[1::2]
            places.append((cells, head, name))
    right = rows = columns = 0
    for example, text, (cells, head, name) in zip(examples, answers(model, processor, examples), places, strict=True):
        right += text == example.answers[0]
        at = next((place for cell, place in cells.items() if text and (cell == text or cell.startswith(text))), None)
        rows += at is not None and at[0] == cells[name][0]
        columns += at is not None and at[1] == cells[head][1]
    shares = {"right": right, "of the row": rows, "of the column": columns}
    return {"questions": len(examples), **{name: round(count / len(examples), 3) for name, count in shares.items()}}


def of_forms(model: Any, processor: Any, folder: Path) -> dict[str, Any]:
    """Cells of forms of the validation split: the share of answers that are right."""
    rng = random.Random("forms")
    examples = []
    for form in kept_forms(folder, "validation", 100):
        cells = [asked for asked in form.asked if asked[0] == "table"]
        examples += [Example(q, [a], form.all_words) for _, q, a in rng.sample(cells, min(ASKED, len(cells)))]
    found = answers(model, processor, examples)
    right = sum(text == example.answers[0] for text, example in zip(found, examples, strict=True))
    return {"questions": len(examples), "right": round(right / len(examples), 3)}


if __name__ == "__main__":
    main()
