"""Speed and accuracy of OCR in two source trees of deed, old and new, on one machine:

    git archive OLD_COMMIT src | tar -x -C /tmp/old
    python benchmarks/ocr_speed.py --old /tmp/old/src --new src --pages 40 --output benchmarks/results/ocr_speed.json

Each tree has a process of its own (it imports its tree through PYTHONPATH); the two take turns, page by page, each going first
every other page, so that a machine that slows down slows both. Only ratios mean anything on a busy machine; the CPU seconds of
each process, which waiting does not lengthen, are told beside the clock's. Read are held-out rendered pages (`test` and
`unseen` of `deed.data.synthetic.pages`, the first `--pages` of each) and pages of a thousand words of a licence's text in four
fonts, set with Pillow on 1654 x 2339 pixels; what stands on each is known. Counted are the words found (read exactly, as often
as they stand there), the share of the words read that are right, and how far the edges of their boxes are off.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEXT = Path("/usr/share/common-licenses/GPL-3")  # of every Debian
FONTS = (("DejaVuSerif.ttf", 22), ("DejaVuSans.ttf", 20), ("DejaVuSansMono.ttf", 17), ("STIXGeneral.ttf", 26))
A4 = (1654, 2339)
Boxed = list[tuple[str, tuple[int, ...]]]


def worker(threads: int) -> None:
    """Reads a picture's path from each line of stdin; answers with its words and what reading took."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    from PIL import Image

    import deed
    from deed.ocr import read_page

    read_page(Image.new("RGB", (200, 200), "white"), threads=threads)
    print(json.dumps({"deed": deed.__file__}), file=pipe, flush=True)
    for line in sys.stdin:
        with Image.open(line.strip()) as file:
            image = file.convert("RGB")
        clock, cpu = time.perf_counter(), time.process_time()
        result = read_page(image, threads=threads)
        told = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        print(json.dumps({**told, "words": result.words, "engine": result.engine}), file=pipe, flush=True)


def held_out(count: int) -> Iterator[tuple[Any, Boxed]]:
    """Rendered pages and their words."""
    from deed.data.synthetic import pages
    from deed.data.synthetic.pages.data import page_of
    from deed.data.synthetic.pages.simulate import words_of

    for split in ("test", "unseen"):
        for index in range(count):
            yield pages.image_of(split, index), [(w.text, w.box) for w in words_of(page_of(split, index))]


def thousand_words() -> Iterator[tuple[Any, Boxed]]:
    """Pages of a thousand words, each in another font, and their words."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    words = TEXT.read_text(encoding="utf-8").split()
    for seed, (name, size) in enumerate(FONTS):
        font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)
        image = Image.new("RGB", A4, "white")
        draw, start = ImageDraw.Draw(image), random.Random(seed).randrange(len(words) - 1000)
        x, y, placed = 120.0, 110, []
        for word in words[start : start + 1000]:
            width = draw.textlength(word, font=font)
            if x + width > A4[0] - 120:
                x, y = 120.0, y + round(1.45 * size)
            draw.text((x, y), word, fill="black", font=font)
            box = draw.textbbox((x, y), word, font=font)
            placed.append((word, tuple(round(1000 * v / A4[i % 2]) for i, v in enumerate(box))))
            x += width + draw.textlength(" ", font=font)
        assert y < A4[1] - 60, "the page is full"
        yield image, placed


def score(read: Boxed, truth: Boxed) -> dict[str, float]:
    """What was found of what stands on a page."""
    one, other = collections.Counter(text for text, _ in read), collections.Counter(text for text, _ in truth)
    places = {text: box for text, box in read if one[text] == 1}
    pairs = [(places[text], box) for text, box in truth if other[text] == 1 and text in places]
    off = sum(abs(a - b) for found, box in pairs for a, b in zip(found, box, strict=True)) / 4
    return {
        "found": sum((one & other).values()),
        "there": len(truth),
        "read": len(read),
        "off": off,
        "boxes": len(pairs),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of one tree on one set of pages."""
    total = {
        key: sum(run[key] for run in runs) for key in ("found", "there", "read", "off", "boxes", "seconds", "cpu")
    }
    return {
        "words": total["there"],
        "words_found": total["found"] / total["there"],
        "right_of_read": total["found"] / total["read"],
        "box_edges_off": total["off"] / max(1, total["boxes"]),
        "seconds_per_page": total["seconds"] / len(runs),
        "cpu_seconds_per_page": total["cpu"] / len(runs),
    }


def main() -> None:
    """Runs both trees in turns and writes the result."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--new", type=Path)
    parser.add_argument("--pages", type=int, default=40, help="of each held-out split")
    parser.add_argument("--rounds", type=int, default=1, help="of the pages of a thousand words")
    parser.add_argument("--only", choices=("held-out pages", "pages of 1000 words"), help="add this set to the output")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.threads)
        return
    from importlib.metadata import version

    from deed.utils.timing import machine, versions

    about = machine()
    trees = {}
    for name, tree in (("old", given.old), ("new", given.new)):
        command = [sys.executable, __file__, "--worker", "--threads", str(given.threads)]
        env = {**os.environ, "PYTHONPATH": str(tree.resolve())}
        trees[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    print({name: json.loads(process.stdout.readline()) for name, process in trees.items()})
    sets = {
        "held-out pages": lambda: list(held_out(given.pages)),
        "pages of 1000 words": lambda: list(thousand_words()) * given.rounds,
    }
    packages = {name: version(name) for name in ("rapidocr", "onnxruntime", "opencv-python-headless", "pillow")}
    results: dict[str, Any] = {}
    if given.only and given.output and given.output.exists():
        results = json.loads(given.output.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for name, make in sets.items():
            if given.only not in (None, name):
                continue
            runs: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
            for i, (image, truth) in enumerate(make()):
                path = f"{folder}/page.png"
                image.save(path)
                for tree in ("old", "new") if i % 2 else ("new", "old"):
                    print(path, file=trees[tree].stdin, flush=True)
                    told = json.loads(trees[tree].stdout.readline())
                    runs[tree].append({**score(told["words"], truth), "seconds": told["seconds"], "cpu": told["cpu"]})
            ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs["old"], runs["new"], strict=True)]
            results[name] = {
                "command": shlex.join(["python", *sys.argv]),
                "machine": about,
                "versions": {**versions(), **packages},
                "threads": given.threads,
                "pages": len(ratios),
                **{tree: summary(found) for tree, found in runs.items()},
                "times_as_fast": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
                "times_as_fast_cpu": sum(r["cpu"] for r in runs["old"]) / sum(r["cpu"] for r in runs["new"]),
            }
            print(name, json.dumps(results[name], indent=1), flush=True)
            if given.output:
                given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
