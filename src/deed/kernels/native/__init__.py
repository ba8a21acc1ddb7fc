"""The native library: loading it, the structures of its C interface (`abi.h`), and which instruction set it uses.

It is optional. `pip install` builds it where a C++ compiler is (`hatch_build.py`), `python -m deed.kernels.native` by hand;
without it, everything runs by PyTorch's own kernels. It shares PyTorch's OpenMP threads (both ask for `libgomp.so.1`, and the
one that PyTorch brought is loaded first) and takes `torch.get_num_threads()` of them.

`DEED_NATIVE`: "off", or the most that may be used of "scalar", "avx2", "avx_vnni", "avx512". What restricts PyTorch's
kernels restricts these too: `ATEN_CPU_CAPABILITY=avx2` and `ONEDNN_MAX_CPU_ISA=AVX2` (or `AVX2_VNNI`).
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch  # noqa: F401 (its OpenMP library has to be loaded first)

from .build import LIBRARY

VARIABLE = "DEED_NATIVE"
SETS = ("scalar", "avx2", "avx_vnni", "avx512")
INT8, WEIGHT_ONLY, FLOAT32 = range(3)
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
NO_NORM, RMS, LAYER = range(3)
OUTPUT, GATE, RESIDUAL = range(3)


class Weight(ctypes.Structure):
    """See `abi.h`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("out", "in_features")),
        *((name, ctypes.c_void_p) for name in ("data", "scale")),
        ("kind", ctypes.c_int32),
        ("levels", ctypes.c_float),
    )


class Norm(ctypes.Structure):
    """See `abi.h`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        ("kind", ctypes.c_int32),
        ("eps", ctypes.c_float),
    )


class Stage(ctypes.Structure):
    """See `abi.h`."""

    _fields_ = (
        ("weight", ctypes.POINTER(Weight)),
        ("bias", ctypes.c_void_p),
        *((name, Norm) for name in ("before", "after")),
        *((name, ctypes.c_int32) for name in ("role", "activation", "dynamic", "same_input")),
        *((name, ctypes.c_int64) for name in ("column", "stride")),
    )


class Call(ctypes.Structure):
    """See `abi.h`."""

    _fields_ = (
        ("stages", ctypes.POINTER(Stage)),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("x", "hidden", "hidden_out", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "threads")),
    )


class Attention(ctypes.Structure):
    """See `abi.h`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "mask", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "kv_heads", "queries", "keys", "dim")),
        *((f"{of}_{step}", ctypes.c_int64) for of in ("q", "k", "v", "mask") for step in ("row", "head", "each")),
        ("threads", ctypes.c_int64),
        ("scale", ctypes.c_float),
    )


@functools.cache
def load() -> Any:
    """The library, or None where it was not built, does not load, or is of another version of deed."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.deed_abi.restype = ctypes.c_int64
        sizes = [ctypes.sizeof(kind) for kind in (Attention, Call, Stage, Weight)]
        if library.deed_abi() != sizes[0] * 1000000 + sizes[1] * 10000 + sizes[2] * 100 + sizes[3] + 2:
            return None
        library.deed_run.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.deed_attend.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.deed_pack.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        library.deed_pack.restype = None
    except (OSError, AttributeError):
        return None
    return library


@functools.cache
def instruction_set() -> str | None:
    """The best of `SETS` that the processor has and the environment allows; None: the library is not used.

    Raises:
        ValueError: `DEED_NATIVE` says something else.
    """
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said not in ("", "off", *SETS):
        raise ValueError(f"{VARIABLE}={said!r}: use off or the most that may be used of {', '.join(SETS)}")
    library = load()
    if said == "off" or library is None:
        return None
    allowed = min(SETS.index(said) if said else len(SETS) - 1, _allowed_to_torch())
    return next(SETS[i] for i in range(allowed, -1, -1) if library.deed_has(i))


def _allowed_to_torch() -> int:
    aten = {"default": 0, "avx2": 1}.get(os.environ.get("ATEN_CPU_CAPABILITY", "").lower(), 3)
    onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return min(aten, {"SSE41": 0, "AVX": 0, "AVX2": 1, "AVX2_VNNI": 2, "AVX2_VNNI_2": 2}.get(onednn, 3))
