"""A few rows times a large float32 matrix: PyTorch's `linear` beside oneDNN's, which `families/parts.py` chooses by size.

    python benchmarks/linear_kernels.py > benchmarks/results/linear_kernels.txt

Per shape `[out, in]` and number of rows: microseconds of either and their ratio, medians of nine rounds. There are as many
matrices as no cache holds, since in a decoding step weights come from memory.
"""

import statistics
import time
from functools import partial

import torch
from torch.nn.functional import linear

SHAPES = (
    (128, 128),
    (512, 128),
    (256, 256),
    (512, 512),
    (2048, 512),
    (768, 768),
    (3072, 768),
    (768, 3072),
    (32128, 768),
)
BYTES = 230e6


def median_us(run, calls: int) -> float:
    """Microseconds of one of `calls` calls that `run()` makes."""
    run()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / calls * 1e6


def plain(weights: list[torch.Tensor], x: torch.Tensor) -> None:
    for weight in weights:
        linear(x, weight)


def onednn(weights: list[torch.Tensor], x: torch.Tensor) -> None:
    for weight in weights:
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@torch.inference_mode()
def main() -> None:
    print(f"torch {torch.__version__}; linear / oneDNN in us = ratio")
    for threads in (2, 1):
        torch.set_num_threads(threads)
        for out, width in SHAPES:
            weights = [torch.randn(out, width) for _ in range(max(3, min(96, int(BYTES / (out * width * 4)))))]
            cells = []
            for rows in (1, 2, 8, 32, 256):
                x = torch.randn(1, rows, width)
                a, b = (median_us(partial(product, weights, x), len(weights)) for product in (plain, onednn))
                cells.append(f"{rows} rows {a:.0f}/{b:.0f}={a / b:.2f}")
            print(f"{threads} threads, {out} x {width}:", ", ".join(cells), flush=True)


if __name__ == "__main__":
    main()
