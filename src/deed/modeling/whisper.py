"""What Whisper's own `generate()` needs beside other classes'.

It transcribes piece after piece, again and again at rising temperatures where a piece came out badly, and every one of those
is a generation of its own (models/whisper/generation_whisper.py, transformers 5.23). Their outputs it splits by row, field by
field, which a cache of rows of different depth does not allow; and it times tokens by the cross-attention of some heads,
which an early exit computes for some layers only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from .request import Request


def splits_outputs(model: Any) -> bool:
    """Whether the model's `generate()` runs several generations and splits what they return by row."""
    return isinstance(model, WhisperGenerationMixin)


def tells_segments(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of the model's `generate()` returns segments of inner generations.

    Args:
        model: any deed model.
        kwargs: of the call.
    """
    return bool(splits_outputs(model) and (kwargs.get("return_segments") or kwargs.get("return_token_timestamps")))


def wants_word_times(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of the model's `generate()` times tokens, on a model that does not run eager attention as that takes.

    Args:
        model: any deed model.
        kwargs: of the call.
    """
    asked = kwargs.get("return_token_timestamps") and splits_outputs(model)
    return bool(asked) and model.config._attn_implementation != "eager"


def eager_copy(model: Any) -> Any:
    """A copy with the same weights, whose attention may be switched to eager, as Transformers does to time tokens, and would
    leave it: the model, which others use meanwhile, stays as it is.

    Args:
        model: a deed Whisper.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"

    def copied(module: torch.nn.Module) -> torch.nn.Module:
        made = module.__class__.__new__(module.__class__)
        made.__dict__ = {name: config if value is model.config else value for name, value in module.__dict__.items()}
        made.__dict__["_modules"] = {name: part and copied(part) for name, part in module._modules.items()}
        hooks = {
            name: value.copy()
            for name, value in made.__dict__.items()
            if name.endswith(("_hooks", "_hooks_with_kwargs"))
        }
        made.__dict__.update(hooks)  # Transformers adds to them, once for each model, what keeps attentions
        return made

    return copied(model)


def with_depths(out: Any, request: Request) -> Any:
    """What `generate()` returned, with the depths of all its generations as `exit_layers`, and after `exact=True` their
    `accepted` drafts and `stats`; tokens alone as they are. Segments tell of the depths of their tokens in `exit_layers`.

    Args:
        out: of Whisper's own `generate()`.
        request: the call.
    """
    if isinstance(out, torch.Tensor) or not request.exit_layers:
        return out
    for segments in (out.get("segments") if hasattr(out, "get") else None) or ():
        for segment in segments:
            result = segment["result"]
            if isinstance(result, torch.Tensor) or "exit_layers" not in result:
                continue
            prompt = len(result["sequences"]) - len(result["exit_layers"])
            first, last = (int(i) - prompt for i in segment["idxs"])
            segment["exit_layers"] = result["exit_layers"][max(0, first) : max(0, last)]
            if request.tokens_asked:
                segment["result"] = result["sequences"]
    out["exit_layers"] = request.exit_layers
    if request.accepted:
        out["accepted"], out["stats"] = request.accepted, request.stats
    return out


def cross_attentions(
    model: Any, fields: dict[str, Any], model_kwargs: dict[str, Any]
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """The cross-attention of every layer, as if a single step had decoded all: of one teacher-forced pass over what was
    generated, so of full depth whatever the depth of the tokens. One step, in it one tensor per layer, `[rows, heads,
    length - 1, source]`, with the rows that the decoder had: under beams, position t of sequence s lies in the row that
    `beam_indices` gives, where Transformers looks for it.

    Args:
        model: a deed Whisper that runs eager attention, as its `generate()` sees to.
        fields: of the generation's output.
        model_kwargs: as the decoding loop got them.
    """
    ids = fields["sequences"][:, :-1]
    encoder_outputs, beams = model_kwargs["encoder_outputs"], fields.get("beam_indices")
    states = encoder_outputs[0]
    sources = torch.arange(len(ids), device=states.device) * len(states) // len(ids)
    inputs: dict[str, Any] = {"encoder_outputs": (states.index_select(0, sources),), "decoder_input_ids": ids}
    mask = model_kwargs.get("decoder_attention_mask")
    if mask is not None:  # of left-padded prompts, as prepare_inputs_for_generation has it
        mask = mask.index_select(0, sources.to(mask.device)).long()
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
        inputs["decoder_attention_mask"] = mask
        inputs["decoder_position_ids"] = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    with torch.no_grad():
        layers = model(**inputs, use_cache=False, output_attentions=True, return_dict=True).cross_attentions
    if beams is None:
        return (layers,)
    prompt = beams[:, :1].expand(-1, ids.shape[1] - beams.shape[1])  # all of it from where the first token came
    rows = torch.cat([prompt, beams], dim=1)
    at = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    used = rows >= 0
    placed = []
    for layer in layers:
        by_place = layer.transpose(1, 2)  # [sequences, length - 1, heads, source]
        buffer = by_place[:1].repeat(
            len(states), 1, 1, 1
        )  # rows that nothing points to: anything that is a distribution
        buffer[rows[used], at[used]] = by_place[used]
        placed.append(buffer.transpose(1, 2))
    return (tuple(placed),)
