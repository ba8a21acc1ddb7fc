"""The output classes: Transformers' own, with the fields early exit adds."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields, make_dataclass

import torch
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput
from transformers.modeling_outputs import Seq2SeqLMOutput


@dataclass
class DeedSeq2SeqLMOutput(Seq2SeqLMOutput):
    """`Seq2SeqLMOutput` and `exit_losses`, `[n_exits]` fp32: the token cross-entropy of every exit."""

    exit_losses: torch.FloatTensor | None = None


@functools.cache
def with_exit_losses(base: type) -> type:
    """The class for the output of a model whose own is `base`: `DeedSeq2SeqLMOutput`, or where `base` has fields of its own
    (images in Florence-2, global attention in LED) that with `exit_losses`."""
    if {f.name for f in fields(base)} <= {f.name for f in fields(DeedSeq2SeqLMOutput)}:
        return DeedSeq2SeqLMOutput
    losses = ("exit_losses", torch.FloatTensor | None, field(default=None))
    return make_dataclass(f"Deed{base.__name__}", [losses], bases=(base,))


@dataclass
class DeedGenerateOutput(GenerateEncoderDecoderOutput):
    """`GenerateEncoderDecoderOutput` and `exit_layers`, `[sequences, new tokens]` long: the depth that produced each
    token, 0 after a row has finished (of Whisper a list of such, one per inner generation); after `exact=True` also
    `accepted`, `[sequences]` long: how many tokens of each are drafts that the last layer agreed with.

    Where `answer_confidence` was asked for: `answer_features` `[sequences, features]` float64, by the names
    `modeling.answer_watch.FEATURES`; `source_states` `[sequences, d_model]` float64, the mean of the encoder's output; and
    `confidence` `[sequences]` float64, how likely each answer is to be right, where answers are calibrated."""

    exit_layers: torch.LongTensor | list[torch.LongTensor] | None = None
    accepted: torch.LongTensor | None = None
    answer_features: torch.Tensor | None = None
    source_states: torch.Tensor | None = None
    confidence: torch.Tensor | None = None


@dataclass
class DeedGenerateBeamOutput(GenerateBeamEncoderDecoderOutput):
    """As `DeedGenerateOutput`; `exit_layers[s, t]` is the depth of row `beam_indices[s, t]` at step t. Scores of beams
    that left at different depths come from different exits."""

    exit_layers: torch.LongTensor | list[torch.LongTensor] | None = None
