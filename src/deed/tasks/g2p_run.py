"""A saved CMUdict model at work: loading it, answering many words in batches, calibrating on the held-out split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from deed.calibration.learn_then_test import GRID, calibrate
from deed.errors import DeedLoadError
from deed.modeling.loading import from_pretrained
from deed.policies.policy import ExitPolicy

from . import g2p


def load(folder: Path) -> tuple[Any, Any]:
    """`(model, tokenizer)` of a folder written by `deed train`.

    Raises:
        DeedLoadError: not such a folder, or a damaged one.
    """
    model = from_pretrained(folder)
    try:
        return model, AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DeedLoadError(f"the tokenizer in {folder} cannot be loaded: {error}") from None


def answer(
    model: Any,
    tokenizer: Any,
    words: list[str],
    threshold: float | None,
    batch_size: int = 64,
    tick: Callable[[int], None] | None = None,
    policy: ExitPolicy | None = None,
) -> tuple[list[str], float]:
    """Greedy pronunciations of `words` and the mean exit depth; `tick(n)` is called after each batch of n."""
    order = sorted(range(len(words)), key=lambda i: len(words[i]))
    answers, depth, tokens = [""] * len(words), 0, 0
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        inputs = tokenizer([words[i] for i in part], return_tensors="pt", padding=True).to(model.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                exit_threshold=threshold,
                exit_policy=policy,
                return_dict_in_generate=True,
            )
        texts = tokenizer.batch_decode(out.sequences, skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            answers[i] = text
        depth += int(out.exit_layers.sum())
        tokens += int((out.exit_layers > 0).sum())
        if tick is not None:
            tick(len(part))
    return answers, depth / max(1, tokens)


def calibrate_g2p(
    model: Any,
    tokenizer: Any,
    risk: float,
    confidence: float,
    count: int | None = None,
    progress: Callable[[str], None] | None = None,
    thresholds: Sequence[float] = GRID,
) -> dict[str, Any]:
    """`deed.calibrate` on the calibration split; a word scores 1 if its answer is any of the listed pronunciations."""
    rows = g2p.load_split("calibration")[:count]
    examples = [
        {"input_ids": ids, "answers": set(answers)}
        for ids, (_, answers) in zip(tokenizer([w for w, _ in rows]).input_ids, rows, strict=True)
    ]

    def score(tokens: list[int], example: dict[str, Any]) -> float:
        return float(tokenizer.decode(tokens, skip_special_tokens=True) in example["answers"])

    return calibrate(
        model, examples, risk, confidence, score=score, thresholds=thresholds, batch_size=64, progress=progress
    )
