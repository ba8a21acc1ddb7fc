"""Exact requests in the running batch, beside full depth's and the calibrated threshold's: tokens per second of closed
clients, interleaved rounds; all exact answers are compared with full depth's.

    python benchmarks/serving_exact.py --seconds 1 --rounds 3 --out benchmarks/results/serving_exact.json
"""

import argparse
import json
import statistics
import threading
import time
from typing import Any

import torch
from transformers import AutoTokenizer

import deed
from deed.bench.shapes import real_pages
from deed.constants import NEVER_EXIT
from deed.data.readers import cmudict
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.utils.shipped import CHECKPOINTS
from deed.utils.timing import machine, versions

KINDS: dict[str, dict[str, Any]] = {
    "full depth": {"options": {"exit_threshold": NEVER_EXIT}},
    "exact": {"exact": True},
    "threshold": {},
}


def words(model: Any) -> list[dict[str, torch.Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "g2p")
    found = [word for word, _ in cmudict.load_split("test")][:200]
    return [dict(tokenizer([word], return_tensors="pt")) for word in found]


def pages(model: Any) -> list[dict[str, torch.Tensor]]:
    whole = real_pages(model, 24, torch.Generator())
    return [{k: v[i : i + 1] for k, v in whole.items()} for i in range(24)]


def load(scheduler: Scheduler, sources: list[Any], clients: int, seconds: float, kind: str, seen: dict) -> float:
    """Tokens per second of clients that ask again when they are answered."""
    counts, end = [0] * clients, time.monotonic() + seconds

    def client(c: int) -> None:
        n = c
        while time.monotonic() < end:
            request = GenerationRequest(sources[n % len(sources)], confidence=False, **KINDS[kind])
            tokens = scheduler.submit(request).result().tokens
            seen.setdefault((kind, n % len(sources)), tokens)
            counts[c] += len(tokens)
            n += clients

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(c,)) for c in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began)


def measure(name: str, make: Any, clients: int, seconds: float, rounds: int) -> dict[str, Any]:
    model = deed.from_pretrained(CHECKPOINTS / name).eval()
    sources, seen, rates = make(model), {}, {kind: list[float]() for kind in KINDS}
    with Scheduler(model) as scheduler:
        for kind in KINDS:
            load(scheduler, sources, clients, seconds / 2, kind, seen)
        for _ in range(rounds):
            for kind in KINDS:
                rates[kind].append(load(scheduler, sources, clients, seconds, kind, seen))
        share = scheduler._decoding.pace.tuner.share
    both = [n for kind, n in seen if kind == "exact" and ("full depth", n) in seen]
    differ = sum(seen["exact", n] != seen["full depth", n] for n in both)
    return {
        "model": name,
        "clients": clients,
        "tokens_per_s": {kind: round(statistics.median(found), 1) for kind, found in rates.items()},
        "exact_over_full_depth": round(
            statistics.median(a / b for a, b in zip(rates["exact"], rates["full depth"], strict=True)), 3
        ),
        "drafts_that_stand": round(share, 3),
        "answers_compared": len(both),
        "answers_that_differ": differ,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["g2p", "latr"], nargs="+", default=["g2p", "latr"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    makers = {"g2p": words, "latr": pages}
    rows = [measure(m, makers[m], c, args.seconds, args.rounds) for m in args.model for c in args.clients]
    found = {"machine": machine(), "versions": versions(), "threads": args.threads, "rows": rows}
    print(json.dumps(rows, indent=1))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(found, file, indent=1)
