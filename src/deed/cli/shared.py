"""What verbs that answer have in common: which model folder, which threshold, is the machine free."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from deed.utils.saved_model import read_saved_model


def find_model(folder: Path | None, shipped: Path) -> Path:
    """The folder given, or that of the shipped checkpoint.

    Raises:
        ValueError: there is no such folder, or no model in it.
    """
    if folder is None:
        if not shipped.is_dir():
            raise ValueError(
                f"the shipped checkpoint {shipped} is missing; pass --model FOLDER (`deed train` makes one)"
            )
        return shipped
    return read_saved_model(folder).folder


def whisper_or_folder(named: Path) -> Path:
    """A model's folder as it was given; of a name that installed packages hold a Whisper by (base, tiny.en), that one's.

    Args:
        named: a folder, or such a name.

    Raises:
        DeedLoadError: a name whose packages are not there.
    """
    from deed.errors import DeedLoadError
    from deed.models.whisper.installed import PACKAGES, find_whisper, install_hint
    from deed.utils.files import user_cache

    name = str(named)
    if named.is_dir() or name not in PACKAGES:
        return named
    place = Path(find_whisper(name, user_cache()))
    if not place.is_dir():
        raise DeedLoadError(f"{name} is no folder, and the packages of that Whisper are missing: {install_hint(name)}")
    return place


def check_threshold(given: float | None) -> None:
    """Raises:
    ValueError: not a number, or negative.
    """
    if given is not None and not (math.isfinite(given) and given >= 0):
        raise ValueError(f"--threshold must be a number of at least 0 (above 1: never leave early), got {given}")


def check_abstain_below(given: float | None) -> None:
    """Raises:
    ValueError: not a number, or negative.
    """
    if given is not None and not (math.isfinite(given) and given >= 0):
        raise ValueError(f"--abstain-below must be a number of at least 0 (above 1: never sure), got {given}")


def check_output(folder: Path) -> None:
    """Raises:
    ValueError: `folder` cannot be made or written.
    """
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"--output {folder} cannot be written: {nearest} is not a folder that you may write to")


def pick_threshold(config: Any, given: float | None, folder: Path) -> tuple[Any, str, str | None]:
    """The threshold, where it is from (`"given"`, `"calibrated"`, `"model"`), and what the reader should know of it.

    Args:
        config: the model's `deed_config`.
        given: by the user; None: the model's own.
        folder: of the model, for the note.
    """
    if given is not None:
        return given, "given", None
    value = config.threshold
    calibrated = config.calibration is not None and config.calibration.get("threshold") == value
    note = None
    if min(value if isinstance(value, (list, tuple)) else [value]) > 1:
        why = "calibration found no threshold that keeps its promise" if calibrated else "this model is not calibrated"
        note = (
            f"Nothing leaves early: {why} (threshold {value}). Run `deed calibrate {folder}` or pass --threshold 0.95."
        )
    return value, "calibrated" if calibrated else "model", note


def busy_note(machine: dict[str, Any]) -> str | None:
    """A warning where other programs had the processors: waiting for one can take longer than the work itself."""
    load, cpus = machine.get("load_average_before"), machine["usable_cpus"]
    if load is None or cpus is None or load < 0.9 * cpus:
        return None
    return f"The machine was busy (load {load:g} on {cpus} processors): trust medians more than sums, neither much."


def quiet_libraries() -> None:
    """No bars of Transformers for reading weights: the verbs have bars of their own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def counted(examples: Iterable[Any], tick: Callable[[int], Any]) -> Iterator[Any]:
    """The same, while `tick` is told how many there were so far."""
    for i, example in enumerate(examples, 1):
        tick(i)
        yield example
