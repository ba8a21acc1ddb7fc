"""How far a run of `deed tune --recipe` has come, kept so that the same command goes on after any interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from deed.utils.files import atomic_write, read_json, swapped_folder

CHECKPOINT, STATE, WEIGHTS, OPTIMIZER = "checkpoint", "state.json", "weights.safetensors", "optimizer.pt"
BEST, LOG = "best.safetensors", "training_log.jsonl"
PAUSE = 20.0  # seconds that a step may take at least before it counts as interrupted


@dataclass
class State:
    """Attributes:
    step: optimizer steps done.
    epoch, at: which batch comes next.
    seconds: active time of training.
    cpu_seconds: processor time of training and evaluating.
    tokens: trained on.
    evaluated: evaluations done.
    best: the best evaluation.
    """

    step: int = 0
    epoch: int = 0
    at: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    evaluated: int = 0
    best: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Active time: what lies between two ticks, but for pauses (a stopped process, a machine asleep)."""

    def __init__(self) -> None:
        self.then, self.cpu = time.monotonic(), time.process_time()
        self.usual = 0.0

    def tick(self) -> float:
        """Seconds since the last tick; of one that took many times the usual, as long as is usual."""
        now = time.monotonic()
        passed, self.then = now - self.then, now
        if self.usual and passed > max(PAUSE, 20 * self.usual):
            passed = self.usual
        self.usual = passed if not self.usual else 0.9 * self.usual + 0.1 * passed
        return passed

    def skip(self) -> None:
        """What was since the last tick does not count as training."""
        self.then = time.monotonic()

    def cpu_tick(self) -> float:
        """Processor seconds since the last time."""
        now = time.process_time()
        passed, self.cpu = now - self.cpu, now
        return passed


def save(
    output: Path,
    state: State,
    weights: Mapping[str, torch.Tensor],
    average: Mapping[str, torch.Tensor],
    optimizer: Any,
) -> None:
    """Write the checkpoint, whole or not at all.

    Args:
        output: run folder.
        state: how far it is.
        weights: that learn, by name.
        average: their moving average, or nothing.
        optimizer: its state goes along, and that of the random numbers.
    """
    with swapped_folder(output / CHECKPOINT) as folder:
        tensors = {f"now.{k}": v.detach().contiguous().clone() for k, v in weights.items()}
        tensors |= {f"average.{k}": v.contiguous().clone() for k, v in average.items()}
        save_file(tensors, folder / WEIGHTS)
        torch.save({"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}, folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")


def load(output: Path, weights: Mapping[str, torch.Tensor], optimizer: Any) -> tuple[State, dict[str, torch.Tensor]]:
    """Go on from the checkpoint, where there is one: weights and optimizer are set.

    Args:
        output: run folder.
        weights: that learn, by name.
        optimizer: of them.

    Returns:
        How far it was, and the moving average.

    Raises:
        DataError: a damaged state.
        ValueError: tensors that do not fit.
    """
    folder = output / CHECKPOINT
    if not (folder / STATE).is_file():
        return State(), {}
    state = State(**read_json(folder / STATE))
    tensors = load_file(folder / WEIGHTS)
    now = {k[4:]: v for k, v in tensors.items() if k.startswith("now.")}
    put(weights, now, str(folder))
    more = torch.load(folder / OPTIMIZER, weights_only=True)
    optimizer.load_state_dict(more["optimizer"])
    torch.set_rng_state(more["random"])
    return state, {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}


@torch.no_grad()
def put(weights: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], where: str = "") -> None:
    """Copy values into weights.

    Args:
        weights: by name.
        values: likewise.
        where: they are from, for the error.

    Raises:
        ValueError: names or shapes that do not fit.
    """
    if set(weights) != set(values):
        raise ValueError(f"{where} does not fit the model: {sorted(set(weights) ^ set(values))[:4]}")
    for name, weight in weights.items():
        if weight.shape != values[name].shape:
            raise ValueError(f"{where} does not fit the model: {name} is {[*values[name].shape]}")
        weight.copy_(values[name])


def save_best(output: Path, values: Mapping[str, torch.Tensor]) -> None:
    """Write the weights of the best evaluation."""
    with atomic_write(output / BEST) as temporary:
        save_file({k: v.detach().contiguous().clone() for k, v in values.items()}, temporary)


def load_best(output: Path) -> dict[str, torch.Tensor]:
    """The weights of the best evaluation."""
    return load_file(output / BEST)


def log_row(output: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the log."""
    with (output / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def log_of(output: Path, up_to: int | None = None) -> list[dict[str, Any]]:
    """The rows of the log; a half-written one at its end, and rows after step `up_to`, are taken off the file.

    Args:
        output: run folder.
        up_to: the step that the run goes on from; None: the log stays as it is.
    """
    path, rows = output / LOG, []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    if up_to is not None and path.is_file():
        rows = [row for row in rows if row.get("step", 0) <= up_to]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows
