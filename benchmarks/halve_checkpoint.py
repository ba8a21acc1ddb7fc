"""A saved model's folder with its weights in float16, half as large to ship; config.json still says float32, so that it
is loaded as float32.

    python benchmarks/halve_checkpoint.py runs/scenes_deed/model src/deed/checkpoints/ofa
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def halve(source: Path, target: Path) -> None:
    """Copy `source` to `target` (replaced), floating-point tensors of its safetensors files as float16.

    Raises:
        ValueError: a value that float16 cannot hold.
    """
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(
        source, temporary, ignore=shutil.ignore_patterns("optimizer*", "scheduler*", "rng_state*", "*.bin")
    )
    for path in temporary.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, value in tensors.items():
            if value.is_floating_point():
                tensors[name] = value.to(torch.float16)
                if not torch.isfinite(tensors[name]).all():
                    raise ValueError(f"{name} in {source / path.name} is beyond float16")
        save_file(tensors, path, metadata)
        path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)


if __name__ == "__main__":
    halve(Path(sys.argv[1]), Path(sys.argv[2]))
