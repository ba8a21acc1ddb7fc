"""Muon for the matrices within a model, AdamW for the rest, as one optimizer that Transformers' `Trainer` can use.

Muon (Jordan 2024; `torch.optim.Muon`) makes the singular values of a matrix's step alike, so that what few examples tell of is
learnt as fast as what all do. What it brings the paperwork model: docs/latr.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Both optimizers with one list of parameter groups and one state, so that schedules and checkpoints see a single one.

    Args:
        matrices: parameters of two dimensions that map what a layer takes in to what it gives: no embeddings, no heads.
        others: groups of the other parameters, as `AdamW` takes them.
        lr: peak rate of both where a group has none: Muon's steps are as large as AdamW's (`match_rms_adamw`).
        weight_decay: of the matrices.
        betas: of AdamW.
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        others: list[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts: tuple[Optimizer, ...] = (muon, AdamW(others, lr=lr, betas=betas, weight_decay=0.0, fused=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        self._join()

    def _join(self) -> None:
        # The very groups of both: who changes a rate here changes it there.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of both.

        Args:
            closure: computes the loss anew, with gradients.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """`{"muon": …, "adamw": …}`, each as that optimizer's own."""
        return dict(zip(("muon", "adamw"), (part.state_dict() for part in self.parts), strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set both.

        Args:
            state_dict: as `state_dict()` gave it.

        Raises:
            ValueError: it is another optimizer's.
        """
        if set(state_dict) != {"muon", "adamw"}:
            raise ValueError(
                "this is not the state of Muon and AdamW together: the run was begun with another optimizer"
            )
        for part, state in zip(self.parts, (state_dict["muon"], state_dict["adamw"]), strict=True):
            part.load_state_dict(state)
        self._join()


__all__ = ["MuonWithAdamW"]
