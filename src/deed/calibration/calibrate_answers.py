"""Answer confidence, fitted and certified on held-out examples: `deed.calibrate_answers`.

`deed.calibrate` bounds what early exit costs against full depth; it says nothing of whether an answer is right. This does:
half of the examples fit how likely an answer is to be right (`fit_confidence.py`), the other half check that the numbers mean
what they say and choose the confidence below which the model is not sure (`selective.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from deed.config import DeedConfig
from deed.errors import CalibrationError
from deed.modeling.answer_confidence import NEVER_SURE, AnswerConfidence, exit_settings
from deed.modeling.answer_watch import FEATURES
from deed.modeling.answering import generate_rows
from deed.utils.progress import SILENT, shown

from .answering import collate, refuse_nan
from .exit_check import plain_values, take_exit_check
from .fit_confidence import fit_confidence, folds
from .learn_then_test import score_example
from .reliability import reliability
from .risk import check_bounds, examples_needed
from .selective import choose_threshold, selective_risk, threshold_orders
from .teacher_forcing import evaluating

Row = Mapping[str, Any]

#: Of the folds by which examples are divided, those that fit; the others check and certify.
FOLDS, FITTING = 10, 5


def calibrate_answers(
    model: Any,
    dataset: Iterable[Row],
    risk: float = 0.1,
    confidence: float = 0.95,
    *,
    right: Callable[[list[int], Row], bool] | None = None,
    group: Callable[[Row], Hashable] | None = None,
    part: Callable[[Row], str] | None = None,
    batch_size: int = 32,
    progress: Callable[[str], None] | None = None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Find out how likely the model's answers are to be right, and below which confidence it is not sure.

    With probability at least `confidence` over the calibration examples, at most the share `risk` of new answers that are
    sure (of a confidence not below `abstain_below`) is wrong, for new examples from the same distribution.

    Args:
        model: a deed model, at the threshold and exit check it will be used with; `model.deed_config.answer_calibration` is
            set, and saved with it.
        dataset: held-out examples, as for `deed.calibrate`.
        risk: allowed share of wrong answers among the sure ones, in (0, 1).
        confidence: of the promise, in (0, 1).
        right: whether generated tokens (up to and with the end token) answer the example. Default: they equal its labels.
        group: what examples belong together, such as questions about one page; a group is never divided between fitting and
            certifying. Default: each by itself.
        part: a name of the part of the data that an example is from. The promise is then made for each part, too, if it
            can be kept there.
        batch_size: rows generated at once.
        progress: called with a line per step; default: a progress bar where stderr is a terminal.
        generate_kwargs: passed to `generate()`; calibrate with what you will use.

    Returns:
        The report: `abstain_below` (`modeling.answer_confidence.NEVER_SURE` where no confidence keeps the promise), `risk`,
        `confidence`, `examples`, `certified_on`; on the certifying half `reliability` (see there), that of the answers'
        own probability `reliability_before`, `coverage`, `given`, `selective_risk`, `tested`, and the same by `parts`.

    Raises:
        CalibrationError: too few examples for `risk` and `confidence`, even if none was wrong, or a model whose logits are
            not numbers.
        ValueError: a bound that is no number or out of range, beams, or an exit threshold among the options: it is the
            model's own; examples without labels where `right` is not given.

    Warns:
        UserWarning: no confidence keeps the promise, so that the model is never sure.

    Example:
        ```python
        labeled = [{**example, "labels": example["input_ids"]} for example in held_out]  # what the right answers are
        report = deed.calibrate_answers(model, labeled, risk=0.3, max_new_tokens=8)
        out = model.generate(**inputs, answer_confidence=True, max_new_tokens=8)
        sure = out.confidence >= report["abstain_below"]  # [sequences]
        ```
    """
    check_bounds(risk, confidence)
    rows = list(dataset)
    check_enough(len(rows), risk, confidence)
    if right is None and any(row.get("labels") is None for row in rows):
        raise ValueError("examples without labels say not what is right; add labels, or pass right=… to judge answers")
    judge = right or (lambda tokens, row: score_example(model, None, tokens, dict(row), []) == 1)
    with (
        evaluating(model),
        shown(None if progress is None else SILENT) as bars,
        bars.bar("answering", total=len(rows)) as bar,
    ):
        answered = answer_to_calibrate(
            model, rows, partial(collate, model), judge, batch_size, bar.advance, **generate_kwargs
        )
        groups = [group(row) if group is not None else i for i, row in enumerate(rows)]
        parts = [part(row) if part is not None else "" for row in rows]
        return set_answer_calibration(
            model, answered, groups, parts, risk, confidence, progress or bars.note, **generate_kwargs
        )


def check_enough(count: int, risk: float, confidence: float) -> None:
    """Whether so many examples can keep a promise.

    Args:
        count: of examples.
        risk: as for `calibrate_answers`.
        confidence: as for `calibrate_answers`.

    Raises:
        CalibrationError: too few, even if all were answered rightly.
    """
    needed = 2 * examples_needed(risk, confidence)
    if count < needed:
        raise CalibrationError(
            f"at most {risk:g} of the answers wrong, at confidence {confidence:g}, needs at least {needed} examples (even if "
            f"all were right), got {count}; add examples or promise less"
        )


class Answered(NamedTuple):
    """Answers to calibrate on.

    Attributes:
        features: `[n, len(FEATURES)]`, of `AnswerWatch.features`.
        states: `[n, d_model]`, of `source_states`.
        right: `[n]`.
    """

    features: torch.Tensor
    states: torch.Tensor
    right: list[bool]


def answer_to_calibrate(
    model: Any,
    rows: Sequence[Row],
    to_batch: Callable[[list[Any]], Mapping[str, torch.Tensor]],
    right: Callable[[list[int], Any], bool],
    batch_size: int,
    tick: Callable[[int], None] | None = None,
    **generate_kwargs: Any,
) -> Answered:
    """Answers at the model's own threshold, with what confidence is made from.

    Args:
        model: a deed model.
        rows: encoded examples.
        to_batch: rows to a batch of model inputs.
        right: whether tokens answer a row.
        batch_size: rows generated at once.
        tick: called with the number of rows after each batch.
        generate_kwargs: options of `generate()`.

    Raises:
        CalibrationError: logits that are not numbers.
        ValueError: options that say where tokens leave, beams, or a batch size below 1.
    """
    for name in ("exit_threshold", "exit_policy"):
        if name in generate_kwargs:
            raise ValueError(f"answers are calibrated at the model's own threshold; set it, and leave {name} out")
    options = {**refuse_nan(generate_kwargs), "answer_confidence": True}
    options.pop("return_dict_in_generate", None)
    with uncalibrated(model.deed_config):
        found = generate_rows(model, rows, to_batch, options, batch_size, tick)
    assert found.features is not None and found.states is not None
    truth = [bool(right(tokens, row)) for tokens, row in zip(found.tokens, rows, strict=True)]
    return Answered(found.features, found.states, truth)


@contextmanager
def uncalibrated(config: DeedConfig) -> Iterator[None]:
    """Without the calibration of answers that is there, which may be for other settings."""
    before, config.answer_calibration = config.answer_calibration, None
    try:
        yield
    finally:
        config.answer_calibration = before


def set_answer_calibration(
    model: Any,
    answered: Answered,
    groups: Sequence[Hashable],
    parts: Sequence[str],
    risk: float,
    confidence: float,
    say: Callable[[str], None] = lambda line: None,
    **generate_kwargs: Any,
) -> dict[str, Any]:
    """Fit, certify, and set `model.deed_config.answer_calibration`.

    Args:
        model: a deed model.
        answered: at its own threshold.
        groups: what belongs together, one for each answer.
        parts: of the data, one for each answer.
        risk: as for `calibrate_answers`.
        confidence: as for `calibrate_answers`.
        say: told the results, a line at a time.
        generate_kwargs: options of `generate()` that the answers were made with.

    Returns:
        The report of `calibrate_answers`.

    Raises:
        CalibrationError: too few examples, or too few groups.

    Warns:
        UserWarning: no confidence keeps the promise.
    """
    check_enough(len(answered.right), risk, confidence)
    fitted = fit_and_certify(*answered, groups, parts, risk, confidence, say)
    config = model.deed_config
    check = take_exit_check(generate_kwargs)
    over = generate_kwargs.get("confidence_over") or config.confidence_over
    fitted.settings = exit_settings(config, None, None, config.exit_check if check is None else check, over)
    fitted.report["generate"] = plain_values(generate_kwargs)
    config.answer_calibration = fitted.to_dict()
    if fitted.abstain_below >= NEVER_SURE:
        warnings.warn(
            f"no confidence keeps the promise that at most {risk:g} of the sure answers are wrong, so this model is never "
            "sure; allow more risk, add examples, or train further",
            stacklevel=3,
        )
    return {"abstain_below": fitted.abstain_below, "risk": risk, "confidence": confidence, **fitted.report}


def fit_and_certify(
    features: torch.Tensor,
    states: torch.Tensor,
    right: Any,
    groups: Sequence[Hashable],
    parts: Sequence[str],
    risk: float,
    confidence: float,
    say: Callable[[str], None] = lambda line: None,
) -> AnswerConfidence:
    """The model of confidence with its promise and report, from answers that are there; its settings are not set.

    Args:
        features: `[n, len(FEATURES)]`, of `AnswerWatch.features`.
        states: `[n, d_model]`, of `source_states`.
        right: `[n]` bool.
        groups: `[n]`, what belongs together.
        parts: `[n]`, names of the parts of the data.
        risk: as for `calibrate_answers`.
        confidence: as for `calibrate_answers`.
        say: told the results.

    Raises:
        CalibrationError: one half of the examples is empty: too few groups.
    """
    truth, names = np.asarray(right, dtype=bool), np.asarray(parts)
    fits = folds([("half", group) for group in groups], FOLDS) < FITTING
    if fits.all() or not fits.any():
        raise CalibrationError("the examples are of too few groups to be halved; give examples about more sources")
    at, held = (np.flatnonzero(inside).tolist() for inside in (fits, ~fits))
    model, seen = fit_confidence(features[at], states[at], truth[at], [groups[i] for i in at])
    values, held_truth, held_parts = model(features[held], states[held]).numpy(), truth[held], list(names[held])
    orders = threshold_orders(seen, truth[at], list(names[at]), risk, confidence, len(held) / len(at))
    chosen, promised, tested = choose_threshold(values, held_truth, held_parts, orders, risk, confidence)
    model.abstain_below, model.risk, model.confidence = NEVER_SURE if chosen is None else chosen, risk, confidence
    before = features[held, FEATURES.index("log_prob_sum")].exp().clamp(0, 1).numpy()

    def results(inside: Any) -> dict[str, Any]:
        return {
            "reliability": reliability(values[inside], held_truth[inside]),
            "reliability_before": reliability(before[inside], held_truth[inside]),
            **selective_risk(values[inside], held_truth[inside], model.abstain_below),
        }

    several = sorted(set(held_parts)) if len(set(parts)) > 1 else []
    model.report = {
        "method": "logistic regression, beta calibration; learn-then-test, fixed sequence",
        "examples": len(truth),
        "certified_on": len(held),
        **results(slice(None)),
        "tested": tested,
        "parts": {part: {"promised": part in promised, **results(np.asarray(held_parts) == part)} for part in several},
    }
    model.report = _short(model.report)
    say(_sentence("all", model.report, model.abstain_below))
    for part, found in model.report["parts"].items():
        say(_sentence(part, found, model.abstain_below) + ("" if found["promised"] else "; not promised by itself"))
    return model


def _short(value: Any) -> Any:
    """Numbers of six significant digits, also inside: the report is kept in the model's `config.json`."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _sentence(name: str, found: dict[str, Any], threshold: float) -> str:
    sure = "never sure" if threshold >= NEVER_SURE else f"sure of {found['coverage']:.1%} (from {threshold:g})"
    wrong = "" if found["selective_risk"] is None else f", of which {found['selective_risk']:.1%} are wrong"
    return (
        f"{name}: {found['reliability']['accuracy']:.1%} of {found['reliability']['examples']} right, expected calibration "
        f"error {found['reliability']['ece']:.3f} (before: {found['reliability_before']['ece']:.3f}), {sure}{wrong}"
    )
