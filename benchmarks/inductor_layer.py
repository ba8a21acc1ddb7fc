"""A decoder layer compiled by Inductor, without guards, beside deed's layer: probe for issue 18, not used by the package.

    python benchmarks/inductor_layer.py [--seconds 4]

One layer with weights of its own (T5-base's width, and the shipped g2p's), one new position, attention to 16 earlier ones and
to a source of 256. "python": the layer's parts as PyTorch calls (`families/parts.py` without chains); "native": the same with
the native library's chains; "compiled": the parts under `torch.compile` (static shapes), its guards skipped by
`torch.compiler.set_stance(skip_guard_eval_unsafe=True)`; "compiled, guards": as it comes. All in float32. int8 cannot be
compiled: the native library is called by address, and Inductor has no int8 product of rounded activations with row scales for
this processor that is exact. Eight layers run one after the other, as in a step. Writes
results/inductor_layer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deed.families.parts import after, before, between
from deed.families.t5 import T5Family
from deed.utils.timing import machine, versions

OUTPUT = Path(__file__).parent / "results" / "inductor_layer.json"
WIDTHS = {
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12},
    "g2p": {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_heads": 4},
}
LAYERS, EARLIER, SOURCE = 8, 16, 256
Layer = Callable[..., torch.Tensor]


def run(parts: Any, x: torch.Tensor, keys: Any, values: Any, cross_keys: Any, cross_values: Any) -> torch.Tensor:
    """A layer: new keys and values are written to the last place of `keys` and `values`."""
    attend = nn.functional.scaled_dot_product_attention
    q, k, v = before(parts, x)
    keys[:, :, -1:].copy_(k)
    values[:, :, -1:].copy_(v)
    x, q = between(parts, x, attend(q, keys, values, scale=parts.self_attn.scale))
    return after(parts, x, attend(q, cross_keys, cross_values, scale=parts.cross.scale))


def ways_of(sizes: dict[str, int]) -> dict[str, list[Layer]]:
    """Each way as one function per layer."""
    import transformers as hf

    config = hf.T5Config(**sizes, num_layers=1, num_decoder_layers=LAYERS, vocab_size=100)
    model = hf.T5ForConditionalGeneration(config).eval()
    native = T5Family().parts(model)
    assert native is not None
    python = [replace(parts, chains=None) for parts in native]

    def layer(parts: Any) -> Layer:
        return lambda *given: run(parts, *given)

    def compiled(block: Any) -> Layer:
        class Whole(nn.Module):  # the model's own modules, which Inductor can look into
            def __init__(self) -> None:
                super().__init__()
                self.block = block

            def forward(self, x: Any, keys: Any, values: Any, cross_keys: Any, cross_values: Any) -> torch.Tensor:
                own, cross, ffn = self.block.layer
                attend = nn.functional.scaled_dot_product_attention
                a, b, d = own.SelfAttention, cross.EncDecAttention, ffn.DenseReluDense

                def norm(module: Any, x: torch.Tensor) -> torch.Tensor:
                    return nn.functional.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)

                def heads(x: torch.Tensor) -> torch.Tensor:
                    return x.view(x.shape[0], 1, -1, a.key_value_proj_dim).transpose(1, 2)

                def merged(x: torch.Tensor) -> torch.Tensor:
                    return x.transpose(1, 2).reshape(x.shape[0], 1, -1)

                h = norm(own.layer_norm, x)
                keys[:, :, -1:].copy_(heads(a.k(h)))
                values[:, :, -1:].copy_(heads(a.v(h)))
                x = x + a.o(merged(attend(heads(a.q(h)), keys, values, scale=1.0)))
                q = heads(b.q(norm(cross.layer_norm, x)))
                x = x + b.o(merged(attend(q, cross_keys, cross_values, scale=1.0)))
                return x + d.wo(torch.relu(d.wi(norm(ffn.layer_norm, x))))

        return torch.compile(Whole().eval(), dynamic=False, fullgraph=True)

    return {
        "python": [layer(parts) for parts in python],
        "native": [layer(parts) for parts in native],
        "compiled": [compiled(block) for block in model.decoder.block],
    }


@torch.inference_mode()
def measured(name: str, rows: int, ways: dict[str, list[Layer]], seconds: float) -> dict[str, Any]:
    """Microseconds per layer."""
    sizes = WIDTHS[name]
    heads, width = sizes["num_heads"], sizes["d_kv"]
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = some(rows, 1, sizes["d_model"])
    given = [tuple(some(rows, heads, n, width) for n in (EARLIER, EARLIER, SOURCE, SOURCE)) for _ in range(LAYERS)]

    def once(way: str) -> float:
        start = time.perf_counter()
        for function, kept in zip(ways[way], given, strict=True):
            function(x, *kept)
        return (time.perf_counter() - start) / LAYERS * 1e6

    wanted = ways["python"][0](x, *given[0])
    for way in ways:
        assert torch.allclose(ways[way][0](x, *given[0]), wanted, rtol=1e-4, atol=1e-4)
        once(way)
    taken: dict[str, list[float]] = {way: [] for way in (*ways, "compiled, guards")}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for way in ways:
            with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
                taken[way].append(once(way))
        taken["compiled, guards"].append(once("compiled"))
    native = taken["native"]
    return {
        way: {
            "median_us": statistics.median(t),
            "least_us": min(t),
            "over_native": statistics.median(a / b for a, b in zip(t, native, strict=True)),
        }
        for way, t in taken.items()
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="per width and batch")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    found = []
    for name, sizes in WIDTHS.items():
        for rows in (1, 8):
            torch.compiler.reset()
            start = time.perf_counter()
            ways = ways_of(sizes)
            row = {"width": name, "batch": rows, "us_per_layer": measured(name, rows, ways, given.seconds)}
            row["seconds_with_compiling"] = time.perf_counter() - start
            found.append(row)
            print(json.dumps(row), flush=True)
    report = {
        "kind": "inductor_layer",
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "settings": {"layers": LAYERS, "earlier": EARLIER, "source": SOURCE, "threads": torch.get_num_threads()},
        "rows": found,
    }
    temporary = given.output.with_name(f"{given.output.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    temporary.replace(given.output)


if __name__ == "__main__":
    main()
