"""`fit_gate`: one logistic gate per exit, trained on frozen features (CALM's meta classifier)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from deed.exits.learned import Learned
from deed.utils.progress import SILENT

from .exit_check import set_exit_check
from .exit_features import collect


def fit_gate(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    *,
    positions: int = 20_000,
    batch_size: int = 32,
    weight_decay: float = 1e-3,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train one gate per exit but the last and set the model's exit check to `"gate"`.

    The gates are kept in `model.deed_exits` and saved with it. Thresholds mean something else to a gate than to the head's
    probabilities: run `deed.calibrate` afterwards. No randomness is involved.

    Args:
        model: a deed model.
        dataset: examples as for `deed.calibrate`; those without labels are answered at full depth first.
        positions: tokens to learn from; reading stops there. Memory: positions x exits x d_model floats.
        batch_size: rows at once.
        weight_decay: of the standardized features.
        progress: called with a line per exit.

    Returns:
        `{"positions", "held_out", "exits": [{"depth", "agrees", "auc"}]}`: how often an exit agrees with the last one, and how
        well its gate tells (area under the ROC curve, over every fifth example, which training does not see; None
        where only one outcome occurs).

    Raises:
        ValueError: nothing to learn from.

    Example:
        ```python
        deed.fit_gate(model, held_out)
        deed.calibrate(model, held_out, max_new_tokens=8)  # thresholds have another meaning for a gate
        ```
    """
    depths = model.deed_config.exit_layers[:-1]
    if not depths:
        raise ValueError("fit_gate needs an exit before the last layer; this model has none")
    found = collect(model, dataset, positions, batch_size)
    held_out = found.example % 5 == 4
    say = progress or SILENT.note
    weights, biases, report = [], [], []
    for depth in depths:
        hidden, agrees = found.hidden[depth], found.agrees[depth]
        weight, bias = _logistic(hidden[~held_out], agrees[~held_out], weight_decay)
        auc = area_under_curve(hidden[held_out].double() @ weight + bias, agrees[held_out])
        weights.append(weight)
        biases.append(bias)
        report.append({"depth": depth, "agrees": float(agrees.float().mean()), "auc": auc})
        told = "only one outcome held out" if auc is None else f"AUC {auc:.3f}"
        say(f"exit {depth}: agrees with the last in {report[-1]['agrees']:.3f}, {told}")
    like = found.hidden[depths[0]]
    model.deed_exits["gate"] = Learned(weight=torch.stack(weights).to(like), bias=torch.stack(biases).to(like)).to(
        device=model.device, dtype=model.dtype
    )
    set_exit_check(model.deed_config, "gate")
    return {"positions": len(held_out), "held_out": int(held_out.sum()), "exits": report}


def _logistic(x: torch.Tensor, y: torch.Tensor, weight_decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `[d]` and bias of a logistic regression of `y` (bool) on `x` `[n, d]`, both classes weighing the same."""
    x, y = x.double(), y.double()
    n, positive = len(y), float(y.sum())
    if n == 0 or positive in (0.0, n):  # only one class: the base rate, with Laplace smoothing
        rate = torch.tensor((positive + 1) / (n + 2), dtype=torch.float64, device=x.device)
        return x.new_zeros(x.shape[1]), rate.logit()
    mean, deviation = x.mean(0), x.std(0).clamp(min=1e-6)
    x = (x - mean) / deviation
    importance = torch.where(y > 0, n / (2 * positive), n / (2 * (n - positive))) / n
    weight, bias = x.new_zeros(x.shape[1]).requires_grad_(), x.new_zeros(()).requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y, importance, reduction="sum")
        loss = loss + weight_decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    weight, bias = weight.detach() / deviation, bias.detach()
    return weight, bias - weight @ mean


def area_under_curve(score: torch.Tensor, positive: torch.Tensor) -> float | None:
    """Probability that a positive scores above a negative, ties half; None where either is missing."""
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return None
    _, inverse, counts = score.unique(return_inverse=True, return_counts=True)
    rank = counts.cumsum(0).double() - (counts.double() - 1) / 2  # mean rank of equal scores, from 1
    return float((rank[inverse][positive].sum() - p * (p + 1) / 2) / (p * n))
