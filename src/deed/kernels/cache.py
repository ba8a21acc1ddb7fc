"""Measured times on disk, so that each machine measures a shape once.

One JSON file per processor, its instruction sets and those allowed, PyTorch and the native library, in `~/.cache/deed/kernels`
(or under `XDG_CACHE_HOME`). `DEED_KERNEL_CACHE` is another folder, or "off". A file that cannot be read counts as empty, one
that cannot be written is not written: then the process measures for itself. To measure again, delete the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import atomic_write, user_cache
from deed.utils.timing import RESTRICTIONS, instruction_sets, processor

from . import native

VARIABLE = "DEED_KERNEL_CACHE"


def path() -> Path | None:
    """The file for this machine and these libraries; None: switched off, or there is no home."""
    said = os.environ.get(VARIABLE, "").strip()
    if said.lower() == "off":
        return None
    try:
        folder = Path(said).expanduser() if said else user_cache() / "kernels"
    except RuntimeError:
        return None
    text = json.dumps(fingerprint(), sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def fingerprint() -> dict[str, Any]:
    """What times depend on beside shape, rows, kernels and threads."""
    try:
        library = native.LIBRARY.stat()
        built = [library.st_size, library.st_mtime_ns]
    except OSError:
        built = []
    restricted = {
        k: os.environ[k] for k in (*RESTRICTIONS, native.VARIABLE) if k in os.environ and k != "DEED_KERNELS"
    }
    return {
        "processor": processor(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "has": instruction_sets()["processor_has"],
        "system": platform.machine(),
        "torch": torch.__version__,
        "onednn": torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled),
        "restricted": restricted,
        "native": [native.instruction_set(), *built],
    }


def read() -> dict[str, Any]:
    """What is kept for this machine; empty where there is nothing, or nothing that can be read."""
    file = path()
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file else {}
        return found["entries"] if isinstance(found.get("entries"), dict) else {}
    except (OSError, ValueError, AttributeError, KeyError):
        return {}


def write(key: str, entry: Any) -> None:
    """Keep one more, beside what other processes have written meanwhile.

    Args:
        key: of the entry.
        entry: what JSON can say.
    """
    file = path()
    if file is None:
        return
    with contextlib.suppress(OSError, ValueError, TypeError):
        text = json.dumps({"machine": fingerprint(), "entries": {**read(), key: entry}}, indent=1)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
