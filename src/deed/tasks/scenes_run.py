"""A small OFA at work on scenes and easy-vqa: held-out examples, answers in batches, scores, calibration."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..calibrate import GRID, calibrate
from ..confidence import ExitPolicy
from ..model import DeedMixin
from ..models.latr.processing_latr import pad_lists
from ..models.ofa import OFAForConditionalGeneration, OFAProcessor
from ..saving import DeedLoadError, from_pretrained
from . import easyvqa, metrics, scenes
from .base import DataError, Example
from .boxes import box_accuracy_each
from .captions import DocumentFrequencies, cider_d_each, document_frequencies

TASKS = (*scenes.TASKS, "easyvqa")
# What each task is scored by; the best score, by which one is divided where [0, 1] is asked for.
METRICS = {"refer": "acc_at_0.5", "caption": "cider_d", "vqa": "accuracy", "easyvqa": "accuracy"}
BEST = {"refer": 1.0, "caption": 10.0, "vqa": 1.0, "easyvqa": 1.0}
DECODING: dict[str, Any] = {"do_sample": False, "num_beams": 1}


def load(folder: Path, plain: bool = False) -> tuple[Any, OFAProcessor]:
    """`(model, processor)` of a folder written by `deed train --task scenes`, or of one of its checkpoints.

    Args:
        plain: a model without early exit is welcome too (`deed train --conventional`).

    Raises:
        DeedLoadError: not such a folder, or a damaged one.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "ofa":
            raise DeedLoadError(f"{folder} holds a {config.get('model_type')} model; pictures of scenes need an OFA")
        model: Any
        if plain and "deed_config" not in config:
            model = OFAForConditionalGeneration.from_pretrained(folder).eval()
        else:
            model = from_pretrained(folder)
        return model, OFAProcessor.from_pretrained(folder)
    except DeedLoadError:
        raise
    except Exception as error:  # damaged tokenizers and configurations make libraries raise all sorts
        raise DeedLoadError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def examples_of(task: str, split: str, count: int, seed: int = 0) -> list[Example]:
    """Held-out examples of a task, as many as asked for or as there are.

    Args:
        task: one of `TASKS`.
        split: `validation`, `calibration`, `test`, or for scenes `unseen`.

    Raises:
        DataError: an unknown task or split.
    """
    if task not in TASKS:
        raise DataError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if task == "easyvqa":
        return list(itertools.islice(easyvqa.read(None, split), count))
    return [example.as_example() for example in scenes.examples(task, split, count, seed)]


def encode(processor: OFAProcessor, task: str, example: Example) -> dict[str, Any]:
    """One example's model inputs without batch axis: `input_ids` and `patch_images`."""
    if task == "caption":
        batch = processor.caption(example.image)
    elif task == "refer":
        batch = processor.refer(example.image, example.question)
    else:
        batch = processor.vqa(example.image, example.question)
    return {"input_ids": batch["input_ids"][0], "patch_images": batch["patch_images"][0]}


def inputs_of(rows: Sequence[dict[str, Any]], pad: int = 1) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch for `generate()`."""
    input_ids = pad_lists([row["input_ids"].tolist() for row in rows], pad)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != pad).long(),
        "patch_images": torch.stack([row["patch_images"] for row in rows]),
    }


def answer(
    model: Any,
    rows: Sequence[dict[str, Any]],
    threshold: Any = None,
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    policy: ExitPolicy | None = None,
    **options: Any,
) -> tuple[list[list[int]], float]:
    """Greedy ids for encoded rows, end token and what follows included, and the mean exit depth (nan from a plain model,
    which has none to report); `tick(n)` is called after each batch of n, `options` go to `generate()`."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    answers: list[list[int]] = [[] for _ in rows]
    depth = tokens = 0
    if isinstance(model, DeedMixin):
        options = {**options, "exit_threshold": threshold, "exit_policy": policy}
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        inputs = {k: v.to(model.device) for k, v in inputs_of([rows[i] for i in part]).items()}
        out = model.generate(**inputs, **{**DECODING, **options}, return_dict_in_generate=True)
        for i, ids in zip(part, out.sequences.tolist(), strict=True):
            answers[i] = ids[1:]
        if "exit_layers" in out:
            depth += int(out.exit_layers.sum())
            tokens += int((out.exit_layers > 0).sum())
        if tick is not None:
            tick(len(part))
    return answers, depth / tokens if tokens else math.nan


def score_each(
    processor: OFAProcessor,
    task: str,
    examples: Sequence[Example],
    answers: Sequence[Sequence[int]],
    corpus: DocumentFrequencies | None = None,
) -> list[float]:
    """Each answer's score by the task's metric; captions 0 to 10, the others 0 or 1.

    Args:
        corpus: what captions' words are weighed by; None: these examples' references.
    """
    if task == "refer":
        found = [box_of(processor, ids, example) for ids, example in zip(answers, examples, strict=True)]
        return box_accuracy_each(found, [example.extra["box"] for example in examples])
    texts = [text_of(processor, ids) for ids in answers]
    if task == "caption":
        return cider_d_each(texts, [example.answers for example in examples], corpus)
    return metrics.exact_match_each(texts, [example.answers for example in examples])


def box_of(processor: OFAProcessor, ids: Sequence[int], example: Example) -> tuple[float, ...] | None:
    """The box in generated ids, px; None where they have none."""
    size: Any = example.image.size  # type: ignore[union-attr]
    return processor.boxes([list(ids)], [size])[0]


def text_of(processor: OFAProcessor, ids: Sequence[int]) -> str:
    """Generated ids as text."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def score(
    processor: OFAProcessor, task: str, examples: Sequence[Example], answers: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """The task's metric over all examples, and by kind where there are several: `{metric, "questions", "by_kind"}`."""
    metric = METRICS[task]
    each = score_each(processor, task, examples, answers)
    kinds: dict[str, list[float]] = {}
    for example, value in zip(examples, each, strict=True):
        kinds.setdefault(example.kind, []).append(value)
    result: dict[str, Any] = {metric: sum(each) / len(each), "questions": len(each)}
    if len(kinds) > 1:
        result["by_kind"] = {kind: {metric: sum(v) / len(v), "questions": len(v)} for kind, v in sorted(kinds.items())}
    return result


def evaluate(
    model: Any,
    processor: OFAProcessor,
    split: str = "validation",
    count: int = 200,
    threshold: Any = 2.0,
    tasks: Sequence[str] = TASKS,
    tick: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores and `mean_depth` of every task on held-out examples.

    Args:
        split: as for `examples_of`; for `unseen`, leave easyvqa out of `tasks`.
        count: examples of each task.
        threshold: 2.0: full depth.

    Returns:
        Per task `{metric, "questions", "by_kind", "mean_depth"}`; the depth of a plain model is None.
    """
    result = {}
    for task in tasks:
        examples = examples_of(task, split, count)
        rows = [encode(processor, task, example) for example in examples]
        answers, depth = answer(model, rows, threshold, tick=tick)
        mean = None if math.isnan(depth) else depth
        result[task] = {**score(processor, task, examples, answers), "mean_depth": mean}
    return result


def calibrate_tasks(
    model: Any,
    processor: OFAProcessor,
    tasks: Sequence[str],
    count: int,
    risk: float,
    confidence: float,
    progress: Callable[[str], None] | None = None,
    thresholds: Sequence[float] = GRID,
) -> dict[str, Any]:
    """`deed.calibrate` on the calibration split of these tasks, `count` examples of each, every one scored by its task's
    metric divided by its best; sets the model's threshold."""
    found = {task: examples_of(task, "calibration", count) for task in tasks}
    captions = [example.answers for example in found.get("caption", [])]
    corpus = document_frequencies(captions) if captions else None

    def judge(tokens: list[int], row: dict[str, Any]) -> float:
        return score_each(processor, row["task"], [row["example"]], [tokens], corpus)[0] / BEST[row["task"]]

    rows = [
        {**encode(processor, task, example), "task": task, "example": example}
        for task, examples in found.items()
        for example in examples
    ]
    return calibrate(
        model, rows, risk, confidence, score=judge, thresholds=thresholds, batch_size=64, progress=progress, **DECODING
    )
