"""PP-OCR's networks on OpenVINO, where that is installed; elsewhere ONNX Runtime runs them.

It finds lines three times as fast as ONNX Runtime, whose convolutions of few channels are slow, and reads them in half the
time in bfloat16, where the processor has it. Lines are found in float32: where they lie decides what can be read. What is read
in bfloat16 is held against the truth by `benchmarks/ocr_speed.py`.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

FULL, HALF = "f32", "bf16"  # as OpenVINO names precisions


@functools.cache
def precision() -> str | None:
    """That in which lines are read, `"f32"` or `"bf16"`; None: OpenVINO is not installed, or does not run here."""
    try:
        import openvino

        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except (ImportError, OSError, RuntimeError):
        return None
    return HALF if "BF16" in able else FULL


class Network:
    """A network that any number of threads may call at once.

    Args:
        path: of an ONNX file of one input and one output.
        threads: that it takes in all.
        at_once: calls that run at the same time, each on its share of the threads; others wait.
        kind: `"f32"` or `"bf16"`.

    Raises:
        RuntimeError: OpenVINO cannot read the file.
    """

    def __init__(self, path: str, threads: int, at_once: int = 1, kind: str = FULL) -> None:
        import openvino

        options = {
            "INFERENCE_PRECISION_HINT": kind,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": at_once,
            "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,  # threads of the pool that reads lines would share a CPU
        }
        self.compiled = openvino.Core().compile_model(path, "CPU", options)
        self.own = threading.local()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The output `[1, …]`, float32, for an input `[1, 3, height, width]`, float32."""
        if not hasattr(self.own, "request"):
            self.own.request = self.compiled.create_infer_request()
        request: Any = self.own.request
        # A copy: the request keeps its output's memory for the next call.
        return np.array(request.infer([values])[0])


__all__ = ["FULL", "HALF", "Network", "precision"]
