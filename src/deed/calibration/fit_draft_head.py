"""`deed.fit_draft_head`: a draft head for the exits' features as they are, taught by the model's own head.

Low rank: a closed form first, the factors that minimize E |W f - up down f|^2 over the exits' features f, tokens weighted by
how much the model uses them; then some hundred steps on the cross-entropy to the own head's best tokens. Shortlist: the tokens
that the last layer gives most probability; how much goes to the others is a regression on f.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch

from deed.exits.draft_head import NAME, DraftHead, LowRankDraft, ShortlistDraft, exit_head_cost, new_draft_head
from deed.exits.head_rows import head_parts
from deed.exits.heads import exit_features
from deed.modeling.draft_loss import draft_loss, teach
from deed.utils.progress import SILENT

from .exit_features import Found, collect

DEFAULT = {"rank": 32, "refine": 64}
AT_ONCE = 2**24  # logits computed at a time
STEPS, ROWS, RATE = 300, 128, 3e-3
FLOOR = 1e-2  # of a token's weight: what all have in common, beside the share that the model uses it
RIDGE = 1e-4  # of the features' mean variance


def fit_draft_head(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    draft_head: dict[str, Any] | None = None,
    *,
    positions: int = 8000,
    batch_size: int = 32,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit a draft head to the exits of `model` and use it from now on; thresholds have to be calibrated again.

    The head is kept in `model.deed_exits` and saved with it. Run it again when the exits were trained on.

    Args:
        model: a deed model, not quantized.
        dataset: examples as for `deed.calibrate`; labels are not needed. Some hundred are enough.
        draft_head: see `DeedConfig.draft_head`; None: what the model is set to, else rank 32 with 64 refined tokens.
        positions: tokens to learn from; reading stops there. Memory: positions x exits x d_model floats.
        batch_size: rows at once.
        steps: of gradient descent after the closed form (low rank only); 0 leaves it at that.
        seed: of the order in which they see positions.
        progress: called with a line per stage.

    Returns:
        `{"positions", "held_out", "layers", "recall", "start", "kept"}`: what the head costs in decoder layers, and over every
        fifth example, which it has not seen, how often its best token is the own head's (`recall`, at the `start` without
        data), and how often that one is among the tokens with exact logits (`kept`).

    Raises:
        DeedConfigError: a draft head that does not fit the model or its exit check, or costs more than `max_layers`.
        ValueError: nothing to learn from, no exit before the last, or a quantized model.

    Example:
        ```python
        found = deed.fit_draft_head(model, held_out, {"rank": 8, "refine": 8, "max_layers": 1.0})
        found["recall"]  # how often it says what the model's own head says
        ```
    """
    options = _options(model, draft_head)
    new_draft_head(model, model.deed_family, options, start=False)  # refuses before anything is read
    found = collect(model, dataset, positions, batch_size, ask=False)
    return fit_draft_head_to(model, found, options, steps=steps, seed=seed, progress=progress)


def _options(model: Any, draft_head: dict[str, Any] | None) -> dict[str, Any]:
    """What is to be fitted.

    Raises:
        DeedConfigError, ValueError: nothing can be.
    """
    config = model.deed_config
    options = dict(draft_head or config.draft_head or DEFAULT)
    if getattr(model, "deed_quantized", None) is not None:
        raise ValueError("a draft head is fitted before the model is quantized: fit, save, load, quantize")
    if len(config.exit_layers) < 2:
        raise ValueError("fit_draft_head needs an exit before the last layer; this model has none")
    dataclasses.replace(config, draft_head=options)  # refuses what does not go together
    return options


def fit_draft_head_to(
    model: Any,
    found: Found,
    draft_head: dict[str, Any] | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`fit_draft_head` on positions that are known already.

    Args:
        model: a deed model, not quantized.
        found: of it `states`, `example` and `usage` count.
        draft_head, steps, seed, progress: as for `fit_draft_head`.

    Returns:
        As `fit_draft_head`.

    Raises:
        DeedConfigError, ValueError: as `fit_draft_head`.
    """
    options, config = _options(model, draft_head), model.deed_config
    depths = config.exit_layers[:-1]
    head = new_draft_head(model, model.deed_family, options)
    say = progress or SILENT.note
    held = found.example % 5 == 4
    if bool(held.all()) or not bool(held.any()):
        raise ValueError("fit_draft_head needs five examples or more: every fifth is held out")
    weight, _, _, _ = head_parts(model)
    parts = [exit_features(model, depth, found.states[depth].to(weight)) for depth in depths]
    features, tested = (torch.cat([x[at] for x in parts]).detach() for at in (~held, held))
    with torch.no_grad():
        own = torch.cat([_own_logits(model, part).argmax(-1) for part in _pieces(model, tested)])
        start = _recall(model, head, tested, own)
        say(f"{len(features)} features of {len(depths)} exits; at the start {start['recall']:.3f} of the best tokens")
        if isinstance(head, ShortlistDraft):
            _fit_shortlist(model, head, features, found, chosen=isinstance(options["tokens"], int))
        else:
            _closed_form(model, head, features, found.usage)
            _align(model, head, features)
            say(f"closed form: {_recall(model, head, tested, own)['recall']:.3f}")
    if isinstance(head, LowRankDraft) and steps:
        _descend(model, head, features, steps, seed)
        with torch.no_grad():
            _align(model, head, features)
    head.requires_grad_(False)
    with torch.no_grad():
        end = _recall(model, head, tested, own)
    model.deed_exits[NAME] = head
    config.draft_head = options
    say(f"draft head: {end['recall']:.3f} of the best tokens, {end['kept']:.3f} with exact logits")
    return {
        "positions": len(found.example),
        "held_out": int(held.sum()),
        "layers": exit_head_cost(model),
        **end,
        "start": start["recall"],
    }


def _own_logits(model: Any, features: torch.Tensor) -> torch.Tensor:
    """`[n, vocab]` by the model's own head."""
    logits: torch.Tensor = model.deed_family.head(model, features)
    return logits


def _pieces(model: Any, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return features.split(max(1, AT_ONCE // model.deed_family.vocab_size(model)))


def _recall(model: Any, head: DraftHead, features: torch.Tensor, own: torch.Tensor) -> dict[str, float]:
    """How often the head says what the model's own head says, `own` `[n]`, and has that token's exact logit."""
    function, same, kept, at = head.function(model, bare=False), 0, 0, 0
    for part in _pieces(model, features):
        best = own[at : at + len(part)]
        same += int((function(part).argmax(-1) == best).sum())
        kept += int(head.refines(part, best).sum())
        at += len(part)
    return {"recall": same / len(own), "kept": kept / len(own)}


def _closed_form(model: Any, head: LowRankDraft, features: torch.Tensor, usage: torch.Tensor) -> None:
    """The factors for features about their mean, rows of the head about theirs; tokens weigh what the model uses them."""
    weight, bias, scale, _ = head_parts(model)
    rows = weight.float() * scale
    f = features.double()
    mean = f.mean(0)
    cov = (f - mean).T @ (f - mean) / len(f)
    cov += RIDGE * cov.diagonal().mean() * torch.eye(len(cov), dtype=cov.dtype)
    share = (usage / usage.sum()).to(rows) + FLOOR / len(usage)
    share /= share.sum()
    average = share @ rows  # what all tokens have in common goes into the level
    values, vectors = torch.linalg.eigh(cov)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
    centered = (rows - average) * share.sqrt()[:, None]
    gram = root @ (centered.T @ centered).double().to(root) @ root
    q = torch.linalg.eigh(gram).eigenvectors.flip(-1)[:, : head.down.out_features]
    down, up = q.T @ inverse, root @ q
    head.down.weight.copy_(down)
    head.up.weight.copy_((rows - average) @ up.to(rows))
    offset = (rows - average) @ mean.to(rows) - head.up.weight.float() @ (down @ mean).to(rows)
    head.up.bias.copy_(offset if bias is None else offset + bias)
    head.level.weight.copy_(average[None])
    head.level.bias.zero_()


def _align(model: Any, head: LowRankDraft, features: torch.Tensor) -> None:
    """Set the level so that rough and exact logits have the same sum of exp on average: a ridge regression."""
    gaps = []
    for part in _pieces(model, features):
        rough = head.up(head.down(part)).float()
        gaps.append(_own_logits(model, part).float().logsumexp(-1) - rough.logsumexp(-1))
    weight, bias = _regression(features, torch.cat(gaps))
    head.level.weight.copy_(weight[None])
    head.level.bias.copy_(bias)


def _regression(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `[d]` and bias of the ridge regression of `y` `[n]` on `x` `[n, d]`."""
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(0), y.mean()
    x = x - mean_x
    cov = x.T @ x / len(x)
    cov += 10 * RIDGE * cov.diagonal().mean().clamp(min=1e-12) * torch.eye(len(cov), dtype=cov.dtype, device=x.device)
    weight = torch.linalg.solve(cov, x.T @ (y - mean_y) / len(x))
    return weight, mean_y - weight @ mean_x


def _descend(model: Any, head: LowRankDraft, features: torch.Tensor, steps: int, seed: int) -> None:
    """Adam with a falling rate on the cross-entropy to the own head's best tokens, in float32."""
    work = LowRankDraft(features.shape[1], head.up.out_features, head.down.out_features, head.refine).to(
        features.device
    )
    work.load_state_dict(head.state_dict())
    work.level.requires_grad_(False)  # softmax does not see it
    order = torch.Generator().manual_seed(seed)
    trained = [p for p in work.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            at = torch.randint(len(features), (min(ROWS, len(features)),), generator=order)
            some = features[at.to(features.device)]
            with torch.no_grad():
                tokens, probabilities = teach(_own_logits(model, some))
            optimizer.zero_grad()
            draft_loss(work, some.float(), tokens, probabilities, generator=order).backward()
            optimizer.step()
            schedule.step()
    head.load_state_dict(work.state_dict())


def _fit_shortlist(model: Any, head: ShortlistDraft, features: torch.Tensor, found: Found, chosen: bool) -> None:
    """The tokens used most (unless they were `chosen` by ids), and what the others have together."""
    usage = found.usage.double() + 1e-9 * found.usage.sum() / len(found.usage)
    if chosen:
        head.ids.copy_(usage.topk(len(head.ids)).indices.sort().values)
    left = torch.ones(len(usage), dtype=torch.bool)
    left[head.ids.cpu()] = False
    head.prior.zero_()
    if not bool(left.any()):
        return
    head.prior[left] = (usage / usage[left].sum()).log()[left].to(head.prior)
    sums = []
    for part in _pieces(model, features):
        logits = _own_logits(model, part).float()
        sums.append(logits.masked_fill(~left.to(logits.device), -torch.inf).logsumexp(-1))
    weight, bias = _regression(features, torch.cat(sums))
    head.level.weight.copy_(weight[None])
    head.level.bias.copy_(bias)
