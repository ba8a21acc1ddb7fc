"""The output classes: Transformers' own, with the fields early exit adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput
from transformers.modeling_outputs import Seq2SeqLMOutput


@dataclass
class DeedSeq2SeqLMOutput(Seq2SeqLMOutput):
    """`Seq2SeqLMOutput` and `exit_losses`, `[n_exits]` fp32: the token cross-entropy of every exit."""

    exit_losses: torch.FloatTensor | None = None


@dataclass
class DeedGenerateOutput(GenerateEncoderDecoderOutput):
    """`GenerateEncoderDecoderOutput` and `exit_layers`, `[sequences, new tokens]` long: the depth that produced each
    token, 0 after a row has finished; after `exact=True` also `accepted`, `[sequences]` long: how many tokens of each are
    drafts that the last layer agreed with."""

    exit_layers: torch.LongTensor | None = None
    accepted: torch.LongTensor | None = None


@dataclass
class DeedGenerateBeamOutput(GenerateBeamEncoderDecoderOutput):
    """As `DeedGenerateOutput`; `exit_layers[s, t]` is the depth of row `beam_indices[s, t]` at step t. Scores of beams
    that left at different depths come from different exits."""

    exit_layers: torch.LongTensor | None = None
