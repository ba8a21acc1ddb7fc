"""Quality of the shipped models in int8 and bf16 against float32, on the held-out sets that g2p_quality.py and
documents_quality.py use: full depth and at the calibrated threshold. Writes benchmarks/results/quantised_quality.json.

int8 quantizes every linear here (min_weights=0), decoder, head and encoder: at the shipped models' size that is slower than
float32, but it is the most that quantizing can cost them.

    python benchmarks/quantized_quality.py
    python benchmarks/quantized_quality.py --kernels native_int8 weight_only fp16_weights int4_weights --count 1000

With `--kernels` the words only, the decoder by each of these kernels in turn (`DEED_KERNELS`); 4-bit weights are only for
sizes in multiples of 32. Writes benchmarks/results/kernels_quality.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deed.kernels.int8 import kernel
from deed.modeling.quantization import PARTS, quantize
from deed.tasks.answering import answer_examples, score_answers
from deed.tasks.documents import DocumentTask
from deed.tasks.g2p import G2pTask
from deed.tasks.loading import load_saved
from deed.tasks.task import Task
from deed.utils.timing import machine, versions

CHECKPOINTS = Path(__file__).parents[1] / "src/deed/checkpoints"
SETS = {"pages test": ("pages", "test"), "pages unseen": ("pages", "unseen"), "easyvqa test": ("easyvqa", "test")}
VARIANTS: dict[str, Callable[[Any], Any]] = {
    "float32": lambda model: model,
    "int8 decoder + head": lambda model: quantize(model, parts=("decoder", "head"), min_weights=0),
    "int8 everywhere": lambda model: quantize(model, parts=PARTS, min_weights=0),
    "bf16": lambda model: quantize(model, "bf16"),
}

Measure = Callable[[Any, float | list[float]], tuple[list[str], float, dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--g2p", type=Path, default=CHECKPOINTS / "g2p")
    parser.add_argument("--latr", type=Path, default=CHECKPOINTS / "latr")
    parser.add_argument("--count", type=int, default=None, help="only so many words and questions of each set")
    parser.add_argument("--kernels", nargs="+", default=[], help="names that DEED_KERNELS takes for int8")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    name = "kernels_quality" if options.kernels else "quantised_quality"
    options.output = options.output or Path(f"benchmarks/results/{name}.json")
    if options.kernels:
        VARIANTS.clear()
        VARIANTS.update({"float32": lambda model: model, **{name: by_kernel(name) for name in options.kernels}})
    started = time.time()
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "settings": {"kernel": kernel()[0].__name__, "levels": kernel()[1], "min_weights": 0},
        "rows": words(options.g2p, options.count)
        + ([] if options.kernels else documents(options.latr, options.count)),
    }
    result["seconds"] = round(time.time() - started)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


def by_kernel(name: str) -> Callable[[Any], Any]:
    """Quantizes the decoder for one kernel."""

    def change(model: Any) -> Any:
        before = os.environ.get("DEED_KERNELS")
        os.environ["DEED_KERNELS"] = name
        try:
            quantized = quantize(model, parts=("decoder",), min_weights=0)
        finally:
            os.environ.pop("DEED_KERNELS") if before is None else os.environ.update(DEED_KERNELS=before)
        assert quantized.deed_quantized["replaced"] and not quantized.deed_quantized["kept"]
        return quantized

    return change


def words(folder: Path, count: int | None) -> list[dict[str, Any]]:
    """CMUdict's held-out words."""
    task = G2pTask()
    model, tokenizer = task.load(folder)
    return compare_variants("g2p test", model, measured(task, tokenizer, list(task.examples("test", count))))


def documents(folder: Path, count: int | None) -> list[dict[str, Any]]:
    """Generated pages read by the OCR engine, and easy-vqa."""
    model, processor = load_saved(folder)
    results = []
    for name, (task, split) in SETS.items():
        kind = DocumentTask(task)
        results += compare_variants(name, model, measured(kind, processor, list(kind.examples(split, count))))
    return results


def measured(task: Task, processor: Any, examples: list[Any]) -> Measure:
    """Answers, mean depth and scores at a threshold."""

    def measure(subject: Any, threshold: float | list[float]) -> tuple[list[str], float, dict[str, float]]:
        ways = [{"exit_threshold": threshold}]
        kept, [(predictions, depth)] = answer_examples(task, subject, processor, examples, ways)
        scores = score_answers(task, predictions, kept)
        return predictions, depth, {k: v for k, v in scores.items() if isinstance(v, float) and k != "field_f1"}

    return measure


def compare_variants(name: str, model: Any, measure: Measure) -> list[dict[str, Any]]:
    """One row per variant: scores and mean depth, and how many answers are float32's own."""
    rows, first = [], {}
    for variant, change in VARIANTS.items():
        subject = change(copy.deepcopy(model))
        row: dict[str, Any] = {"set": name, "variant": variant}
        for label, threshold in (("full_depth", 2.0), ("calibrated", model.deed_config.threshold)):
            predictions, depth, scores = measure(subject, threshold)
            same = sum(a == b for a, b in zip(predictions, first.setdefault(label, predictions), strict=True))
            row[label] = {
                "answers": len(predictions),
                "mean_depth": round(depth, 3),
                **{k: round(v, 4) for k, v in scores.items()},
                "same_as_float32": round(same / len(predictions), 4),
            }
            shown = "  ".join(f"{k} {v}" for k, v in row[label].items())
            print(f"{name:13} {variant:20} {label:10} {shown}", flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
