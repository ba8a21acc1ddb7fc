"""The Ray cluster that this process works on."""

from __future__ import annotations

import logging
import os
from typing import Any

from deed.utils.optional import need

INSTALL = 'pip install "deed-transformers[ray]"'
OBJECT_STORE = 256 * 1024**2  # bytes: models are loaded by workers from disk, and only texts go through the store


def connect(num_cpus: int | None = None) -> Any:
    """The module `ray`, connected to the cluster that this process belongs to or that `RAY_ADDRESS` names, else to one that is
    started on this machine, without dashboard, and ends with the process.

    Args:
        num_cpus: of a cluster started here; None: those of the machine.

    Raises:
        DataError: Ray is not installed; the message names the extra.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = need("ray", INSTALL)
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        if num_cpus is not None:
            options["num_cpus"] = num_cpus
    ray.init(**options)
    return ray
