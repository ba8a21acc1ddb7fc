"""`{"name": "gate"}`: a learned gate per exit says how likely its answer is the last layer's, from the layer's output alone.

CALM's meta classifier (Schuster et al. 2022, section 3.5): one linear map and a sigmoid per exit, trained on frozen
features to tell whether the exit's best token is the last exit's, each exit by itself, both outcomes weighing the same.
"""

from __future__ import annotations

from typing import Any

import torch

from deed.errors import DeedConfigError

from ..query import ExitQuery


class Gate:
    """The gates of a model as a confidence measure: the threshold applies to the probability that the gate gives.

    Approximates: the head is not asked before a row leaves, so rows leave where the plain check would not, and the reverse.
    `confidence` and `confidence_over` have no say.

    Raises:
        DeedConfigError: the model has no trained gates, or those of other exits.
    """

    needs_history = False
    equals_plain = False

    def __init__(self, model: Any) -> None:
        if "gate" not in model.deed_exits:
            raise DeedConfigError('exit_check "gate" needs trained gates: run deed.fit_gate(model, dataset) first')
        gates = model.deed_exits["gate"]
        self.weight, self.bias = gates.weight, gates.bias
        self._of_exit: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # [1, d_model] and [1], once an exit is asked
        exits = len(model.deed_config.exit_layers) - 1
        if len(self.weight) != exits:
            raise DeedConfigError(
                f"the trained gates are for {len(self.weight)} exits, the model has {exits} before the last; "
                "run deed.fit_gate(model, dataset) again"
            )

    def __repr__(self) -> str:
        return "Gate"  # what was learned of drafts is kept by the measure's name

    def __call__(self, query: ExitQuery) -> torch.Tensor:
        i = query.exit_index
        gate = self._of_exit.get(i)
        if gate is None:
            gate = self._of_exit[i] = (self.weight[i : i + 1], self.bias[i : i + 1])
        return torch.nn.functional.linear(query.hidden, *gate).flatten().float().sigmoid()
