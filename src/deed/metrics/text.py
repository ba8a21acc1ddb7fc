"""Scores. Each takes predictions and, per prediction, the list of answers that count as right.

`anls`, `vqa_accuracy`, `exact_match` and `field_f1` have a sibling `…_each` with the score of every prediction. All
raise ValueError where there are no predictions, as many references as predictions are not given, or a prediction has no
references at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .vqa_normalize import normalize_answer, normalize_punctuation

ANLS_THRESHOLD = 0.5


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to any of their references (word accuracy, where a prediction is a word)."""
    return sum(correct(predictions, references)) / len(predictions)


def correct(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each prediction equals any of its references.

    Raises:
        ValueError: no predictions, or as many references as predictions are not given.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"need as many references as predictions, got {len(references)} and {len(predictions)}")
    return [p in set(refs) for p, refs in zip(predictions, references, strict=True)]


def phoneme_error_rate(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Edit distance over reference length, in phonemes, each prediction against its nearest reference (jiwer)."""
    import jiwer

    nearest = [
        min(refs, key=lambda ref, p=p: jiwer.wer(ref, p))  # type: ignore[misc]
        for p, refs in zip(predictions, references, strict=True)
    ]
    return float(jiwer.wer(nearest, list(predictions)))


def anls(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Average normalized Levenshtein similarity, 0..1: the mean of `anls_each`."""
    return mean(anls_each(predictions, references))


def anls_each(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 - edit distance / length of the longer, to the nearest reference; 0 where that is below 0.5.

    As the challenge's own script scores DocVQA (rrc.cvc.uab.es, challenge 17; Biten et al. 2019, arXiv 1905.13648): the
    distance is that of the texts in lower case with runs of white space joined, the length that of the texts as they are
    (in upper case, where letters like ß are two). Two empty texts are equal.
    """
    from rapidfuzz.distance import Levenshtein

    def similarity(prediction: str, reference: str) -> float:
        length = max(len(prediction.upper()), len(reference.upper()))
        return 1 - Levenshtein.distance(_joined(prediction), _joined(reference)) / length if length else 1.0

    scores = []
    for prediction, refs in pairs(predictions, references):
        best = max(similarity(prediction, ref) for ref in refs)
        scores.append(best if best >= ANLS_THRESHOLD else 0.0)
    return scores


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to any of their references, in lower case and without outer white space."""
    return mean(exact_match_each(predictions, references))


def exact_match_each(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 or 0 for each prediction."""
    return [float(_plain(p) in map(_plain, refs)) for p, refs in pairs(predictions, references)]


def vqa_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]], normalize_gold: str = "official"
) -> float:
    """VQA accuracy, 0..1: the mean of `vqa_accuracy_each`.

    Args:
        predictions: an answer per question.
        references: per question the answer of every annotator.
        normalize_gold: as for `vqa_accuracy_each`.
    """
    return mean(vqa_accuracy_each(predictions, references, normalize_gold))


def vqa_accuracy_each(
    predictions: Sequence[str], references: Sequence[Sequence[str]], normalize_gold: str = "official"
) -> list[float]:
    """How far each prediction agrees with the annotators: over all of them, the mean of min(1, equal answers of the
    others / 3). Of ten annotators, 0, 1, 2, 3, 4 or more that agree give 0, 0.3, 0.6, 0.9, 1.

    Args:
        references: per prediction the answer of every annotator, repeated where they agree; two or more (fewer than
            four cannot reach 1).
        normalize_gold: predictions are always normalized in full. `"official"`: references as in the official
            evaluation from 2016 to 2021: their punctuation only, and only where they are not all the same string.
            `"full"`: like predictions (as mmf does for TextVQA, with a tokenizer of its own).

    Raises:
        ValueError: also for fewer than two annotators, or another value of `normalize_gold`.
    """
    if normalize_gold not in ("official", "full"):
        raise ValueError(f'normalize_gold must be "official" or "full", got {normalize_gold!r}')
    scores = []
    for prediction, refs in pairs(predictions, references):
        total = len(refs)
        if total < 2:
            raise ValueError("VQA accuracy compares each annotator with the others: two answers or more are needed")
        if normalize_gold == "full":
            gold = [normalize_answer(ref) for ref in refs]
        else:
            gold = [normalize_punctuation(ref) for ref in refs] if len(set(refs)) > 1 else list(refs)
        n = gold.count(normalize_answer(prediction))
        # Left out is either one of the n that agree or one of the rest.
        scores.append((n * min(1, (n - 1) / 3) + (total - n) * min(1, n / 3)) / total)
    return scores


def ofa_vqa_score(predictions: Sequence[str], confidences: Sequence[Mapping[str, float]]) -> float:
    """OFA's own VQA score, 0..1: the mean of `ofa_vqa_score_each`."""
    return mean(ofa_vqa_score_each(predictions, confidences))


def ofa_vqa_score_each(predictions: Sequence[str], confidences: Sequence[Mapping[str, float]]) -> list[float]:
    """OFA's own VQA score: the confidence that goes with exactly the predicted answer, 0 where there is none.

    Args:
        predictions: an answer per question.
        confidences: per question its answers' confidences (`extra["confidences"]` of OFA's own files).

    Raises:
        ValueError: no predictions, or not as many confidences.
    """
    if not predictions or len(predictions) != len(confidences):
        raise ValueError(f"need as many confidences as predictions, got {len(confidences)} and {len(predictions)}")
    return [float(given.get(text, 0.0)) for text, given in zip(predictions, confidences, strict=True)]


def field_f1(predictions: Sequence[str], references: Sequence[Any]) -> float:
    """F1 over the (key, value) pairs of JSON objects, 0..1, counted over all predictions together (micro average).

    Strings are compared in lower case without outer white space, nested ones too; other values as JSON: 1 equals 1.0
    but not "1", the order of keys does not matter, that of lists does. A prediction that is not a JSON object has
    found no field. A pair counts as often as it occurs: a repeated key is one more field.

    Args:
        predictions: JSON texts.
        references: per prediction a JSON object (text or mapping) or a list of such, of which the nearest counts.

    Raises:
        ValueError: also for a reference that is not a JSON object.
    """
    counts = _field_counts(predictions, references)
    hits, predicted, wanted = (sum(column) for column in zip(*[count[:3] for count in counts], strict=True))
    return _f1(hits, predicted, wanted)


def field_f1_each(predictions: Sequence[str], references: Sequence[Any]) -> list[float]:
    """The F1 of each prediction: 1 for an empty object where one is wanted, 0 for what is not an object."""
    return [_f1(*count[:3]) if count[3] else 0.0 for count in _field_counts(predictions, references)]


def _field_counts(predictions: Sequence[str], references: Sequence[Any]) -> list[tuple[int, int, int, bool]]:
    """Per prediction: fields found, predicted and wanted, and whether it is an object at all."""
    options = [[refs] if isinstance(refs, (str, Mapping)) else refs for refs in references]
    counts = []
    for prediction, refs in pairs(predictions, options):
        found = _fields(prediction)
        against = []
        for ref in refs:
            wanted = _fields(json.dumps(dict(ref)) if isinstance(ref, Mapping) else ref)
            if wanted is None:
                raise ValueError(f"references of field_f1 are JSON objects, got {ref!r}")
            predicted = Counter() if found is None else found
            against.append(((predicted & wanted).total(), predicted.total(), wanted.total(), found is not None))
        counts.append(max(against, key=lambda count: _f1(*count[:3])))
    return counts


def _fields(text: str) -> Counter[tuple[str, str]] | None:
    """The pairs of a JSON object, values in a form that is equal where they are; None if it is not an object."""
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
        return Counter((key, _canonical(value)) for key, value in pairs) if isinstance(pairs, _Pairs) else None
    except (ValueError, RecursionError):
        return None


class _Pairs(list):  # type: ignore[type-arg]
    """An object's (key, value) pairs as they stand, repeated keys included."""


def _canonical(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "{" + ",".join(sorted(f"{json.dumps(key)}:{_canonical(item)}" for key, item in value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(_plain(value) if isinstance(value, str) else value)


def _f1(hits: int, predicted: int, wanted: int) -> float:
    return 2 * hits / (predicted + wanted) if predicted + wanted else 1.0


def _plain(text: str) -> str:
    return text.strip().lower()


def _joined(text: str) -> str:
    return " ".join(text.lower().split())


def mean(scores: Sequence[float]) -> float:
    """The mean of one score or more."""
    return sum(scores) / len(scores)


def pairs(predictions: Sequence[str], references: Sequence[Sequence[Any]]) -> list[tuple[str, Sequence[Any]]]:
    """Each prediction with its references.

    Raises:
        ValueError: no predictions, not as many references, or a prediction without any.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"need as many references as predictions, got {len(references)} and {len(predictions)}")
    for i, refs in enumerate(references):
        if isinstance(refs, str) or not refs:
            raise ValueError(f"prediction {i}: references must be a list of one or more answers, got {refs!r}")
    return list(zip(predictions, references, strict=True))
