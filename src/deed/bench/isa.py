"""Which instruction sets run: what the libraries say of themselves, and starting over with all of them restricted.

Most libraries read their variables when they are loaded, so a restricted run is a process of its own from the start.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from deed.utils.timing import instruction_sets

RESTRICTED: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "CT2_FORCE_CPU_ISA": "AVX2",
        "OV_CPU_MAX_ISA": "AVX2",
    },
}
# MLAS, which multiplies for ONNX Runtime and float32 matrices for OpenVINO, asks the processor and heeds no variable
# (measured: 256 x 768 x 3072 by OpenVINO, one thread, 222 GFLOPS with and 234 without `OV_CPU_MAX_ISA`).
UNRESTRICTED = ("onnxruntime", "openvino fp32")


def restart_restricted(isa: str) -> None:
    """Start this command again under the variables of `isa`, unless it runs under them already.

    Raises:
        ValueError: an unknown `isa`.
    """
    if isa not in RESTRICTED:
        raise ValueError(f"--isa must be one of {', '.join(RESTRICTED)}, got {isa!r}")
    wanted = RESTRICTED[isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", "deed", *sys.argv[1:]], {**os.environ, **wanted})


def ran(isa: str) -> dict[str, Any]:
    """What a result says of instruction sets: asked for, in the processor, used by PyTorch, and who cannot be restricted.

    Args:
        isa: of `RESTRICTED`.
    """
    import torch

    build = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return {
        "asked": isa,
        **instruction_sets(),
        "torch_build": [line for line in build if "MKL" in line or "Math Kernel" in line or "capability" in line][:3],
        "not_restricted": list(UNRESTRICTED) if RESTRICTED[isa] else [],
    }
