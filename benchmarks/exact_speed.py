"""Exact mode on the shipped models: times faster than full depth, what drafts and verification cost, and whether tokens agree.

    python benchmarks/exact_speed.py [--models g2p latr ofa] [--batches 1 8] [--examples 64] [--out FILE]

Real examples of each model's test split, answered as its task answers them, in turns: at full depth, exactly, and at the
calibrated threshold. The decoding loop is timed, without the encoder and what Transformers prepares. Every ratio is of one
batch's two times; printed are the medians. On a busy machine, --clock cpu with --threads 1 counts the process's own seconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from deed.constants import NEVER_EXIT
from deed.engine import exact
from deed.modeling import generation
from deed.modeling.answering import batches
from deed.tasks.task import get_task
from deed.utils.shipped import CHECKPOINTS
from deed.utils.timing import interleave, machine, spread

TASKS = {"g2p": ["g2p"], "latr": ["pages"], "ofa": ["scenes-refer", "scenes-caption", "scenes-vqa"]}


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
LOOPS = {"sample": generation.sample, "decode_exactly": generation.decode_exactly}


def measure(name: str, task_name: str, batch: int, count: int, rounds: int, clock_name: str) -> dict[str, Any]:
    """One model on one task at one batch size."""
    task = get_task(task_name, {"g2p": "t5", "latr": "latr", "ofa": "ofa"}[name])
    model, processor = task.load(CHECKPOINTS / name)
    examples = [task.opened(e) for e in task.examples("test", count)]
    rows = [task.encode(processor, e) for e in examples]
    options = {**task.generation_options(model, processor), "return_dict_in_generate": True}
    made = [task.collate(processor, [rows[i] for i in part]) for part in batches(rows, batch)]
    ways: dict[str, dict[str, Any]] = {
        "full": {"exit_threshold": NEVER_EXIT},
        "exact": {"exact": True},
        "early": {},
    }

    clock, spent = CLOCKS[clock_name], [0.0]

    def timed(decode: Any) -> Any:
        def run(*args: Any) -> Any:
            start = clock()
            try:
                return decode(*args)
            finally:
                spent[0] += clock() - start

        return run

    def run(way: str) -> Any:
        def answer(inputs: Any) -> Any:
            spent[0], start = 0.0, clock()
            out = model.generate(**inputs, **options, **ways[way])
            return clock() - start, spent[0], out

        return answer

    for loop, function in LOOPS.items():
        setattr(generation, loop, timed(function))
    for inputs in made[: max(4, 64 // batch)]:  # what drafting costs and brings is learned once per model
        run("exact")(inputs)
    runs = interleave({way: run(way) for way in ways}, made * rounds, warmup=2)
    full, exactly, early = (runs[w] for w in ("full", "exact", "early"))
    tokens = [int((o.exit_layers > 0).sum()) for _, _, o in full]
    stats = [o.past_key_values.stats() for _, _, o in exactly]
    drafted, accepted = (sum(s[k] for s in stats) for k in ("drafted_tokens", "accepted_tokens"))
    return {
        "model": name,
        "task": task_name,
        "batch": batch,
        "decoder_times_faster": spread([a[1] / b[1] for a, b in zip(full, exactly, strict=True)]),
        "answer_times_faster": spread([a[0] / b[0] for a, b in zip(full, exactly, strict=True)]),
        "total_ratio": sum(a[1] for a in full) / sum(a[1] for a in exactly),
        "early_total_ratio": sum(a[1] for a in full) / sum(a[1] for a in early),
        "ms_per_token_full": 1e3 * sum(a[1] for a in full) / sum(tokens),
        "ms_per_token_exact": 1e3 * sum(a[1] for a in exactly) / sum(tokens),
        "equal_batches": sum(torch.equal(a[2].sequences, b[2].sequences) for a, b in zip(full, exactly, strict=True)),
        "batches": len(exactly),
        "tokens": sum(tokens),
        "tokens_per_answer": sum(tokens) / sum(o.sequences.shape[0] for _, _, o in full),
        "accepted": accepted / max(1, drafted),
        "drafted_share": accepted / sum(tokens),
        "tokens_per_verification": sum(tokens) / sum(s["verifying_passes"] for s in stats),
        "draft_depth": sum(
            float(o.exit_layers[(o.exit_layers > 0) & (o.exit_layers < 8)].float().sum()) for _, _, o in exactly
        )
        / max(1, accepted),
        "near_ties": sum(s["near_ties"] for s in stats),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(TASKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.clock == "cpu":  # and the same for what drafting is tuned by
        exact.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    gc.freeze()
    results = []
    for name in options.models:
        for task in TASKS[name]:
            for batch in options.batches:
                found = measure(name, task, batch, options.examples, options.rounds, options.clock)
                results.append(found)
                ratio, whole = found["decoder_times_faster"], found["answer_times_faster"]
                print(
                    f"{task} batch {batch}: decoder {ratio['median']:.2f} times faster than full depth "
                    f"({ratio['p25']:.2f} to {ratio['p75']:.2f}; whole {whole['median']:.2f}; "
                    f"summed {found['total_ratio']:.2f}; not exact {found['early_total_ratio']:.2f}), "
                    f"{found['ms_per_token_full']:.2f} -> "
                    f"{found['ms_per_token_exact']:.2f} ms a token; {found['accepted']:.1%} of drafts stand, at depth "
                    f"{found['draft_depth']:.2f}, {found['drafted_share']:.1%} of tokens, "
                    f"{found['tokens_per_verification']:.2f} tokens a verification, "
                    f"{found['tokens_per_answer']:.1f} an answer; near ties {found['near_ties']}; "
                    f"equal {found['equal_batches']}/{found['batches']}",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
