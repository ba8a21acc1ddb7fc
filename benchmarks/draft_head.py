"""What a draft head gives on Whisper: how often it says what the whole head says, by build and size, and what a step costs.

    python benchmarks/draft_head.py recall MODEL POOL HELD_OUT   # a model of `deed tune --recipe frozen`, and its pools
    python benchmarks/draft_head.py time MODEL [PRECISION …]     # alone on the machine; fp32 and int8

POOL and HELD_OUT are folders of that run's `--cache`. Both write to benchmarks/results/draft_head.json, as they go.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import deed
from deed.calibration.exit_features import Found
from deed.calibration.fit_draft_head import fit_draft_head_to
from deed.calibration.fit_gate import area_under_curve
from deed.exits.draft_head import exit_head_cost, new_draft_head
from deed.exits.heads import exit_features
from deed.recipes.tune_batch import join
from deed.recipes.tune_pool import Pool
from deed.training.forced import exit_states_from
from deed.utils.timing import spread

RESULTS = Path(__file__).parent / "results" / "draft_head.json"
RANKS, REFINED, SIZES = (32, 48, 16, 24), (8, 32, 64), (1024, 2048, 4096, 8192)


def states_of(model: Any, pool: Pool, examples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the first exit: what its norm gets `[n, d]`, the last layer's best token `[n]`, and its use of tokens `[vocab]`."""
    depth = model.deed_config.exit_layers[0]
    usage, found, best = torch.zeros(model.deed_family.vocab_size(model)), [], []
    for i in range(min(examples, len(pool))):
        item = pool.item(i, depths=[depth])
        batch = join([item], pool.kind, model.config.pad_token_id, torch.float32, packs=True)
        states = exit_states_from(model, batch.source(model), batch.packed, batch.states)
        found.append(states[depth][batch.chosen])
        best.append(batch.teacher.ids[:, 0])
        usage.index_add_(0, batch.teacher.ids.flatten(), batch.teacher.logs.exp().flatten())
    return torch.cat(found), torch.cat(best), usage


def look(model: Any, features: torch.Tensor, last: torch.Tensor) -> dict[str, Any]:
    """Of an exit's logits: agreement with the last layer, and how well two confidences tell of it."""
    head = None if model.deed_config.draft_head is None else model.deed_exits["draft_head"].function(model, bare=True)
    agrees, over_all, over_best = [], [], []
    for part, said in zip(features.split(256), last.split(256), strict=True):
        logits = model.deed_family.head(model, part) if head is None else head(part)
        top = logits.topk(32).values
        agrees.append(logits.argmax(-1) == said)
        over_all.append((top[:, 0] - logits.logsumexp(-1)).exp())
        over_best.append((top[:, 0] - top.logsumexp(-1)).exp())
    agreed = torch.cat(agrees)
    return {
        "agrees_with_last": float(agreed.float().mean()),
        "auc_all_tokens": area_under_curve(torch.cat(over_all), agreed),
        "auc_best_32": area_under_curve(torch.cat(over_best), agreed),
    }


@torch.no_grad()
def recall(model_folder: str, pool: str, held_out: str, examples: int, known: list[dict[str, Any]]) -> None:
    """The table by build and size, written line by line; `known` lines are not made again."""
    model = deed.from_pretrained(model_folder)
    depth = model.deed_config.exit_layers[0]
    learned, _, usage = states_of(model, Pool(Path(pool)), examples)
    others, last, _ = states_of(model, Pool(Path(held_out)), examples)
    example = torch.cat([torch.zeros(len(learned)), torch.full((len(others),), 4)]).long()  # every fifth is held out
    found = Found({}, {depth: torch.cat([learned, others])}, {}, example, usage)
    tested = exit_features(model, depth, others)
    print(f"{len(learned)} and {len(tested)} positions", flush=True)
    model.deed_config.draft_head = None
    rows = known or [{"head": "own", "layers": exit_head_cost(model), **look(model, tested, last)}]
    print(rows[-1], flush=True)
    specs: list[dict[str, Any]] = [{"tokens": n, "max_layers": 9} for n in SIZES]
    specs += [{"rank": rank, "refine": REFINED[0], "max_layers": 9} for rank in RANKS]
    done = [row["head"] for row in rows]
    for spec in specs:
        last_of = {k: v for k, v in {**spec, "refine": REFINED[-1]}.items() if k != "max_layers"}
        if (last_of if "rank" in spec else {"tokens": spec["tokens"]}) in done:
            continue
        start = time.time()
        fitted = fit_draft_head_to(model, found, spec)
        for refine in REFINED if "rank" in spec else (None,):
            if refine is not None:
                spec = model.deed_config.draft_head = {**spec, "refine": refine}
                head = model.deed_exits["draft_head"]
                head.refine = refine
                own = torch.cat([model.deed_family.head(model, x).argmax(-1) for x in tested.split(256)])
                parts = list(zip(tested.split(256), own.split(256), strict=True))
                fitted["kept"] = sum(float(head.refines(x, y).sum()) for x, y in parts) / len(own)
                said = head.function(model, bare=True)
                fitted["recall"] = sum(float((said(x).argmax(-1) == y).sum()) for x, y in parts) / len(own)
            shown = {k: v for k, v in spec.items() if k != "max_layers"}
            rows.append(
                {
                    "head": shown,
                    **fitted,
                    "layers": exit_head_cost(model),
                    **look(model, tested, last),
                    "fit_seconds": round(time.time() - start, 1),
                }
            )
            print(rows[-1], flush=True)
            save("recall", {"positions": len(learned), "held_out": len(tested), "rows": rows})


@torch.no_grad()
def calls(model: Any, rounds: int = 150) -> dict[str, dict[str, float]]:
    """Milliseconds of a head alone on one position, whole and draft in turns: as in a step, each finds what the other left in
    the processor's cache."""
    draft, family = model.deed_exits["draft_head"].function(model, bare=True), model.deed_family
    x = torch.randn(1, family.d_model(model))
    heads = {"whole": lambda: family.head(model, x), "draft": lambda: draft(x)}
    found: dict[str, list[float]] = {name: [] for name in heads}
    for turn in range(rounds + 10):
        for name, head in heads.items():
            start = time.perf_counter()
            head()
            if turn >= 10:
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: spread(values) for name, values in found.items()}


def timed(model_folder: str, precisions: Sequence[str], known: dict[str, Any]) -> None:
    """Costs of a step by `deed.measure_costs`, in layers, of a draft head (`exit_check`) and of the whole head (`last_check`),
    and both heads alone; written line by line, beside the `known` lines."""
    mels = torch.zeros(1, 80, 3000)
    for precision in precisions:
        for name, spec in (
            ("rank 32", {"rank": 32, "refine": 64}),
            ("4096 tokens", {"tokens": 4096, "max_layers": 1}),
        ):
            made = deed.from_pretrained(model_folder)
            config = dataclasses.replace(made.deed_config, draft_head=spec)
            made.deed_exits["draft_head"] = new_draft_head(
                made, made.deed_family, spec
            )  # times do not depend on weights
            made.deed_config = config
            if precision == "int8":
                deed.quantize(made, parts=("encoder", "decoder", "head"))
            costs = deed.measure_costs(made, {"input_features": mels}, steps=32, repeats=5)
            known[f"{precision}, {name}"] = {
                **dataclasses.asdict(costs),
                "products": exit_head_cost(made),
                "calls_ms": calls(made),
                "date": time.strftime("%Y-%m-%d"),
                "threads": torch.get_num_threads(),
                "load_average": os.getloadavg()[0],
            }
            print(precision, name, known[f"{precision}, {name}"], flush=True)
            save("time", known)


def save(what: str, found: dict[str, Any]) -> None:
    """Into the results, beside what is there."""
    report = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**report, what: found}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recall", "time"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--examples", type=int, default=250)
    given = parser.parse_args()
    if given.what == "recall":
        before = json.loads(RESULTS.read_text()).get("recall", {}) if RESULTS.is_file() else {}
        recall(*given.paths, given.examples, before.get("rows", []))
    else:
        before = json.loads(RESULTS.read_text()).get("time", {}) if RESULTS.is_file() else {}
        timed(given.paths[0], given.paths[1:] or ("fp32", "int8"), before)
