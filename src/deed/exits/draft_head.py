"""A draft head: what exits use in place of the model's own head, where a large vocabulary makes that as dear as layers.

Whisper base has a head of 26.6 million products a token and layers of 4: asked at an exit, it costs more than leaving early
saves. With `DeedConfig.draft_head` the logits of every exit but the last *are* those of the draft head, wherever exits have
logits: in `exit_logits`, for confidence, sampling, processors, and as drafts of exact decoding. Nothing about decoding is
approximate by that. The last layer keeps the model's own head, and so do the losses of a training: an exit learns from the
whole vocabulary, and the draft head is fitted to it afterwards (`deed.fit_draft_head`).

Two builds. *Low rank*: rough logits up(down f) + level(f) of the whole vocabulary say which `refine` tokens get their exact
ones, from as many rows of the model's head; the others keep the rough ones, so that probabilities are over all tokens.
*Shortlist*: exact logits of some tokens; all others share a level that is learned ("none of them") and divide it as they do on
average.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deed.errors import DeedConfigError
from deed.families import DecoderFamily
from deed.families.parts import direct
from deed.kernels.int8 import faster_than_float32
from deed.kernels.int8_linear import Int8Linear

from .draft_spec import DraftSpec, parse_draft_head
from .head_rows import copies_of, gathered_logits, head_parts, principal_directions

NAME = "draft_head"  # in `model.deed_exits`
INT8_FROM = 2**18  # weights of a linear, as in `modeling.quantization`
BLOCK = 64  # tokens of which `top_tokens` looks at the best first
HeadParts = tuple[torch.Tensor, torch.Tensor | None, float]  # of `head_parts`
Logits = Callable[[torch.Tensor], torch.Tensor]


class LowRankDraft(nn.Module):
    """Rough logits of low rank, and exact ones for the best tokens.

    Args:
        d_model: width of what the head gets.
        vocab: size of the vocabulary.
        rank: of the rough logits.
        refine: tokens that get exact logits.
    """

    def __init__(self, d_model: int, vocab: int, rank: int, refine: int) -> None:
        super().__init__()
        self.refine = min(refine, vocab)
        self.down = nn.Linear(d_model, rank, bias=False)
        self.up = nn.Linear(rank, vocab)
        self.level = nn.Linear(d_model, 1)  # what the logits of a position have in common

    @torch.no_grad()
    def start(self, head: HeadParts) -> None:
        """Begin as the best approximation of the head's weight where nothing is known of features.

        Args:
            head: weight `[vocab, d_model]`, bias, scale.
        """
        weight, bias, scale = head
        rows = weight.float() * scale
        mean = rows.mean(0)
        down = principal_directions(rows, self.down.out_features)
        self.down.weight.copy_(down)
        self.up.weight.copy_((rows - mean) @ down.T)
        self.up.bias.zero_() if bias is None else self.up.bias.copy_(bias)
        self.level.weight.copy_(mean[None])
        self.level.bias.zero_()

    def rough(self, features: torch.Tensor) -> torch.Tensor:
        """`[n, vocab]` of `[n, d_model]`."""
        return self.up(self.down(features)) + self.level(features)

    def refines(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`[n]` bool: whether tokens `[n]` get their exact logits at features `[n, d_model]`."""
        return (top_tokens(self.rough(features), self.refine) == tokens[:, None]).any(-1)

    def function(self, model: Any, bare: bool) -> Logits:
        """The logits `[n, vocab]` as a function of features `[n, d_model]`.

        Args:
            model: a deed model, whose head gives the exact logits.
            bare: call the linears as bare functions (`families.parts.direct`), for decoding.
        """
        down, up, level = (direct(x) if bare else x for x in (self.down, self.up, self.level))
        weight, bias, scale, _ = head_parts(model)

        def logits(features: torch.Tensor) -> torch.Tensor:
            rough = up(down(features)) + level(features)
            tokens = top_tokens(rough.detach(), self.refine)
            exact = gathered_logits(weight, bias, scale, features, tokens)
            return rough.scatter(1, tokens, exact.to(rough.dtype))

        return logits


class ShortlistDraft(nn.Module):
    """Exact logits of some tokens.

    Args:
        d_model: width of what the head gets.
        vocab: size of the vocabulary.
        size: how many tokens.
    """

    ids: torch.Tensor  # [size] long, ascending
    prior: torch.Tensor  # [vocab]: of a token not on the list, the log of its share of what is left for those

    def __init__(self, d_model: int, vocab: int, size: int) -> None:
        super().__init__()
        self.level = nn.Linear(d_model, 1)  # log of the sum of exp over the tokens that are not on the list
        self.register_buffer("ids", torch.arange(min(size, vocab)))
        self.register_buffer("prior", torch.zeros(vocab))

    @torch.no_grad()
    def start(self, head: HeadParts) -> None:
        """Begin with the others' mean logit, each of them having the same share.

        Args:
            head: weight `[vocab, d_model]`, bias, scale.
        """
        weight, bias, scale = head
        left = torch.tensor(float(max(1, len(weight) - len(self.ids)))).log()
        self.prior.fill_(-left)
        self.level.weight.copy_(weight.float().mean(0)[None] * scale)
        self.level.bias.fill_(left if bias is None else left + bias.mean())

    def refines(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`[n]` bool: whether tokens `[n]` get their exact logits at features `[n, d_model]`."""
        return torch.isin(tokens, self.ids)

    def function(self, model: Any, bare: bool) -> Logits:
        """The logits `[n, vocab]` as a function of features `[n, d_model]`.

        Args:
            model: a deed model, whose head gives the exact logits.
            bare: call the linears as bare functions (`families.parts.direct`), for decoding.
        """
        level, ids, prior = direct(self.level) if bare else self.level, self.ids, self.prior
        weight, bias, scale, _ = head_parts(model)
        sources = [weight, ids] if bias is None else [weight, ids, bias]
        small = (
            "head" in (getattr(model, "deed_quantized", None) or {}).get("parts", ()) and weight.dtype == torch.float32
        )
        own = copies_of(model).get((NAME, scale, small), sources, lambda: _some_rows(weight, bias, scale, ids, small))
        rows = direct(own) if bare else own

        def logits(features: torch.Tensor) -> torch.Tensor:
            rough = level(features) + prior
            return rough.index_copy(1, ids, rows(features).to(rough.dtype))

        return logits


def _some_rows(
    weight: torch.Tensor, bias: torch.Tensor | None, scale: float, ids: torch.Tensor, small: bool
) -> nn.Linear | Int8Linear:
    """The head of some tokens alone; `small`: in int8 where that is faster."""
    made = nn.utils.skip_init(nn.Linear, weight.shape[1], len(ids), bias=bias is not None)
    made.weight = nn.Parameter(weight[ids] * scale, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach()[ids].to(weight.dtype), requires_grad=False)
    product = faster_than_float32(*made.weight.shape) if small and made.weight.numel() >= INT8_FROM else None
    return made.eval() if product is None else Int8Linear(made, product=product)


DraftHead = LowRankDraft | ShortlistDraft


def top_tokens(logits: torch.Tensor, k: int) -> torch.Tensor:
    """`[n, k]` long: the tokens with the largest logits `[n, vocab]`, in no order.

    On a CPU `topk` of a large vocabulary takes as long as half a layer. The best k tokens are in the k blocks with the largest
    maxima, so of these alone they are sought.
    """
    blocks = logits.shape[1] // BLOCK
    if logits.device.type != "cpu" or blocks < 4 * k:
        return logits.topk(k, sorted=False).indices
    whole = blocks * BLOCK
    best = logits[:, :whole].unflatten(1, (blocks, BLOCK)).amax(-1).topk(k, sorted=False).indices  # [n, k]
    cells = (best[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    rest = torch.arange(whole, logits.shape[1]).expand(len(logits), -1)
    cells = torch.cat([cells, rest], 1)
    return cells.gather(1, logits.gather(1, cells).topk(k, sorted=False).indices)


def build_draft_head(spec: DraftSpec, d_model: int, vocab: int) -> DraftHead:
    """The module, not started; nothing of it is trained with the exits.

    Raises:
        DeedConfigError: a rank that is not below `d_model`, or ids that the vocabulary does not have.
    """
    if spec.rank is not None and spec.rank >= d_model:
        raise DeedConfigError(f"draft_head: rank must be below d_model, which is {d_model}, got {spec.rank}")
    listed = isinstance(spec.tokens, tuple)
    if spec.size > vocab or (listed and max(spec.tokens) >= vocab):  # type: ignore[arg-type]
        raise DeedConfigError(f"draft_head: tokens goes beyond the vocabulary, which has {vocab}")
    made: DraftHead
    if spec.rank is not None:
        made = LowRankDraft(d_model, vocab, spec.rank, spec.refine)
    else:
        made = ShortlistDraft(d_model, vocab, spec.size)
        if listed:
            made.ids = torch.tensor(sorted(spec.tokens))  # type: ignore[arg-type]
    return made.requires_grad_(False)


def layers_worth(spec: DraftSpec, d_model: int, vocab: int, layer: int) -> float:
    """What asking the head takes for a token, in decoder layers: products by products.

    Args:
        spec: of the head.
        d_model: width of what it gets.
        vocab: size of the vocabulary.
        layer: products of a layer (`layer_products`).
    """
    if spec.rank is not None:
        return (spec.rank * (d_model + vocab) + spec.refine * d_model) / layer
    return spec.size * d_model / layer


def layer_products(layer: nn.Module) -> int:
    """Products that a decoder layer takes for a token, those of the source's keys and values included: its weights."""
    weights = (getattr(module, "weight", None) for module in layer.modules())
    return sum(w.numel() for w in weights if isinstance(w, torch.Tensor) and w.ndim == 2)


def exit_head_cost(model: Any) -> float:
    """What the head of an exit takes for a token, in decoder layers: the draft head, or without one the model's own."""
    family, spec = model.deed_family, model.deed_config.draft_head
    width, vocab, layer = family.d_model(model), family.vocab_size(model), layer_products(family.layers(model)[-1])
    return width * vocab / layer if spec is None else layers_worth(parse_draft_head(spec), width, vocab, layer)


def new_draft_head(model: Any, family: DecoderFamily, options: dict[str, Any], start: bool = True) -> DraftHead:
    """The draft head that `DeedConfig.draft_head` asks for, for `model`.

    Args:
        model: plain, or with early exit.
        family: its.
        options: `DeedConfig.draft_head`.
        start: set its weights by the model's own head; else whoever calls fills them in.

    Raises:
        DeedConfigError: one that does not fit the model, or costs more than `max_layers`.
    """
    spec, width, vocab = parse_draft_head(options), family.d_model(model), family.vocab_size(model)
    layers: Any = family.layers(model)
    cost = layers_worth(spec, width, vocab, layer_products(layers[-1]))
    if cost > spec.max_layers:
        raise DeedConfigError(
            f"draft_head: it would cost {cost:.2f} decoder layers at every exit, above max_layers = {spec.max_layers:g}: take "
            f"a smaller {'rank' if spec.rank is not None else 'number of tokens'}, or set max_layers"
        )
    try:
        weight, bias, scale = family.head_parts(model)
    except NotImplementedError:
        raise DeedConfigError(
            f"draft_head: the head of {type(model).__name__} has no single weight whose rows could be taken"
        ) from None
    made = build_draft_head(spec, width, vocab)
    if start:
        made.start((weight.detach(), bias, scale))
    reference = next(layers.parameters())
    if not made.level.weight.is_meta:  # as where shapes alone are wanted
        made.to(device=reference.device, dtype=reference.dtype)
    return made.train(model.training)


def draft_logits(model: Any, bare: bool = False) -> Logits | None:
    """The model's draft head as a function from what an exit's head gets, `[…, d_model]`, to logits `[…, vocab]`; None where
    it has none.

    Args:
        model: a deed model.
        bare: see `LowRankDraft.function`.

    Raises:
        DeedConfigError: `deed_config` asks for one that the model has not.
    """
    if model.deed_config.draft_head is None:
        return None
    if NAME not in model.deed_exits:
        raise DeedConfigError(
            "deed_config.draft_head is set, but the model has no draft head: deed.fit_draft_head(model, samples) makes one"
        )
    function = model.deed_exits[NAME].function(model, bare)

    def logits(features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 2:
            return function(features)
        return function(features.flatten(0, -2)).unflatten(0, features.shape[:-1])

    return logits
