"""What an OFA generated, scored by each task's metric: boxes, captions, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deed.data.base import Example
from deed.metrics import text as metrics
from deed.metrics.boxes import box_accuracy_each
from deed.metrics.caption_words import words
from deed.metrics.cider import DocumentFrequencies, cider_d_each
from deed.models.ofa import OFAProcessor

# The best score of each metric, by which one is divided where [0, 1] is asked for.
BEST = {"acc_at_0.5": 1.0, "cider_d": 10.0, "accuracy": 1.0, "vqa_accuracy": 1.0, "ofa_vqa_score": 1.0}


def name_of(metric: str) -> str:
    """A registry's metric as it is called here: where an answer is a word, equal to the right one is what is accurate."""
    return "accuracy" if metric == "exact_match" else metric


def score_each(
    processor: OFAProcessor,
    metric: str,
    examples: Sequence[Example],
    answers: Sequence[Sequence[int]],
    corpus: DocumentFrequencies | None = None,
) -> list[float]:
    """Each answer's score.

    Args:
        metric: a key of `BEST`.
        corpus: what captions' words are weighed by; None: these examples' references.
    """
    if metric == "acc_at_0.5":
        found = [box_of(processor, ids, example) for ids, example in zip(answers, examples, strict=True)]
        return box_accuracy_each(found, [example.extra["box"] for example in examples])
    texts, references = [text_of(processor, ids) for ids in answers], [example.answers for example in examples]
    if metric == "cider_d":
        return cider_d_each(texts, references, corpus)
    if metric == "vqa_accuracy":
        return metrics.vqa_accuracy_each(texts, references)
    if metric == "ofa_vqa_score":
        return metrics.ofa_vqa_score_each(texts, [example.extra["confidences"] for example in examples])
    return metrics.exact_match_each(texts, references)


def box_of(processor: OFAProcessor, ids: Sequence[int], example: Example) -> tuple[float, ...] | None:
    """The box in generated ids, in pixels of the example's picture; None where they have none."""
    size: Any = example.extra.get("size") or example.image.size  # type: ignore[union-attr]
    return processor.boxes([list(ids)], [size])[0]


def text_of(processor: OFAProcessor, ids: Sequence[int]) -> str:
    """Generated ids as text."""
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def equals_reference(processor: OFAProcessor, ids: Sequence[int], example: Example) -> bool:
    """Whether a generated caption is one of the example's word for word, punctuation aside."""
    return words(text_of(processor, ids)) in map(words, example.answers)


def score(
    processor: OFAProcessor, metric: str, examples: Sequence[Example], answers: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """The metric over all examples, and by kind where there are several: `{metric, "questions", "by_kind"}`; for captions
    also `"equals_reference"`, the share that is a reference word for word, punctuation aside."""
    each = score_each(processor, metric, examples, answers)
    kinds: dict[str, list[float]] = {}
    for example, value in zip(examples, each, strict=True):
        kinds.setdefault(example.kind or "all questions", []).append(value)
    result: dict[str, Any] = {metric: sum(each) / len(each), "questions": len(each)}
    if metric == "cider_d":
        equal = [equals_reference(processor, ids, e) for ids, e in zip(answers, examples, strict=True)]
        result["equals_reference"] = sum(equal) / len(equal)
    if len(kinds) > 1:
        result["by_kind"] = {kind: {metric: sum(v) / len(v), "questions": len(v)} for kind, v in sorted(kinds.items())}
    return result
