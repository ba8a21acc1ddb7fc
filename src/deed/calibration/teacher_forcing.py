"""What a teacher-forced pass reads: decoder inputs from labels or from the model's own answers, with dropout off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deed.constants import IGNORE_INDEX, NEVER_EXIT


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode (dropout would answer at random), then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def from_answers(model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs `[rows, length]` that full depth gave itself, and `[rows, length]` bool: where a token follows."""
    out = model.generate(**inputs, **options, exit_threshold=NEVER_EXIT, return_dict_in_generate=True)
    rows = next(iter(inputs.values())).shape[0]
    step = len(out.sequences) // rows  # the best of several returned sequences comes first
    sequences, depths = out.sequences[::step], out.exit_layers[::step]
    prompt = sequences.shape[1] - depths.shape[1]
    asked = torch.zeros_like(sequences[:, :-1], dtype=torch.bool)
    asked[:, prompt - 1 :] = depths > 0
    return sequences[:, :-1], asked


def from_labels(model: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs `[rows, length]` before every row's `labels`, and where one follows."""
    values = [torch.as_tensor(x["labels"]) for x in rows]
    labels = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=IGNORE_INDEX).to(model.device)
    return model.prepare_decoder_input_ids_from_labels(labels), labels >= 0
