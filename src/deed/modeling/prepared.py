"""A `generate()` of one row taken apart: what it prepares, its encoder call and its decoding loop, each to be run by others.

Transformers' own code does the preparation, so that whatever options mean there they mean here: logits processors, stopping
criteria, prompts, special tokens. Only the two parts that cost time are left out (`request.TakesOver`). Encoder calls of
several rows are put together by `encode_together`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from transformers import LogitsProcessorList

from deed.constants import NEVER_EXIT
from deed.engine.exact_replay import BY_NUMBER, ROW_ALONE, of_one_row
from deed.policies import policy as policies
from deed.policies.measures import MaxProb
from deed.policies.policy import ExitPolicy, ThresholdPolicy

from . import whisper
from .answer_confidence import confidence_problem
from .answer_watch import AnswerWatch
from .outputs import DeedGenerateOutput
from .request import Request, taken_over

# Inputs that may be padded at their end where rows of one encoder call differ in length, by the mask's shape.
TEXT_INPUTS = ("input_ids", "attention_mask")

# The policy of rows whose tokens are all the last layer's.
FULL_DEPTH = ThresholdPolicy(MaxProb(), NEVER_EXIT)


@dataclass
class Prepared:
    """A generation of one row, ready to be encoded and decoded.

    Attributes:
        model: a deed model.
        input_ids: `[1, prompt]` decoder ids.
        processors: Transformers' list of this row alone.
        criteria: Transformers' list of this row alone.
        config: the prepared generation configuration.
        model_kwargs: as `_sample` gets them, once `encoded` with `encoder_outputs`.
        policy: decides where the row exits; `confidence_over` as in `DeedConfig`.
        exact: every token is to be the last layer's.
        watch: of an answer whose confidence is asked for.
        encoder_call: arguments of `_maybe_prepare_encoder_kwargs_for_generation`; None once encoded.
    """

    model: Any
    input_ids: torch.Tensor
    processors: Any
    criteria: Any
    config: Any
    model_kwargs: dict[str, Any]
    policy: ExitPolicy
    confidence_over: str
    exact: bool
    encoder_call: dict[str, Any] | None = field(repr=False, default=None)
    watch: AnswerWatch | None = None

    @property
    def max_length(self) -> int:
        """Tokens that the row may have in the end, its prompt included."""
        return int(self.config.max_length)

    @property
    def source_length(self) -> int | None:
        """Positions of the source, None where only the encoder can say."""
        if self.encoder_call is None:
            return int(self.model_kwargs["encoder_outputs"][0].shape[1])
        ids = self.encoder_call["inputs_tensor"]
        return int(ids.shape[1]) if set(self._inputs()) <= set(TEXT_INPUTS) and ids.ndim == 2 else None

    def _inputs(self) -> dict[str, torch.Tensor]:
        """The tensors that the encoder gets, by name."""
        assert self.encoder_call is not None
        call = self.encoder_call
        found = {
            name: value
            for name, value in call["model_kwargs"].items()
            if isinstance(value, torch.Tensor) and not name.startswith(("decoder_", "cross_attn"))
        }
        return {**found, call["model_input_name"]: call["inputs_tensor"]}

    @cached_property
    def shape_key(self) -> tuple[Any, ...]:
        """Rows whose encoder calls may be one: the same names and shapes; of plain text the length may differ."""
        call, inputs = self.encoder_call, self._inputs()
        assert call is not None
        text = set(inputs) <= set(TEXT_INPUTS)
        shapes = [(n, () if text else tuple(x.shape[1:]), x.dtype) for n, x in sorted(inputs.items())]
        other = {
            n: repr(v)
            for n, v in call["model_kwargs"].items()
            if not isinstance(v, torch.Tensor) and n != "past_key_values"
        }
        return (text, len(inputs[call["model_input_name"]]), tuple(shapes), tuple(sorted(other.items())))


class _Capture:
    """Takes a `generate()` over and keeps what it would have run."""

    def __init__(self) -> None:
        self.encoder_call: dict[str, Any] | None = None

    def encode(self, model: Any, call: dict[str, Any]) -> dict[str, Any]:
        """Keep the call; a placeholder stands for what it returns."""
        self.encoder_call = {**call, "model_kwargs": dict(call["model_kwargs"])}
        return {**call["model_kwargs"], "encoder_outputs": _Pending()}

    def decode(self, model: Any, request: Request, call: dict[str, Any]) -> Prepared:
        """What was prepared, in place of the loop's result."""
        if call["streamer"] is not None:
            raise ValueError("streamer: a ticket gives a request's tokens as they come; leave it out")
        if call["input_ids"].shape[0] != 1:
            raise ValueError(
                f"a request is one row, got {call['input_ids'].shape[0]} (num_return_sequences above 1 counts as several): "
                "submit one request per row"
            )
        _check_prompt(call)
        return _prepared(model, request, call, self.encoder_call)


def _prepared(model: Any, request: Request, call: dict[str, Any], encoder_call: dict[str, Any] | None) -> Prepared:
    return Prepared(
        model,
        call["input_ids"],
        call["logits_processor"],
        call["stopping_criteria"],
        call["generation_config"],
        {name: call["model_kwargs"].get(name) for name in ("encoder_outputs", "attention_mask")},
        request.policy,
        request.confidence_over,
        request.exact,
        encoder_call,
    )


class _Pending(tuple):
    """Stands for encoder outputs that are still to be computed."""


def prepare(model: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Prepared:
    """Everything of `model.generate(**inputs, **options)` but the encoder and the decoding loop.

    Args:
        model: a deed model.
        inputs: encoder inputs of one row, as `generate()` takes them, and decoder prompts.
        options: of `generate()`.

    Raises:
        ValueError: options that `generate()` refuses, and those that a running batch cannot serve: beams, several rows or
            sequences, a streamer, a cache to continue; Whisper, whose `generate()` runs several generations.
    """
    if whisper.splits_outputs(model):
        raise ValueError("Whisper's generate() runs several generations; it is taken over as a whole")
    if options.get("past_key_values"):
        raise ValueError("past_key_values cannot be combined with a running batch; leave it out")
    watch = None
    options = dict(options)
    if options.pop("answer_confidence", False):
        problem = confidence_problem(model, options)
        if problem:
            raise ValueError(f"answer_confidence: {problem}")
        watch = AnswerWatch(len(model.deed_family.layers(model)), len(model.deed_config.exit_layers))
        options["logits_processor"] = [*(options.get("logits_processor") or ()), watch]
    with taken_over(_Capture()):
        found = model.generate(**inputs, **options)
    assert isinstance(found, Prepared)
    if watch is not None:
        found.watch, found.policy = watch, watch.policy(found.policy)
    return found


def _check_prompt(call: dict[str, Any]) -> None:
    mask = call["model_kwargs"].get("decoder_attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError("decoder_attention_mask hides tokens of the prompt: leave these out")


def waiting_call(model: Any, call: dict[str, Any]) -> Prepared:
    """An encoder call alone, of any number of rows, to be run by `encode_together`.

    Args:
        model: a deed model.
        call: see `TakesOver.encode`.
    """
    config, none = call["generation_config"], torch.zeros(1, 0, dtype=torch.long)
    return Prepared(model, none, (), (), config, {}, FULL_DEPTH, "all", False, {**call})


def of_rows(model: Any, request: Request, call: dict[str, Any]) -> list[Prepared]:
    """A decoding loop's rows, each by itself.

    Args:
        model: a deed model.
        request: the running call of `generate()`.
        call: see `TakesOver.decode`.

    Raises:
        ValueError: padded prompts, or several rows whose processors or exit policy may know of one another.
    """
    _check_prompt(call)
    n = call["input_ids"].shape[0]
    if n == 1:
        return [_prepared(model, request, call, None)]
    for processor in call["logits_processor"]:
        if type(processor).__name__ not in ROW_ALONE | BY_NUMBER and not getattr(processor, "is_stateless", False):
            raise ValueError(
                f"{type(processor).__name__} may know of other rows: submit one request per row, or give it an attribute "
                "is_stateless = True"
            )
    policy, kwargs = policies.begin(request.policy, n), call["model_kwargs"]
    rows = []
    for i in range(n):
        part = {name: _part(kwargs.get(name), i, n, None, 0) for name in ("encoder_outputs", "attention_mask")}
        processors = LogitsProcessorList(
            of_one_row(p, [i], n) if type(p).__name__ in BY_NUMBER else p for p in call["logits_processor"]
        )
        one = {**call, "input_ids": call["input_ids"][i : i + 1], "logits_processor": processors, "model_kwargs": part}
        rows.append(_prepared(model, replace(request, policy=policies.keep(policy, [i])), one, None))
    return rows


def finish_generation(
    model: Any,
    call: dict[str, Any],
    tokens: list[list[int]],
    depths: list[list[int]],
    kept: list[tuple[list[torch.Tensor], list[torch.Tensor]]],
) -> Any:
    """What `_sample` returns for rows that were decoded elsewhere.

    Args:
        model: a deed model.
        call: see `TakesOver.decode`.
        tokens: prompt and new tokens by row.
        depths: of the new ones.
        kept: scores and logits of the new ones, `[1, vocab]` each, where the configuration asks for them.
    """
    config, device = call["generation_config"], call["input_ids"].device
    pad = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
    longest, new = max(map(len, tokens)), max(map(len, depths))
    sequences = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in tokens], device=device)
    if not config.return_dict_in_generate:
        return sequences

    def steps(each: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...] | None:
        if not each[0]:
            return None
        none = torch.zeros_like(each[0][0])
        return tuple(torch.cat([x[t] if t < len(x) else none for x in each]) for t in range(new))

    fields = {
        "sequences": sequences,
        "scores": steps([scores for scores, _ in kept]),
        "logits": steps([logits for _, logits in kept]),
        "exit_layers": torch.tensor([[*row, *[0] * (new - len(row))] for row in depths], device=device),
        "past_key_values": None,
    }
    return model._output(DeedGenerateOutput, fields, config, call["model_kwargs"])


@torch.no_grad()
def encode_together(rows: Sequence[Prepared]) -> None:
    """Run the rows' encoder calls as one; each row gets its part in `model_kwargs`.

    Args:
        rows: of one model and one `shape_key`.
    """
    first = rows[0]
    calls = [row.encoder_call for row in rows]
    assert all(call is not None for call in calls)
    call: dict[str, Any] = calls[0]  # type: ignore[assignment]
    lengths = [int(c["inputs_tensor"].shape[1]) for c in calls if c is not None]
    inputs, kwargs = call["inputs_tensor"], dict(call["model_kwargs"])
    if len(rows) > 1:
        inputs, kwargs = _stacked(rows, lengths)
    found = first.model._maybe_prepare_encoder_kwargs_for_generation(
        **{**call, "inputs_tensor": inputs, "model_kwargs": kwargs}
    )
    n, longest = len(rows), max(lengths)
    cut = len(set(lengths)) > 1
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        row.model_kwargs = {
            name: _part(found.get(name), i, n, length if cut else None, longest)
            for name in ("encoder_outputs", "attention_mask")
            if name in found
        }
        row.encoder_call = None


def _stacked(rows: Sequence[Prepared], lengths: list[int]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The rows' encoder inputs as one batch, text padded at its end to the longest."""
    first: dict[str, Any] = rows[0].encoder_call  # type: ignore[assignment]
    name, longest = first["model_input_name"], max(lengths)
    each = [row._inputs() for row in rows]
    kwargs = dict(first["model_kwargs"])
    pad = rows[0].config._pad_token_tensor
    value = 0 if pad is None else int(pad)
    if min(lengths) == longest:
        stacked = {n: torch.cat([x[n] for x in each]) for n in each[0]}
    else:
        fill = torch.nn.functional.pad
        stacked = {
            name: torch.cat([fill(x[name], (0, longest - n), value=value) for x, n in zip(each, lengths, strict=True)])
        }
        masks = [x.get("attention_mask", torch.ones_like(x[name])) for x in each]
        stacked["attention_mask"] = torch.cat([fill(m, (0, longest - n)) for m, n in zip(masks, lengths, strict=True)])
    inputs = stacked.pop(name)
    kwargs.update(stacked)
    return inputs, kwargs


def _part(value: Any, i: int, n: int, length: int | None, longest: int) -> Any:
    """Row i of something that an encoder call of n rows returned.

    Args:
        value: a tensor, an output of tensors, or anything else, which stays as it is.
        i: the row.
        n: rows of the call.
        length: cut to so many positions; None: not cut.
        longest: positions of the call.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim == 0 or value.shape[0] != n:
            return value
        part = value[i : i + 1]
        if length is not None and part.ndim > 1 and part.shape[1] == longest:
            part = part[:, :length]
        return part.clone() if n > 1 else part  # a view would keep the whole call's memory
    if hasattr(value, "keys") and isinstance(value, dict):
        parts = {k: _part(v, i, n, length, longest) for k, v in value.items()}
        return type(value)(**parts) if type(value) is not dict else parts
    return value
