"""A saved OFA at work on any of its tasks: asked about pictures in batches, calibrated (scores: ofa_scores.py)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deed.calibration.learn_then_test import GRID, calibrate
from deed.constants import GREEDY, NEVER_EXIT
from deed.data.base import Example
from deed.errors import DataError, DeedLoadError
from deed.metrics.cider import document_frequencies
from deed.modeling.loading import from_pretrained
from deed.modeling.model import DeedMixin
from deed.models.ofa import Candidates, OFAForConditionalGeneration, OFAProcessor, build_candidates, prompts
from deed.models.shared import pad_lists
from deed.policies.policy import ExitPolicy
from deed.utils.images import load_image

from .picture_scores import BEST, score_each

ASKS = ("refer", "caption", "vqa", "snli_ve")  # what OFA is asked, each with a prompt of its own
FULL_DEPTH = {"exit_threshold": NEVER_EXIT}
CHUNK = 256  # examples whose pictures are in memory at once


def load(folder: Path, plain: bool = False) -> tuple[Any, OFAProcessor]:
    """`(model, processor)` of a saved OFA with its processor: trained here, a checkpoint of a run, or converted.

    Args:
        plain: a model without early exit is welcome too (`deed train --conventional`, `deed convert`).

    Raises:
        DeedLoadError: not such a folder, or a damaged one.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "ofa":
            raise DeedLoadError(
                f"{folder} holds a {config.get('model_type')} model; scenes and other tasks on pictures need an OFA"
            )
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


def opened(example: Example) -> Example:
    """The example with its picture in memory, RGB, and its width and height in `extra["size"]` where it has none.

    Raises:
        DataError: a picture that cannot be read.
    """
    picture = example.image
    if picture is None:
        raise DataError(f"example {example.id!r} has no picture; OFA is asked about pictures")
    if isinstance(picture, (str, Path)):
        picture = load_image(picture)
    return replace(example, image=picture, extra={"size": picture.size, **example.extra})


def without_picture(example: Example) -> Example:
    """The opened example once its picture is encoded; its size stays."""
    return replace(example, image=None)


def encode(processor: OFAProcessor, asks: str, example: Example) -> dict[str, Any]:
    """One example's model inputs without batch axis: `input_ids` and `patch_images`.

    Args:
        asks: one of `ASKS`.
    """
    text, extra = example.question, example.extra
    if asks == "caption":
        batch = processor.caption(example.image)
    elif asks == "refer":
        batch = processor.refer(example.image, text)
    elif asks == "snli_ve":
        batch = processor.entail(example.image, text, extra.get("caption"))
    elif asks == "vqa":
        batch = processor.vqa(example.image, text, objects=extra.get("objects") or None)
    else:
        raise ValueError(f"asks must be one of {', '.join(ASKS)}, got {asks!r}")
    return {"input_ids": batch["input_ids"][0], "patch_images": batch["patch_images"][0]}


def inputs_of(rows: Sequence[Mapping[str, Any]], pad: int = 1) -> dict[str, torch.Tensor]:
    """Encoded rows to a batch for `generate()`."""
    input_ids = pad_lists([row["input_ids"].tolist() for row in rows], pad)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != pad).long(),
        "patch_images": torch.stack([row["patch_images"] for row in rows]),
    }


def target(processor: OFAProcessor, asks: str, example: Example, answer: str = "") -> list[int]:
    """Ids to train on, end token last: those of the opened example's box, or of an answer."""
    if asks == "refer":
        box = processor.encode_box(example.extra["box"], example.extra["size"])
        return [*box, int(processor.tokenizer.eos_token_id)]
    if asks == "caption":
        return processor.encode_answers([prompts.caption_target(answer, processor.max_target_length)])[0]
    return processor.encode_answers([prompts.entailment_target(answer) if asks == "snli_ve" else answer])[0]


def closed_list(processor: OFAProcessor, asks: str) -> Candidates | None:
    """The answers there are, where there are but a few; only they are told apart in training and in answering."""
    return build_candidates(prompts.ENTAILMENT.values(), processor) if asks == "snli_ve" else None


def options_for(model: Any, processor: OFAProcessor, asks: str) -> dict[str, Any]:
    """`generate()`'s options for a task: greedy, no longer than four bins or what the processor allows (start and end
    included), and held to the answers there are, among which an exit is then asked how sure it is."""
    options = {**GREEDY, "max_length": 6 if asks == "refer" else processor.max_target_length + 2}
    closed = closed_list(processor, asks)
    if closed is not None:
        options["prefix_allowed_tokens_fn"] = closed.prefix_allowed_tokens_fn()
        if isinstance(model, DeedMixin):
            options["confidence_over"] = "allowed"
    return options


def answer(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    threshold: Any = None,
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    policy: ExitPolicy | None = None,
    **options: Any,
) -> tuple[list[list[int]], float]:
    """Greedy ids for encoded rows, end token and what follows included, and the mean exit depth (nan from a plain model,
    which has none to report); `tick(n)` is called after each batch of n, `options` go to `generate()`."""
    way = {"exit_threshold": threshold, "exit_policy": policy}
    answers, depth, tokens = _answer(model, rows, way, batch_size, tick, options)
    return answers, depth / tokens if tokens else math.nan


def _answer(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    way: dict[str, Any],
    batch_size: int,
    tick: Callable[[int], None] | None,
    options: dict[str, Any],
) -> tuple[list[list[int]], int, int]:
    """Ids, the sum of all exit depths, and of how many tokens."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    answers: list[list[int]] = [[] for _ in rows]
    depth = tokens = 0
    if isinstance(model, DeedMixin):
        options = {**options, **way}
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        inputs = {k: v.to(model.device) for k, v in inputs_of([rows[i] for i in part]).items()}
        out = model.generate(**inputs, **{**GREEDY, **options}, return_dict_in_generate=True)
        for i, ids in zip(part, out.sequences.tolist(), strict=True):
            answers[i] = ids[1:]
        if "exit_layers" in out:
            depth += int(out.exit_layers.sum())
            tokens += int((out.exit_layers > 0).sum())
        if tick is not None:
            tick(len(part))
    return answers, depth, tokens


def answer_all(
    model: Any,
    processor: OFAProcessor,
    asks: str,
    examples: Iterable[Example],
    ways: Sequence[dict[str, Any]] = (FULL_DEPTH,),
    batch_size: int = 32,
    tick: Callable[[int], None] | None = None,
    **options: Any,
) -> tuple[list[Example], list[tuple[list[list[int]], float]]]:
    """As `answer`, for a data set whose pictures do not fit in memory, in several ways at once.

    Args:
        ways: how a deed model leaves early, as options of its `generate()`; a plain model is given none.

    Returns:
        The examples without their pictures, and per way what `answer` returns.
    """
    kept: list[Example] = []
    answers: list[list[list[int]]] = [[] for _ in ways]
    depths, tokens = [0] * len(ways), [0] * len(ways)
    options = {**options_for(model, processor, asks), **options}
    for chunk in _chunks(examples):
        rows = []
        for example in map(opened, chunk):
            rows.append(encode(processor, asks, example))
            kept.append(without_picture(example))
        for i, way in enumerate(ways):
            found, depth, count = _answer(model, rows, way, batch_size, tick, options)
            answers[i] += found
            depths[i] += depth
            tokens[i] += count
    means = [depth / count if count else math.nan for depth, count in zip(depths, tokens, strict=True)]
    return kept, list(zip(answers, means, strict=True))


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    left = iter(examples)
    while chunk := list(itertools.islice(left, CHUNK)):
        yield chunk


class Row(Mapping[str, Any]):
    """An encoded example, `input_ids`, `patch_images` and `example`. Its picture becomes a tensor each time it is asked
    for: those of a whole calibration set would not fit in memory."""

    def __init__(self, processor: OFAProcessor, asks: str, example: Example) -> None:
        first = opened(example)
        self._processor = processor
        self._kept = {
            "input_ids": encode(processor, asks, first)["input_ids"],
            "example": replace(example, extra=first.extra),
        }

    def __getitem__(self, key: str) -> Any:
        if key == "patch_images":
            return self._processor.see([opened(self._kept["example"]).image])["patch_images"][0]
        return self._kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._kept, "patch_images"))

    def __len__(self) -> int:
        return len(self._kept) + 1


def calibrate_examples(
    model: Any,
    processor: OFAProcessor,
    asks: str,
    metric: str,
    examples: Iterable[Example],
    risk: float,
    confidence: float,
    progress: Callable[[str], None] | None = None,
    thresholds: Sequence[float] = GRID,
) -> dict[str, Any]:
    """`deed.calibrate` on these examples, each scored by `metric` divided by its best (CIDEr-D by 10); sets the model's
    threshold. The report says which metric and by what it was divided."""
    rows: list[Any] = [Row(processor, asks, example) for example in examples]
    corpus = document_frequencies([row["example"].answers for row in rows]) if metric == "cider_d" and rows else None

    def judge(tokens: list[int], row: Any) -> float:
        return score_each(processor, metric, [row["example"]], [tokens], corpus)[0] / BEST[metric]

    options = options_for(model, processor, asks)
    report = calibrate(
        model, rows, risk, confidence, score=judge, thresholds=thresholds, batch_size=64, progress=progress, **options
    )
    report |= {"metric": metric, "divided_by": BEST[metric]}
    return report
