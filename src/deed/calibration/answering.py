"""Answering a data set in batches of like length, and making such batches: every row as it would be answered alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from deed.errors import CalibrationError
from deed.modeling.answering import generate_rows

Example = Mapping[str, Any]


def generate_all(
    model: Any,
    examples: Sequence[Example],
    threshold: float | Sequence[float],
    batch_size: int,
    options: Mapping[str, Any],
    tick: Callable[[int], None] | None = None,
) -> tuple[list[list[int]], float]:
    """Answers to all examples, in their order, and the mean exit depth of all tokens.

    Args:
        model: a deed model.
        examples: see `collate`.
        threshold: the model's `exit_threshold`.
        batch_size: rows generated at once.
        options: of `generate()`; of several sequences returned the first, which is the best, counts.
        tick: called with the number of rows after each batch.

    Returns:
        Per example the generated tokens, up to and with the end token, as labels have them; the mean depth.

    Raises:
        CalibrationError: an example got no token, or logits were not a number: nothing can be concluded from such answers.
        ValueError: a batch size below 1, or examples that make no batch.
    """
    options = {**refuse_nan(options), "exit_threshold": threshold}
    options.pop("return_dict_in_generate", None)
    answers = generate_rows(model, examples, partial(collate, model), options, batch_size, tick)
    unanswered = [i for i, tokens in enumerate(answers.tokens) if not tokens]
    if unanswered or not examples:
        raise CalibrationError(
            f"{len(unanswered)} of {len(examples)} examples were not answered (the first: {unanswered[:1]}); "
            "without answers nothing can be measured: check the examples and the options of generate()"
        )
    return answers.tokens, answers.mean_depth


def refuse_nan(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate()` with which a model whose logits are not numbers raises `CalibrationError`."""
    processors = LogitsProcessorList([*(options.get("logits_processor") or ()), _RefuseNaN()])
    return {**options, "logits_processor": processors}


class _RefuseNaN(LogitsProcessor):
    """Stops a generation whose logits are not numbers: all its thresholds would give the same wrong tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if torch.isnan(scores).any():
            raise CalibrationError(
                "the model's logits are not a number (NaN), so its answers mean nothing; check the weights and the dtype"
            )
        return scores


def collate(model: Any, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Encoder inputs (and decoder prompts) of some examples as one batch on the model's device.

    What goes along with the tokens (`input_ids`, `inputs_embeds` or a given `attention_mask` say how many there are) is
    padded at the right, and masked; a number per example is stacked, as is everything else, which must have one shape.
    Without a mask of its own, an example's pad tokens are masked, as `generate()` does for it alone.

    Args:
        model: whose `forward()` says which keys are inputs; labels and all other keys are left out.
        examples: without a batch axis.

    Raises:
        ValueError: examples with different keys, or values of different shape that cannot be padded.
    """
    accepted = set(inspect.signature(model.forward).parameters) - {"labels"}
    keys = [key for key in examples[0] if key in accepted]
    for example in examples:
        if {key for key in example if key in accepted} != set(keys):
            raise ValueError(f"all examples of a batch need the same inputs; found {keys} and {list(example)}")
    values = {key: [torch.as_tensor(example[key]) for example in examples] for key in keys}
    counted = next((k for k in ("input_ids", "inputs_embeds", "attention_mask") if k in values), None)
    lengths = [len(v) for v in values[counted]] if counted is not None else []
    pad = model.config.pad_token_id
    inputs: dict[str, torch.Tensor] = {}
    for key, rows in values.items():
        if len({row.shape for row in rows}) == 1:
            inputs[key] = torch.stack(rows)
        elif not key.startswith("decoder_") and [len(row) if row.ndim else -1 for row in rows] == lengths:
            value = pad if key == "input_ids" and pad is not None else 0
            inputs[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
        else:
            raise ValueError(
                f"{key} has the shapes {sorted({tuple(row.shape) for row in rows})} in one batch and cannot be padded; "
                "give it one shape, or use batch_size=1"
            )
    if counted in ("input_ids", "inputs_embeds") and "attention_mask" not in inputs:
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        if counted == "input_ids" and pad is not None and pad not in end_tokens(model):
            mask &= inputs["input_ids"] != pad
        inputs["attention_mask"] = mask.long()
    return {k: v.to(model.device) for k, v in inputs.items()}


def end_tokens(model: Any) -> set[int]:
    """Ids of the tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return set() if ends is None else {int(i) for i in (ends if isinstance(ends, (list, tuple)) else [ends])}


def label_tokens(model: Any, labels: Any) -> list[int]:
    """The tokens of an example's labels, without what fills them up: negative ids (-100) anywhere, and the pad token after
    the last token, up to one where it is the end token, too."""
    return strip_padding(model, [i for i in torch.as_tensor(labels, dtype=torch.long).tolist() if i >= 0])


def strip_padding(model: Any, tokens: list[int]) -> list[int]:
    """Tokens without pad tokens at the end; where the pad token ends answers, one of them stays."""
    pad = model.config.pad_token_id
    keep = int(pad in end_tokens(model))
    while len(tokens) > keep and tokens[-1] == pad and (not keep or tokens[-2:] == [pad, pad]):
        tokens = tokens[:-1]
    return tokens
