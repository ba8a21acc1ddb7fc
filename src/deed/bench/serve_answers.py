"""Lengths and depths of real answers, which the load of `deed bench serve` follows where weights are random.

Recorded once from the shipped models on their validation sets, at their calibrated thresholds, and kept beside this file;
`python -m deed.bench.serve_answers` records them anew.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import read_json, write_json
from deed.utils.shipped import CHECKPOINTS
from deed.utils.timing import versions

RECORDED = Path(__file__).with_name("serve_answers.json")
TASKS = ("documents", "g2p")
COUNT = 200  # of each task
ROWS = 16


@dataclass(frozen=True)
class Answer:
    """One recorded answer.

    Attributes:
        source: tokens that the encoder read.
        depths: of the tokens of the answer, the end token included.
    """

    source: int
    depths: tuple[int, ...]


def recorded(task: str) -> tuple[list[Answer], int]:
    """The answers of a task, and the number of layers of the decoder that gave them.

    Raises:
        ValueError: no such task.
    """
    if task not in TASKS:
        raise ValueError(f"--answers must be one of {', '.join(TASKS)}, got {task!r}")
    found = read_json(RECORDED)["tasks"][task]
    return [Answer(source, tuple(depths)) for source, depths in found["answers"]], found["layers"]


def encoded_words(processor: Any, count: int) -> list[dict[str, Any]]:
    """Words of CMUdict's validation split, encoded."""
    from deed.tasks.g2p import G2pTask

    task = G2pTask()
    return [task.encode(processor, example) for example in task.examples("validation", count)]


def encoded_pages(processor: Any, count: int) -> list[dict[str, Any]]:
    """Questions of all kinds on pages of the validation split, with the picture and the words as OCR might read them."""
    from deed.data.synthetic import pages
    from deed.data.synthetic.pages.simulate import ocr_words
    from deed.tasks import documents

    def rows() -> Any:
        for index in range(pages.SPLITS["validation"]):
            words = ocr_words(pages.page_of("validation", index), random.Random(index))
            picture = pages.image_of("validation", index)
            for example in pages.examples_of("validation", index, words):
                yield documents.encode(processor, replace(example, image=picture))

    return list(islice(rows(), count))


@torch.no_grad()
def record(count: int = COUNT) -> dict[str, Any]:
    """`count` answers of every task: `{"layers", "answers": [[source, [depth, …]], …]}` each."""
    from deed.tasks import documents
    from deed.tasks.loading import load_saved
    from deed.tasks.protocol import Task

    ways = {
        "documents": ("latr", encoded_pages, documents.inputs_of),
        "g2p": ("g2p", encoded_words, Task().collate),
    }
    found = {}
    for name, (folder, encode, collate) in ways.items():
        model, processor = load_saved(CHECKPOINTS / folder)
        rows = encode(processor, count)
        answers: list[Any] = []
        for start in range(0, len(rows), ROWS):
            inputs = collate(processor, rows[start : start + ROWS])
            out = model.generate(**inputs, do_sample=False, num_beams=1, return_dict_in_generate=True)
            depths = [[d for d in row if d] for row in out.exit_layers.tolist()]
            answers += zip(inputs["attention_mask"].sum(1).tolist(), depths, strict=True)
        found[name] = {"checkpoint": folder, "layers": len(model.deed_family.layers(model)), "answers": answers}
    return {"date": time.strftime("%Y-%m-%d"), "split": "validation", "versions": versions(), "tasks": found}


if __name__ == "__main__":
    write_json(RECORDED, record(), indent=None)
