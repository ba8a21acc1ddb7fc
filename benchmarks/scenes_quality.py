"""Quality of the shipped OFA on scenes (test: known combinations of objects; unseen: held-out ones) and on easy-vqa's test
set: full depth, calibrated threshold, every exit, thresholds, and a conventional training of the same size and budget.
Writes benchmarks/results/scenes_quality.json.

Boxes: Acc@0.5. Captions: CIDEr-D (0 to 10), and of the same captions the share that is a reference word for word. Questions:
accuracy.

    python benchmarks/scenes_quality.py --deed src/deed/checkpoints/ofa --conventional runs/scenes_conv/model
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from documents_quality import THRESHOLDS, measure

from deed import FixedSchedule
from deed.tasks.answering import FULL_DEPTH
from deed.tasks.loading import load_saved
from deed.tasks.pictures import PictureTask
from deed.utils.timing import machine, versions

SETS = [(task, split) for split in ("test", "unseen") for task in ("refer", "caption", "vqa")] + [("easyvqa", "test")]
MADE = 1000  # scenes of each set
EVERY_EXIT = ("refer", "caption")  # also measured exit by exit and over thresholds
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deed", type=Path, required=True)
    parser.add_argument("--conventional", type=Path, default=None)
    parser.add_argument("--count", type=int, default=None, help="examples of each set; default: 1000, all of easy-vqa")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scenes_quality.json"))
    options = parser.parse_args()
    started = time.time()
    model, processor = load_saved(options.deed)
    calibrated = model.deed_config.threshold
    plain = None if options.conventional is None else load_saved(options.conventional, plain=True)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "settings": {"batch_size": BATCH, "decoding": "greedy", "dtype": "float32", "seed": 0},
        "threshold": calibrated,
        "sets": {},
    }
    for task, split in SETS:
        count = options.count if task == "easyvqa" else options.count or MADE
        ways = [FULL_DEPTH, {"exit_threshold": calibrated}]
        exits = model.deed_config.exit_layers[:-1] if task in EVERY_EXIT else []
        ways += [{"exit_policy": FixedSchedule([depth])} for depth in exits]
        thresholds = THRESHOLDS if task in EVERY_EXIT else ()
        ways += [{"exit_threshold": threshold} for threshold in thresholds]
        kind = PictureTask(task if task == "easyvqa" else f"scenes-{task}")
        full, early, *rows = measure(kind, model, processor, split, count, ways, BATCH)
        part = {"metric": kind.metric, "full_depth": full, "calibrated": early}
        if plain is not None:
            [part["conventional"]] = measure(kind, *plain, split, count, ways[:1], BATCH)
        if task in EVERY_EXIT:
            by_depth, by_threshold = rows[: len(exits)], rows[len(exits) :]
            part["by_depth"] = [{"depth": d, **row} for d, row in zip(exits, by_depth, strict=True)]
            part["by_threshold"] = [{"threshold": t, **row} for t, row in zip(thresholds, by_threshold, strict=True)]
        result["sets"][f"{task} {split}"] = part
        print(f"{task} {split}", json.dumps({k: v for k, v in part.items() if not k.startswith("by_")}), flush=True)
    folders = {"deed": options.deed, "conventional": options.conventional}
    result["recipes"] = {
        name: json.loads((folder / "recipe.json").read_text())
        for name, folder in folders.items()
        if folder is not None
    }
    result["seconds"] = round(time.time() - started)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


if __name__ == "__main__":
    main()
