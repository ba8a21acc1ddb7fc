"""Answering a data set in batches of like length, and making such batches."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def generate_all(
    model: Any, examples: list[dict[str, Any]], threshold: float, batch_size: int, options: dict[str, Any]
) -> tuple[list[list[int]], float]:
    """Generated tokens of every example (up to and with the end token, as labels have it) and the mean exit depth."""
    answers: list[list[int]] = [[] for _ in examples]
    # Like lengths together: less padding.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].get("input_ids", ())))
    depth_sum = depth_count = 0
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        inputs = collate(model, [examples[i] for i in part])
        out = model.generate(**inputs, **options, exit_threshold=threshold, return_dict_in_generate=True)
        depth_sum += int(out.exit_layers.sum())
        depth_count += int((out.exit_layers > 0).sum())
        prompt = out.sequences.shape[1] - out.exit_layers.shape[1]
        per_example = len(out.sequences) // len(part)
        for n, i in enumerate(part):
            row = n * per_example  # the best of several returned sequences comes first
            kept = int((out.exit_layers[row] > 0).sum())
            answers[i] = out.sequences[row, prompt : prompt + kept].tolist()
    return answers, depth_sum / max(1, depth_count)


def collate(model: Any, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    inputs: dict[str, torch.Tensor] = {}
    accepted = inspect.signature(model.forward).parameters
    for key in examples[0]:
        if key == "labels" or key not in accepted:
            continue  # labels are for the score, as is whatever else an example carries
        values = [torch.as_tensor(x[key]) for x in examples]
        pad = model.config.pad_token_id if key == "input_ids" else 0
        if values[0].ndim == 0:  # one number per example, as OFA's patch_masks
            inputs[key] = torch.stack(values)
        else:
            inputs[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=pad)
    if "input_ids" in inputs and "attention_mask" not in inputs:
        lengths = torch.tensor([len(x["input_ids"]) for x in examples])
        inputs["attention_mask"] = (torch.arange(inputs["input_ids"].shape[1]) < lengths[:, None]).long()
    return {k: v.to(model.device) for k, v in inputs.items()}
