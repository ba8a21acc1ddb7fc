"""What a teacher-forced pass reads: decoder inputs from labels or from the model's own answers, with dropout off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deed.constants import IGNORE_INDEX, NEVER_EXIT
from deed.modeling.answering import exit_depths

from .answering import label_tokens

Forced = tuple[dict[str, Any], torch.Tensor]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode (no dropout), then restored."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def from_answers(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> Forced:
    """The answers at full depth, for a teacher-forced pass over them.

    Args:
        model: a deed model.
        inputs: of `generate()`, as `collate` makes them.
        options: of `generate()`; of several sequences returned, the first counts.

    Returns:
        `inputs` for `forward()`, with `decoder_input_ids` `[rows, length]`; and `followed`, `[rows, length]` bool, where
        a generated token follows.
    """
    options = {**options, "exit_threshold": NEVER_EXIT, "return_dict_in_generate": True}
    out = model.generate(**inputs, **options)
    rows = next(iter(inputs.values())).shape[0]
    per_row = len(out.sequences) // rows  # the best of several returned sequences comes first
    depths = exit_depths(out)
    assert depths is not None, "a deed model tells depths"
    sequences, depths = out.sequences[::per_row], depths[::per_row]
    prompt = sequences.shape[1] - depths.shape[1]
    followed = torch.zeros_like(sequences[:, :-1], dtype=torch.bool)
    followed[:, prompt - 1 :] = depths > 0
    return {**_without_prompt(inputs), "decoder_input_ids": sequences[:, :-1]}, followed


def from_labels(model: Any, rows: Sequence[Mapping[str, Any]], inputs: dict[str, Any]) -> Forced:
    """The same with the tokens of every row's `labels`, as `label_tokens` reads them.

    Args:
        model: a deed model.
        rows: the examples.
        inputs: made of them by `collate`.

    Raises:
        ValueError: a row with a decoder prompt, after which labels may begin or which they may repeat.
    """
    if any("decoder_input_ids" in row for row in rows):
        raise ValueError(
            "labels after decoder_input_ids cannot be read; leave the prompt out, or use generated tokens"
        )
    values = [torch.tensor(label_tokens(model, row["labels"]), dtype=torch.long) for row in rows]
    labels = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=IGNORE_INDEX).to(model.device)
    return {**inputs, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}, labels >= 0


def _without_prompt(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if not k.startswith("decoder_")}
