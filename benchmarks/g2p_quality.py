"""Quality on CMUdict's unseen words: deep supervision against a conventional training of the same size and budget, the
accuracy of every exit, and the score over thresholds. Writes benchmarks/results/g2p_quality.json.

    python benchmarks/g2p_quality.py --deed src/deed/checkpoints/g2p --conventional runs/g2p_conv/model
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSeq2SeqLM

import deed
from deed import DeedConfig, FixedSchedule, get_deed_model
from deed.tasks import g2p
from deed.tasks.answering import answer_examples
from deed.utils.timing import machine

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deed", type=Path, required=True)
    parser.add_argument("--conventional", type=Path, required=True)
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/g2p_quality.json"))
    options = parser.parse_args()
    started = time.time()
    task = g2p.G2pTask()
    examples = list(task.examples("test", options.count))
    model, tokenizer = task.load(options.deed)
    plain = get_deed_model(AutoModelForSeq2SeqLM.from_pretrained(options.conventional), DeedConfig(adapter="none"))

    def measure(subject, threshold=2.0, policy=None):
        way = {"exit_threshold": threshold, "exit_policy": policy}
        _, [(predictions, depth)] = answer_examples(task, subject, tokenizer, examples, [way])
        return {
            "mean_depth": round(depth, 3),
            **{k: round(v, 4) for k, v in g2p.score(predictions, [e.answers for e in examples]).items()},
        }

    n_layers = len(model.deed_family.layers(model))
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"deed": deed.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "machine": machine(),
        "words": len(examples),
        "full_depth": measure(model),
        "conventional": measure(plain),
        "calibrated": {"threshold": model.deed_config.threshold, **measure(model, model.deed_config.threshold)},
        "by_depth": [{"depth": d, **measure(model, None, FixedSchedule([d]))} for d in range(1, n_layers + 1)],
        "conventional_by_depth": [
            {"depth": d, **measure(plain, None, FixedSchedule([d]))} for d in (1, n_layers // 2, n_layers - 1)
        ],
        "by_threshold": [{"threshold": t, **measure(model, t)} for t in THRESHOLDS],
        "recipes": {
            name: json.loads((folder / "recipe.json").read_text())
            for name, folder in (("deed", options.deed), ("conventional", options.conventional))
        },
    }
    result["seconds"] = round(time.time() - started)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("full_depth", "conventional", "calibrated"):
        print(name, result[name])
    for row in [*result["by_depth"], *result["by_threshold"]]:
        print(row)


if __name__ == "__main__":
    main()
