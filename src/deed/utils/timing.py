"""Clocks and what a measurement has to say of the machine it ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

Inputs = Mapping[str, torch.Tensor]
Run = TypeVar("Run")  # whatever answering one input gives


def interleave(
    answers: Mapping[str, Callable[[Inputs], Run]],
    inputs: Sequence[Inputs],
    warmup: int = 1,
    tick: Callable[[int], None] | None = None,
) -> dict[str, list[Run]]:
    """Runs per subject, in the order of `inputs`. Input i is answered by subject i first, then by the next ones.

    Args:
        answers: per subject a function that answers an input and returns what it measured.
        inputs: what is answered; each subject answers all.
        warmup: how many of them every subject answers first, unmeasured.
        tick: called with 1 after each answer (a `Bar`'s `advance`).

    Raises:
        ValueError: no inputs.
    """
    if not inputs:
        raise ValueError("there are no inputs to measure on")
    names = list(answers)
    for values in inputs[:warmup]:
        for name in names:
            answers[name](values)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for i, values in enumerate(inputs):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(answers[name](values))
            if tick is not None:
                tick(1)
    return runs


class EncoderClock:
    """Time spent in a model's encoder since the last `take()`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent, self.started = device, 0.0, 0.0

    def start(self, *_: Any) -> None:
        """Before the encoder runs."""
        self.started = now(self.device)

    def stop(self, *_: Any) -> None:
        """After it has run."""
        self.spent += now(self.device) - self.started

    def take(self) -> float:
        """Seconds so far; starts over."""
        spent, self.spent = self.spent, 0.0
        return spent


@contextmanager
def timed_encoder(model: Any) -> Iterator[EncoderClock]:
    """Hooks around the encoder's forward for as long as the context lasts."""
    clock, encoder = EncoderClock(model.device), model.get_encoder()
    hooks = [encoder.register_forward_pre_hook(clock.start), encoder.register_forward_hook(clock.stop)]
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


def now(device: torch.device) -> float:
    """`time.perf_counter()` once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "p25": values[0], "p75": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "p25": low, "p75": high}


# Of /proc/cpuinfo, what decides which products a library has a fast path for.
INSTRUCTION_FLAGS = (
    *(
        "avx2",
        "fma",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
    ),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
# What keeps a library from using all of them: ATen, oneDNN, MKL, FBGEMM (which heeds none of the others), deed, CTranslate2,
# OpenVINO.
RESTRICTIONS = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"),
    *("FBGEMM_ENABLE_INSTRUCTIONS", "FBGEMM_FORCE_AUTOVEC", "FBGEMM_NO_ASMJIT", "DEED_KERNELS", "DEED_NATIVE"),
    *("CT2_FORCE_CPU_ISA", "OV_CPU_MAX_ISA"),
)


def instruction_sets() -> dict[str, Any]:
    """What the processor has that matters for products, what PyTorch's own loops use of it, and the environment variables
    that keep a library from using it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = []
    return {
        "processor_has": [flag for flag in INSTRUCTION_FLAGS if flag in flags],
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "restricted_by": {name: os.environ[name] for name in RESTRICTIONS if name in os.environ},
    }


def processor() -> str:
    """Its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the times were taken on: processor, processors usable, torch's threads, instruction sets, load before the run."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    values: dict[str, Any] = {
        "processor": processor(),
        "usable_cpus": usable,
        "torch_threads": torch.get_num_threads(),
    }
    if hasattr(os, "getloadavg"):
        values["load_average_before"] = round(os.getloadavg()[0], 2)
    return {**values, "system": platform.platform(), "instruction_sets": instruction_sets()}


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of distributions, or that they are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions() -> dict[str, str]:
    """Of what ran."""
    import transformers

    from deed.constants import __version__

    return {
        "deed": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def command_line() -> str:
    """The command that this process was started by, such that it can be run again: of `python -m deed` and of a script, too,
    which `sys.argv` alone names by a file."""
    name, spec = Path(sys.argv[0]), getattr(sys.modules.get("__main__"), "__spec__", None)
    if name.name == "__main__.py":
        module = spec.parent if spec is not None and spec.parent else name.parent.name
        start = ["python", "-m", module]
    elif name.suffix == ".py":
        start = ["python", os.path.relpath(name) if name.is_absolute() else str(name)]
    else:
        start = [name.name]
    return shlex.join([*start, *sys.argv[1:]])
