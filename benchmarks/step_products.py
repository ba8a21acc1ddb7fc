"""A full-depth decoding step beside the products in it, and beside the bytes it has to read, for models with random weights:

    python benchmarks/step_products.py --shapes t5-base,bart-base --rows 1,8,32

A step is `decode_step` from given encoder states (256 tokens), each token the argmax of the one before; the first four steps
are not counted. The products are the same linears in the same order on inputs of the same size, each by the kernel that the
step uses, with nothing between them. Bytes: weights of these linears, and keys and values of the source. A JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import deed
from deed.bench.shapes import build, shape_of
from deed.engine.cache import StaircaseCache
from deed.engine.step import decode_step
from deed.families.parts import direct
from deed.policies.measures import MaxProb
from deed.policies.policy import ThresholdPolicy

SOURCE, WARM = 256, 4
PRECISIONS = {"fp32": (), "fp32, int8 head": ("head",), "int8": ("decoder", "head")}


@torch.inference_mode()
def steps(model: Any, rows: int, count: int) -> list[float]:
    """Milliseconds of each of `count` steps."""
    from transformers.modeling_outputs import BaseModelOutput

    family = model.deed_family
    states = torch.randn(rows, SOURCE, family.d_model(model), generator=torch.Generator().manual_seed(0))
    cache = StaircaseCache(len(family.layers(model)), ThresholdPolicy(MaxProb(), 2.0))
    cache.begin(model, BaseModelOutput(last_hidden_state=states), max_length=count + 2)
    token, found = torch.zeros(rows, 1, dtype=torch.long), []
    for _ in range(count):
        start = time.perf_counter()
        token = decode_step(cache, token).argmax(-1)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def linears(model: Any) -> list[Any]:
    """What multiplies in a step: all of a layer save keys and values of the source, and the head."""
    layers = model.deed_family.layers(model)
    cross = ("EncDecAttention.k", "EncDecAttention.v", "encoder_attn.k_proj", "encoder_attn.v_proj")
    found = [m for name, m in layers.named_modules() if hasattr(m, "out_features") and not name.endswith(cross)]
    return [*found, model.get_output_embeddings()]


@torch.inference_mode()
def products(model: Any, rows: int, count: int) -> list[float]:
    """Milliseconds of all linears of a step, `count` times."""
    made = [(direct(linear), torch.rand(rows, 1, linear.in_features) - 0.5) for linear in linears(model)]
    found = []
    for _ in range(count):
        start = time.perf_counter()
        for run, x in made:
            run(x)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="t5-base,bart-base")
    parser.add_argument("--precisions", default="fp32;int8", help="separated by semicolons: " + "; ".join(PRECISIONS))
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    limits = {
        k: v
        for k, v in os.environ.items()
        if k.startswith(("ATEN_CPU", "ONEDNN_MAX", "MKL_ENABLE", "FBGEMM_EN", "DEED_"))
    }
    report: dict[str, Any] = {
        "kind": "step_products",
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "environment": limits,
        "rows": [],
    }
    print(f"{'':34s} step ms products  ratio  MB read  GB/s")
    for shape in given.shapes.split(","):
        for precision in (p.strip() for p in given.precisions.split(";")):
            _, model = build(shape_of(shape))
            if PRECISIONS[precision]:
                model = deed.quantize(model, parts=PRECISIONS[precision])
            weights = sum(m.out_features * m.in_features * m.weight.dtype.itemsize for m in linears(model))
            layers, width = len(model.deed_family.layers(model)), model.deed_family.d_model(model)
            for rows in map(int, given.rows.split(",")):
                steps(model, rows, WARM)
                step, alone = steps(model, rows, given.steps + WARM)[WARM:], products(model, rows, given.steps)[2:]
                mb = (weights + layers * rows * 2 * SOURCE * width * 4) / 1e6
                row = {
                    "shape": shape,
                    "precision": precision,
                    "batch": rows,
                    "step_ms": statistics.median(step),
                    "products_ms": statistics.median(alone),
                    "step_over_products": statistics.median(step) / statistics.median(alone),
                    "megabytes": mb,
                    "gb_per_s": mb / statistics.median(step),
                }
                report["rows"].append(row)
                name = f"{shape} {precision}, batch {rows}"
                print(
                    f"{name:34s} {row['step_ms']:7.2f} {row['products_ms']:8.2f} {row['step_over_products']:6.2f} "
                    f"{mb:8.0f} {row['gb_per_s']:5.1f}",
                    flush=True,
                )
    if given.output is not None:
        temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        temporary.replace(given.output)


if __name__ == "__main__":
    main()
