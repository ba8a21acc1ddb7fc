"""`deed.fit_screen`: the low-rank factors of a screen, fitted to the features that a model's exits really see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from deed.errors import DeedConfigError
from deed.exits.head_rows import head_parts
from deed.exits.heads import exit_features
from deed.exits.learned import Learned
from deed.policies.exit_checks.spec import check_with_draft_head

from .exit_check import set_exit_check
from .exit_features import collect


@torch.no_grad()
def fit_screen(
    model: Any, dataset: Iterable[dict[str, Any]], rank: int, *, positions: int = 20_000, batch_size: int = 32
) -> dict[str, Any]:
    """Fit `{"name": "screen", "rank": rank}` to data and set the model's exit check to it.

    Minimises E |W f - (W up) down f|^2 over features f of all exits before the last: with C = E f f^T, down is made of the
    leading eigenvectors Q of C^1/2 W^T W C^1/2 as Q^T C^-1/2, and up is C^1/2 Q (W about its mean). Smaller ranks than
    the fitted one can be used later. The factors are kept in `model.deed_exits` and saved with it.

    Args:
        model: a deed model.
        dataset: examples as for `deed.calibrate`; labels are not needed.
        rank: width of the copy, below d_model.
        positions: tokens to learn from; reading stops there.
        batch_size: rows at once.

    Returns:
        `{"positions", "rank", "error"}`: the part of the logits' variance (over tokens) that the factors miss.

    Raises:
        DeedConfigError: a rank that is not below d_model, or a model with a draft head.
        ValueError: nothing to learn from.

    Example:
        ```python
        found = deed.fit_screen(model, held_out, rank=8)
        found["error"]  # the share of the logits' variance that the low-rank copy misses
        ```
    """
    if model.deed_config.draft_head is not None:
        check_with_draft_head("screen")
    weight, _, scale, _ = head_parts(model)
    if not isinstance(rank, int) or not 1 <= rank < weight.shape[1]:
        raise DeedConfigError(f"rank must be an integer from 1 to {weight.shape[1] - 1}, got {rank!r}")
    depths = model.deed_config.exit_layers[:-1]
    if not depths:
        raise ValueError("fit_screen needs an exit before the last layer; this model has none")
    found = collect(model, dataset, positions, batch_size)
    cov = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
    for depth in depths:
        for part in found.states[depth].split(4096):
            f = exit_features(model, depth, part.to(weight)).double().cpu()
            cov += f.T @ f
    cov /= len(found.example) * len(depths)
    cov += 1e-4 * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype)
    values, vectors = torch.linalg.eigh(cov)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
    centered = (weight - weight.mean(0)).float() * scale
    gram = root @ (centered.T @ centered).double().cpu() @ root
    spectrum, q = torch.linalg.eigh(gram)
    q = q.flip(-1)[:, :rank]
    model.deed_exits["screen"] = Learned(
        down=(q.T @ inverse).float().contiguous(), up=(root @ q).float().contiguous()
    ).to(model.device)
    set_exit_check(model.deed_config, {"name": "screen", "rank": rank})
    missed = float(spectrum[:-rank].sum() / spectrum.sum())
    return {"positions": len(found.example), "rank": rank, "error": missed}
