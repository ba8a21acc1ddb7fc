"""BERT and RoBERTa as decoders, inside composite models (`composite.py`): post-norm layers under names of their own.

Read in transformers 5.23, models/{bert,bert_generation,roberta,camembert,xlm_roberta}/modeling_*.py. The head of all but
BertGeneration transforms the features (dense, activation, norm) before it projects them; that transformation stands before
every exit's adaptation module, where other decoders have their final norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from .base import DecoderFamily, by_starts
from .encoders.layer import EncoderLayer, encoder_layer, feed_forward
from .parts import AttentionParts, LayerParts, Module, direct, direct_norm, joined, plain


@dataclass(frozen=True)
class BertBuild:
    """Where the parts of a decoder of BERT's build are.

    Attributes:
        at: path of the decoder in the causal language model.
        head_at: path of the module that projects features to logits.
        transform: paths of what the head does before, in their order: modules, or `gelu` for the function.
        counts_tokens: positions are made from the token ids, among which padding has none (RoBERTa).
    """

    at: str = "bert"
    head_at: str = "cls.predictions.decoder"
    transform: tuple[str, ...] = ("cls.predictions.transform",)
    counts_tokens: bool = False


ROBERTA = BertBuild("roberta", "lm_head.decoder", ("lm_head.dense", "gelu", "lm_head.layer_norm"), counts_tokens=True)

BERT_DECODERS: dict[str, BertBuild] = {
    "BertLMHeadModel": BertBuild(),
    "BertGenerationDecoder": BertBuild(head_at="lm_head.decoder", transform=()),
    "RobertaForCausalLM": ROBERTA,
    "CamembertForCausalLM": ROBERTA,
    "XLMRobertaForCausalLM": ROBERTA,
}


class BertLikeFamily(DecoderFamily):
    """A decoder of BERT's build, as the model's `decoder`.

    Args:
        build: where its parts are.
    """

    def __init__(self, build: BertBuild) -> None:
        self.build = build

    def decoder(self, model: Any) -> nn.Module:
        """What is at `build.at` in `model.decoder`."""
        return attrgetter(self.build.at)(model.decoder)

    def layers(self, model: Any) -> nn.ModuleList:
        """`encoder.layer` of the decoder."""
        return self.decoder(model).encoder.layer  # type: ignore[union-attr, return-value]

    def d_model(self, model: Any) -> int:
        """`hidden_size` of the decoder."""
        return model.decoder.config.hidden_size

    def heads(self, model: Any) -> tuple[int, int]:
        """`num_attention_heads`, and hidden_size over it."""
        config = model.decoder.config
        return config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def embed(self, model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens, positions and the first token type, normed.

        Args:
            model: the model.
            ids: `[rows, q]`.
            positions: `[1 or rows, q]`.
        """
        decoder: Any = self.decoder(model)
        if self.build.counts_tokens:
            return by_starts(lambda i, start: decoder.embeddings(i, past_key_values_length=start), ids, positions)
        return decoder.embeddings(ids, position_ids=positions)

    def run(self, layer: Any, hidden: torch.Tensor, /, *given: Any) -> torch.Tensor:
        """A layer by its own `forward`."""
        self_mask, _, encoder_hidden, encoder_mask, cache, _ = given
        return layer(hidden, self_mask, encoder_hidden, encoder_attention_mask=encoder_mask, past_key_values=cache)

    def parts(self, model: Any) -> list[LayerParts] | None:
        """Norms, projections and feed-forward of every layer."""
        found = []
        layers: list[Any] = list(self.layers(model))
        for layer in layers:
            own, cross, up, down = layer.attention, layer.crossattention, layer.intermediate, layer.output
            containers = (layer, own, own.self, own.output, cross, cross.self, cross.output, up, down)
            # A layer of somebody's own may do more than its modules.
            if not type(layer).__module__.startswith("transformers.") or not plain(containers):
                return None
            act = up.intermediate_act_fn
            found.append(
                LayerParts(
                    joined(_attention(own)),
                    _attention(cross),
                    direct_norm(down.LayerNorm),
                    _chain(up.dense, act, down.dense),
                    post_norm=True,
                )
            )
        return found

    def cross_kv(self, layer: Any, encoder_hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By `crossattention.self.key` and `.value`."""
        attention = layer.crossattention.self
        shape = (*encoder_hidden.shape[:2], -1, attention.attention_head_size)
        keys = direct(attention.key)(encoder_hidden).view(shape).transpose(1, 2)
        return keys, direct(attention.value)(encoder_hidden).view(shape).transpose(1, 2)

    def final_norm(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The head's transformation, where it has one."""
        for step in self._transform(model):
            hidden = step(hidden)
        return hidden

    def _transform(self, model: Any) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        paths = self.build.transform
        return [nn.functional.gelu if path == "gelu" else attrgetter(path)(model.decoder) for path in paths]

    def head(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The projection, with its bias."""
        return self._head(model)(hidden)

    def _head(self, model: Any) -> Any:
        return attrgetter(self.build.head_at)(model.decoder)

    def norm_and_head(self, model: Any) -> tuple[Module, Module]:
        """The two, what is linear in them as bare functions."""
        return _chain(*self._transform(model)), direct(self._head(model))

    def head_parts(self, model: Any) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """The projection and its bias, no scale."""
        head = self._head(model)
        return head.weight, head.bias, 1.0


@encoder_layer("BertLayer", "BertGenerationLayer", "RobertaLayer", "CamembertLayer", "XLMRobertaLayer", "ElectraLayer")
def encoder_bert_layer(layer: Any) -> EncoderLayer:
    """A layer of an encoder of BERT's build."""
    own, up, down = layer.attention, layer.intermediate, layer.output
    return EncoderLayer(
        joined(_attention(own)),
        direct_norm(down.LayerNorm),
        feed_forward(up.dense, up.intermediate_act_fn, down.dense),
        (own.self, own, own.output, up, down),
        post_norm=True,
    )


def _attention(attention: Any) -> AttentionParts:
    inner, output = attention.self, attention.output
    q, k, v, out = (direct(x) for x in (inner.query, inner.key, inner.value, output.dense))
    heads, head_dim = inner.num_attention_heads, inner.attention_head_size
    return AttentionParts(direct_norm(output.LayerNorm), q, k, v, out, heads, head_dim, inner.scaling)


def _chain(*steps: Any) -> Module:
    """One function of several, in their order; modules as bare functions where that is what they are."""
    functions = [direct_norm(x) if isinstance(x, nn.LayerNorm) else direct(x) for x in steps]

    def run(x: torch.Tensor) -> torch.Tensor:
        for function in functions:
            x = function(x)
        return x

    return run
