"""A few rows times a large matrix by every kernel of `deed.kernels` that is exact here, those included that are only taken
when `DEED_KERNELS` names them.

    python benchmarks/linear_kernels.py > benchmarks/results/linear_kernels.txt

Per shape `[out, in]` and number of rows: microseconds, the least of interleaved rounds. There are as many matrices as no
cache holds, since in a decoding step weights come from memory.
"""

import json

import torch

from deed.kernels.choosing import ROWS, measure
from deed.kernels.float32 import KERNELS
from deed.kernels.int8 import contract, exact_kernels
from deed.utils.timing import machine, versions

SHAPES = ((512, 512), (2048, 512), (768, 768), (2304, 768), (3072, 768), (768, 3072), (32128, 768))


def main() -> None:
    print(json.dumps({"versions": versions(), "machine": machine()}))
    kernels = (*KERNELS, *(contract(*exact) for exact in exact_kernels()))
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for out, width in SHAPES:
            for name, times in measure(out, width, kernels).items():
                cells = "  ".join(f"{rows} rows {ms * 1e3:7.0f}" for rows, ms in zip(ROWS, times, strict=True))
                print(f"{threads} threads  {out:5} x {width:4}  {name:14}  {cells}", flush=True)


if __name__ == "__main__":
    main()
