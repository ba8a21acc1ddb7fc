"""Draws docs/answer.png, the README's first picture: a page of a real PDF, what `deed ask` says about it, and how sure it is.

    python docs/draw_answer.py PDF --page 1 "what is the title?" …

The answers are those of the command as it is; words of the page that they are made of are marked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deed.ocr import open_document
from deed.ocr.words import Word

PICTURE = Path(__file__).parent / "answer.png"
COLORS = ("#f2a900", "#2c7fb8", "#31a354", "#d95f0e")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pdf", type=Path)
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--page", type=int, default=1)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "deed",
        "ask",
        str(options.pdf),
        *options.questions,
        "--page",
        str(options.page),
        "--json",
    ]
    command += ["--model", str(options.model)] if options.model else []
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with open_document(options.pdf) as document:
        layer, image = document.text(options.page), document.image(options.page)
    draw(image, layer.words, told["answers"], options)


def draw(image: Any, words: Sequence[Word], answers: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The page at the left, the questions with their answers at the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    figure, (page, text) = plt.subplots(1, 2, figsize=(10, 5.6), width_ratios=(0.5, 0.5), layout="constrained")
    page.imshow(image)
    page.set(xticks=[], yticks=[])
    left, top, right, bottom = (f(word.box[i] for word in words) for i, f in enumerate((min, min, max, max)))
    page.set_xlim((left - 40) * image.width / 1000, (right + 40) * image.width / 1000)
    page.set_ylim((bottom + 30) * image.height / 1000, (top - 30) * image.height / 1000)
    text.axis("off")
    command = f"$ deed ask {options.pdf.name} --page {options.page}"
    text.text(0, 0.98, command, family="monospace", fontsize=10, va="top", weight="bold")
    for number, answer in enumerate(answers):
        color = COLORS[number % len(COLORS)]
        for x0, y0, x1, y1 in places(words, answer["question"], answer["answer"]):
            at = (x0 * image.width / 1000 - 3, y0 * image.height / 1000 - 3)
            size = ((x1 - x0) * image.width / 1000 + 6, (y1 - y0) * image.height / 1000 + 6)
            page.add_patch(Rectangle(at, *size, facecolor=color, alpha=0.35, edgecolor=color))
        top = 0.88 - number * 0.88 / max(4, len(answers))
        sure = "sure" if answer["sure"] else "not sure"
        text.text(0, top, answer["question"], fontsize=10, va="top", color="#555555")
        text.text(
            0, top - 0.055, f"{sure} ({answer['confidence']:.0%}):", fontsize=10, va="top", color=color, weight="bold"
        )
        text.text(0.32, top - 0.055, answer["answer"], fontsize=11, va="top", wrap=True)
    figure.savefig(options.output, dpi=110)


def places(words: Sequence[Word], question: str, answer: str) -> list[tuple[int, int, int, int]]:
    """Boxes of the run of words that reads like the answer: behind what the question quotes, else the first such run."""
    texts, wanted = [plain(word.text) for word in words], [plain(word) for word in answer.split()]
    quoted = [plain(word) for text in re.findall('"(.+?)"', question) for word in text.split()]
    starts = [i for i in range(len(texts)) if wanted and texts[i : i + len(wanted)] == wanted]
    behind = [i for i in starts if quoted and texts[max(0, i - len(quoted)) : i] == quoted]
    chosen = (behind or starts)[:1]
    return [word.box for i in chosen for word in words[i : i + len(wanted)]]


def plain(text: str) -> str:
    """A word without the marks around it."""
    return text.strip(".,;:()\"'")


if __name__ == "__main__":
    main()
