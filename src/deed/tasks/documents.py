"""A saved LaTr++ at work: loading it, answering many questions in batches, scoring, calibrating."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deed.calibration.learn_then_test import GRID, calibrate
from deed.constants import GREEDY
from deed.data.base import Example
from deed.errors import DeedLoadError
from deed.metrics import text as metrics
from deed.modeling.loading import from_pretrained
from deed.modeling.model import DeedMixin
from deed.models.latr.processing_latr import stack_pictures
from deed.policies.policy import ExitPolicy


def load(folder: Path, plain: bool = False) -> tuple[Any, Any]:
    """`(model, processor)` of a folder written by `deed train`.

    Args:
        plain: a model without early exit is welcome too (`deed train --conventional`).

    Raises:
        DeedLoadError: not such a folder, or a damaged one.
    """
    from deed.models.latr import LatrForConditionalGeneration

    try:
        if plain and has_no_exits(folder):
            model = LatrForConditionalGeneration.from_pretrained(folder).eval()
        else:
            model = from_pretrained(folder)
        processor = load_processor(folder)
    except ValueError:
        raise
    except Exception as error:  # damaged tokenizers and configurations make libraries raise all sorts
        raise DeedLoadError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if processor.tokenizer.eos_token_id is None or processor.tokenizer.pad_token_id is None:
        raise DeedLoadError(
            f"the tokenizer in {folder} has no end or padding token; tokenizer_config.json is missing or damaged"
        )
    return model, processor


def has_no_exits(folder: Path) -> bool:
    """Whether the folder holds a LaTr++ saved without early exit."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading says what is wrong
    return config.get("model_type") == "latr" and "deed_config" not in config


def load_processor(folder: Path) -> Any:
    """The `LatrProcessor` of a saved model.

    Raises:
        DeedLoadError: the folder has none, or a damaged one.
    """
    from transformers import AutoProcessor

    from deed.models.latr import LatrProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DeedLoadError(f"the processor in {folder} cannot be loaded: {error}") from None
    if not isinstance(processor, LatrProcessor):
        raise DeedLoadError(f"{folder} holds a {type(processor).__name__}; questions about images need a LaTr++ model")
    return processor


def encode(processor: Any, example: Example) -> dict[str, Any]:
    """One example's model inputs without batch axis: `input_ids`, `bbox`, `pixel_values` where it has a picture."""
    ids, boxes = processor.encode(example.question, example.words)
    row: dict[str, Any] = {"input_ids": torch.tensor(ids), "bbox": torch.tensor(boxes)}
    if example.image is not None and processor.sees:
        row["pixel_values"] = processor.see([as_picture(example.image)])["pixel_values"][0]
    return row


def without_picture(example: Example) -> Example:
    """The example once its picture is encoded."""
    return replace(example, image=None)


def as_picture(image: Any) -> Any:
    """A path or a picture, as an RGB picture."""
    from deed.utils.images import load_image

    return load_image(image) if isinstance(image, (str, Path)) else image


def inputs_of(processor: Any, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch for `generate()`."""
    batch = processor.pad([{k: v.tolist() for k, v in row.items() if k != "pixel_values"} for row in rows])
    return {**batch, **stack_pictures([row.get("pixel_values") for row in rows])}


def answer(
    model: Any,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    threshold: Any = None,
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    policy: ExitPolicy | None = None,
    **options: Any,
) -> tuple[list[str], float]:
    """Greedy answers to encoded questions and the mean exit depth (nan from a plain model, which has none to report);
    `tick(n)` is called after each batch of n, `options` go to `generate()`."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    answers, depth, tokens = [""] * len(rows), 0, 0
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        inputs = {k: v.to(model.device) for k, v in inputs_of(processor, [rows[i] for i in part]).items()}
        if isinstance(model, DeedMixin):
            options = {**options, "exit_threshold": threshold, "exit_policy": policy}
        out = model.generate(**inputs, **{**GREEDY, **options}, return_dict_in_generate=True)
        for i, text in zip(
            part, processor.tokenizer.batch_decode(out.sequences, skip_special_tokens=True), strict=True
        ):
            answers[i] = text
        if "exit_layers" in out:
            depth += int(out.exit_layers.sum())
            tokens += int((out.exit_layers > 0).sum())
        if tick is not None:
            tick(len(part))
    return answers, depth / tokens if tokens else math.nan


def score(examples: Sequence[Example], predictions: Sequence[str], metric: str = "anls") -> dict[str, Any]:
    """The metric over all examples and by kind; for pages also field F1 over the JSON answers.

    Args:
        metric: a function of `deed.metrics.text`.
    """
    references = [example.answers for example in examples]
    each = getattr(metrics, f"{metric}_each")(predictions, references)
    kinds: dict[str, list[float]] = {}
    for example, value in zip(examples, each, strict=True):
        kinds.setdefault(example.kind or "all questions", []).append(value)
    result: dict[str, Any] = {metric: sum(each) / len(each), "questions": len(each)}
    if len(kinds) > 1:
        result["by_kind"] = {kind: {metric: sum(v) / len(v), "questions": len(v)} for kind, v in sorted(kinds.items())}
    exact = metrics.exact_match(predictions, references)
    result["exact_match"] = exact
    whole = [i for i, example in enumerate(examples) if example.kind == "all"]
    if whole:
        result["field_f1"] = metrics.field_f1([predictions[i] for i in whole], [examples[i].answers[0] for i in whole])
    return result


def calibrate_examples(
    model: Any,
    processor: Any,
    examples: Iterable[Example],
    metric: str,
    risk: float,
    confidence: float,
    progress: Callable[[str], None] | None = None,
    thresholds: Sequence[float] = GRID,
) -> dict[str, Any]:
    """`deed.calibrate` on these examples, each scored by `metric`; sets the model's threshold."""
    each = getattr(metrics, f"{metric}_each")

    def judge(tokens: list[int], row: dict[str, Any]) -> float:
        return each([processor.tokenizer.decode(tokens, skip_special_tokens=True)], [row["answers"]])[0]

    rows = [{**encode(processor, example), "answers": example.answers} for example in examples]
    return calibrate(
        model, rows, risk, confidence, score=judge, thresholds=thresholds, batch_size=64, progress=progress, **GREEDY
    )
