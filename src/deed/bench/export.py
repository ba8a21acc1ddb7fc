"""A plain model as two graphs that other runtimes can run: the encoder with all cross-attention keys and values, and one
decoder step with the keys and values so far. Exits are no part of them.

Only the field's plain operations, no Python objects between them, so that tracing sees everything. The weights are the
model's own modules. Keys and values are `[rows, heads, positions, head width]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .shapes import NotAvailable, Workload

MOST_POSITIONS = 512  # of an answer


class EncoderGraph(nn.Module):
    """`(*inputs)` to keys and values of every decoder layer's cross-attention: `k_0, v_0, k_1, …`.

    Args:
        model: the plain model.
        names: of the encoder's inputs, in the order in which they are given.
        step: of the same model.
    """

    def __init__(self, model: Any, names: list[str], step: StepGraph) -> None:
        super().__init__()
        self.encoder, self.names = model.get_encoder(), names
        self.projections = nn.ModuleList(p for layer in step.layers for p in step.cross_projections(layer))
        self.heads = step.heads

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[rows, heads, source, width]` each, keys and values of a layer one after the other."""
        states = self.encoder(**dict(zip(self.names, inputs, strict=True)))[0]
        return tuple(split(projection(states), self.heads) for projection in self.projections)


class StepGraph(nn.Module):
    """`(ids [rows, 1], mask [rows, 1, 1, source], cross keys and values, self keys and values so far)` to the most probable
    next ids `[rows, 1]` and the self keys and values with this position. The mask is added to scores."""

    layers: Any
    heads: int

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The next ids `[rows, 1]`, then self keys and values.

        Args:
            ids: `[rows, 1]`.
            mask: `[rows, 1, 1, source]`, added to the scores of cross-attention.
            states: cross keys and values of all layers, then as many self ones so far.
        """
        half = len(states) // 2
        cross, past = states[:half], states[half:]
        position = past[0].shape[2]
        hidden, bias = self.embed(ids, position)
        kept: list[torch.Tensor] = []
        for i, layer in enumerate(self.layers):
            here, before = cross[2 * i : 2 * i + 2], past[2 * i : 2 * i + 2]
            hidden = self.layer(layer, hidden, bias, mask, here, before, kept)
        return self.logits(hidden).argmax(-1), *kept

    def cross_projections(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        """The modules that make a layer's cross-attention keys and values."""
        raise NotImplementedError

    def embed(self, ids: torch.Tensor, position: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[rows, 1, d_model]`, and what is added to self-attention's scores."""
        raise NotImplementedError

    def layer(
        self,
        layer: Any,
        hidden: torch.Tensor,
        bias: torch.Tensor | None,
        mask: torch.Tensor,
        cross: tuple[torch.Tensor, ...],
        past: tuple[torch.Tensor, ...],
        kept: list[torch.Tensor],
    ) -> torch.Tensor:
        """One layer.

        Args:
            hidden, bias, mask: as above.
            cross, past: its keys and values.
            kept: gets its self keys and values with this position.
        """
        raise NotImplementedError

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head."""
        raise NotImplementedError


class T5Step(StepGraph):
    """T5's, and LaTr++'s."""

    bias: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head, self.config = model.decoder, model.lm_head, model.config
        self.layers, self.heads = model.decoder.block, model.config.num_heads
        bias = (
            self.layers[0].layer[0].SelfAttention.compute_bias(1, MOST_POSITIONS, past_seen_tokens=MOST_POSITIONS - 1)
        )
        self.register_buffer("bias", bias.detach())  # the last one is that of no distance

    def cross_projections(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        """Keys and values of the encoder."""
        attention = layer.layer[1].EncDecAttention
        return attention.k, attention.v

    def embed(self, ids: torch.Tensor, position: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in `StepGraph`."""
        return self.decoder.embed_tokens(ids), self.bias[..., MOST_POSITIONS - 1 - position :]

    def layer(self, layer: Any, hidden: Any, bias: Any, mask: Any, cross: Any, past: Any, kept: Any) -> torch.Tensor:
        """One layer.

        Args:
            layer: the module.
            hidden, bias, mask, cross, past, kept: as in `StepGraph.layer`.
        """
        own, other, feed = layer.layer
        attention = own.SelfAttention
        normed = own.layer_norm(hidden)
        query, key, value = (split(m(normed), self.heads) for m in (attention.q, attention.k, attention.v))
        kept += [torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)]
        hidden = hidden + attention.o(attend(query, kept[-2], kept[-1], bias, 1.0))
        attention = other.EncDecAttention
        query = split(attention.q(other.layer_norm(hidden)), self.heads)
        hidden = hidden + attention.o(attend(query, cross[0], cross[1], mask, 1.0))
        return hidden + feed.DenseReluDense(feed.layer_norm(hidden))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, 1, vocab]`."""
        hidden = self.decoder.final_layer_norm(hidden)
        if self.config.scale_decoder_outputs:
            hidden = hidden * self.config.d_model**-0.5
        return self.head(hidden)


class BartStep(StepGraph):
    """BART's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.decoder, model.lm_head
        self.register_buffer("head_bias", model.final_logits_bias.detach())
        self.layers, self.heads = self.decoder.layers, model.config.decoder_attention_heads
        self.scale = (model.config.d_model // self.heads) ** -0.5

    def cross_projections(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        """Keys and values of the encoder."""
        return layer.encoder_attn.k_proj, layer.encoder_attn.v_proj

    def embed(self, ids: torch.Tensor, position: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in `StepGraph`."""
        table = self.decoder.embed_positions
        at = torch.zeros_like(ids[:1]) + position + table.offset
        hidden = self.decoder.embed_tokens(ids) + nn.functional.embedding(at, table.weight)
        return self.decoder.layernorm_embedding(hidden), None

    def layer(self, layer: Any, hidden: Any, bias: Any, mask: Any, cross: Any, past: Any, kept: Any) -> torch.Tensor:
        """One layer.

        Args:
            layer: the module.
            hidden, bias, mask, cross, past, kept: as in `StepGraph.layer`.
        """
        own, other = layer.self_attn, layer.encoder_attn
        query, key, value = (split(m(hidden), self.heads) for m in (own.q_proj, own.k_proj, own.v_proj))
        kept += [torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)]
        given = own.out_proj(attend(query, kept[-2], kept[-1], bias, self.scale))
        hidden = layer.self_attn_layer_norm(hidden + given)
        given = other.out_proj(attend(split(other.q_proj(hidden), self.heads), cross[0], cross[1], mask, self.scale))
        hidden = layer.encoder_attn_layer_norm(hidden + given)
        return layer.final_layer_norm(hidden + layer.fc2(layer.activation_fn(layer.fc1(hidden))))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, 1, vocab]`."""
        return self.head(hidden) + self.head_bias


def split(states: torch.Tensor, heads: int) -> torch.Tensor:
    """`[rows, positions, d]` to `[rows, heads, positions, d / heads]`."""
    return states.unflatten(-1, (heads, states.shape[-1] // heads)).transpose(1, 2)


def attend(query: Any, key: Any, value: Any, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    """`[rows, 1, d]`: attention of one position.

    Args:
        query, key, value: by heads.
        bias: added to scores, or None.
        scale: of the scores.
    """
    found = nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=scale)
    return found.transpose(1, 2).flatten(2)


def graphs(workload: Workload) -> tuple[EncoderGraph, StepGraph]:
    """Both graphs of a workload's plain model.

    Raises:
        NotAvailable: a model that is neither T5's kind nor BART's, or one with exits, which the graphs would leave out.
    """
    from transformers import BartForConditionalGeneration, T5ForConditionalGeneration

    base = workload.base
    if hasattr(base, "deed_config"):
        adapter = base.deed_config.adapter
        raise NotAvailable(
            f"the graphs are a plain model's, of all layers: exits (here with adapter={adapter!r}) cannot be exported; "
            "take deed.unwrap(model)"
        )
    kinds = {T5ForConditionalGeneration: T5Step, BartForConditionalGeneration: BartStep}
    made = next((kind(base) for known, kind in kinds.items() if isinstance(base, known)), None)
    if made is None:
        raise NotAvailable(f"no export of {type(base).__name__} is written here")
    return EncoderGraph(base, list(workload.inputs), made).eval(), made.eval()


def example(workload: Workload, encoder: EncoderGraph) -> tuple[torch.Tensor, ...]:
    """Inputs of a step after the first two, to trace with; the states are the encoder's own."""
    with torch.no_grad():
        cross = encoder(*workload.inputs.values())
    rows, heads, _, width = cross[0].shape
    past = [torch.zeros(rows, heads, 2, width) for _ in cross]
    return first_ids(workload), source_mask(workload), *cross, *past


def first_ids(workload: Workload) -> torch.Tensor:
    """`[rows, 1]`: what answers begin with."""
    return torch.full((workload.rows, 1), int(workload.base.generation_config.decoder_start_token_id))


def source_mask(workload: Workload) -> torch.Tensor:
    """`[rows, 1, 1, source]`: 0 where there is something to read, very small where not."""
    return (1.0 - workload.mask[:, None, None].float()) * torch.finfo(torch.float32).min


def state_names(count: int) -> tuple[list[str], list[str], list[str]]:
    """Names of `count` states each: cross, so far, with the position."""
    return tuple([f"{kind}_{i}" for i in range(count)] for kind in ("cross", "past", "present"))  # type: ignore[return-value]
