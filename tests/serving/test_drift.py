"""Drift: the confidence sequence against what it promises, the monitor's draw and alarms, a real model on other input."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from deed.calibration.risk import upper_bound
from deed.constants import NEVER_EXIT
from deed.errors import CalibrationError
from deed.serving.confidence_sequence import BETS, ConfidenceSequence
from deed.serving.drift import DriftMonitor, disagreement, limit_of, stricter_thresholds


def test_upper_bound_against_scipy():
    for k, n, confidence in ((0, 299, 0.95), (9, 1603, 0.95), (30, 4300, 0.99), (40, 50, 0.9)):
        assert upper_bound(k, n, confidence) == pytest.approx(stats.beta.ppf(confidence, k + 1, n - k), rel=1e-9)
    assert upper_bound(5, 5, 0.95) == 1.0


def test_capital_is_the_mixture_written_out():
    rng = np.random.default_rng(0)
    losses = (rng.random(23) < 0.3).astype(float)
    sequence = ConfidenceSequence(0.1, block=10)
    for loss in losses:
        sequence.add(loss)
    money = 1 / 4  # of bets from 30 on
    for k, start in enumerate((0, 10, 20), 1):
        for bet in BETS:
            money += np.prod(1 + bet * (losses[start:] / 0.1 - 1)) / (k * (k + 1) * len(BETS))
    assert sequence.capital == pytest.approx(money, rel=1e-12)
    assert sequence.mean == losses.mean()


@pytest.mark.parametrize("kind", ["answers", "shares", "one after another"])
def test_false_alarms_of_500_runs_stay_below_the_promised_rate(kind):
    """Losses whose mean is exactly the limit, looked at after every one."""
    rng, limit, runs, length, alarms = np.random.default_rng(7), 0.05, 500, 400, 0
    for _ in range(runs):
        if kind == "answers":
            losses = rng.random(length) < limit
        elif kind == "shares":
            losses = rng.beta(0.5, 9.5, length)
        else:  # rare and large after a loss, common and small else: only the mean given the past is the limit
            losses = np.zeros(length)
            for i, at in enumerate(rng.random(length)):
                size = 1.0 if i and losses[i - 1] else 0.25
                losses[i] = size * (at < limit / size)
        sequence = ConfidenceSequence(limit, confidence=0.9, block=64)
        alarms += any(sequence.add(float(loss)) for loss in losses)
    assert alarms / runs <= 0.1
    assert kind != "answers" or alarms > 0, "a test that can never alarm finds nothing either"


@pytest.mark.parametrize(("share", "within"), [(0.02, 2500), (0.05, 400), (0.2, 60)])
def test_a_shift_is_found(share, within):
    """Twice, five and twenty times the limit: in at least nine of ten runs within so many samples."""
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        sequence = ConfidenceSequence(0.01)
        while not sequence.add(float(rng.random() < share)) and sequence.count < 4 * within:
            pass
        found.append(sequence.count)
    assert np.quantile(found, 0.9) <= within


def test_a_shift_after_a_long_good_time_is_found():
    rng, sequence = np.random.default_rng(2), ConfidenceSequence(0.01)
    for _ in range(20_000):
        assert not sequence.add(float(rng.random() < 0.002))
    late = 0
    while not sequence.add(float(rng.random() < 0.1)):
        late += 1
    assert late < 500
    assert sequence.lower() > 0.01 and sequence.lower() < 0.1


def test_the_lower_bound_covers_and_agrees_with_the_alarm():
    rng, missed = np.random.default_rng(3), 0
    for _ in range(100):
        sequence, highest = ConfidenceSequence(0.04, confidence=0.9), 0.0
        for i, loss in enumerate(rng.random(300) < 0.1):
            sequence.add(float(loss))
            if i % 20 == 19:
                lower = sequence.lower()
                highest = max(highest, lower)
                assert (lower > 0.04 + 1e-9) <= sequence.exceeded
                assert (sequence.capital > 10 + 1e-6) <= (lower >= 0.04 - 1e-9)
        missed += highest > 0.1
    assert missed <= 10


@pytest.mark.parametrize("value", [0, 1, -0.1, 2])
def test_bounds_out_of_range(value):
    with pytest.raises(ValueError, match="limit must lie"):
        ConfidenceSequence(value)
    with pytest.raises(ValueError, match="confidence must lie"):
        ConfidenceSequence(0.1, confidence=value)
    if not 0 <= value <= 1:
        with pytest.raises(ValueError, match="a loss must lie"):
            ConfidenceSequence(0.1).add(value)


def test_one_request_of_every_so_many_is_wanted():
    monitor = DriftMonitor(0.01, every=10, threshold=0.9)
    wanted = [monitor.wants() for _ in range(1000)]
    assert [sum(wanted[i : i + 10]) for i in range(0, 1000, 10)] == [1] * 100
    places = {i % 10 for i, want in enumerate(wanted) if want}
    assert len(places) == 10, "drawn, so that nothing periodic is met always or never"
    assert not any(monitor.wants(threshold=0.5) for _ in range(100)), "answered at another threshold"
    assert not any(DriftMonitor(0.01, every=1, threshold=t).wants() for t in (NEVER_EXIT, [2.0, 2.0]))
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match="every"):
            DriftMonitor(0.01, every=every)
    with pytest.raises(ValueError, match="unit"):
        DriftMonitor(0.01, unit="word")


def test_disagreement():
    assert disagreement([1, 2, 3], [1, 2, 3]) == 0
    assert disagreement([1, 2, 3], [1, 2]) == 1
    assert disagreement([1, 2, 3, 4], [1, 2, 5], "token") == 0.5
    assert disagreement([], [7], "token") == 1


def test_an_alarm_is_logged_once_and_raises_the_threshold(caplog):
    monitor = DriftMonitor(0.05, every=1, threshold=0.9, stricter=(NEVER_EXIT, 0.99), name="g2p")
    with caplog.at_level(logging.WARNING, logger="deed.serving.drift"):
        alarms = [a for _ in range(60) if (a := monitor.add([1], [2], threshold=0.9))]
    assert len(alarms) == 1 and monitor.threshold == 0.99
    [record] = caplog.records
    assert "drift of g2p: at threshold 0.9" in record.getMessage() and "now 0.99" in record.getMessage()
    alarm = alarms[0]
    assert alarm.mean == 1 and alarm.limit < alarm.lower < 1 and alarm.samples < 20 and alarm.raised_to == 0.99
    assert monitor.metrics()["samples"] == 0, "what was answered at 0.9 says nothing of 0.99"
    while monitor.add([1], [2]) is None:
        pass
    assert monitor.threshold == NEVER_EXIT and not monitor.wants()
    assert [a["raised_to"] for a in monitor.report()["alarms"]] == [0.99, NEVER_EXIT]
    fixed = DriftMonitor(0.05, threshold=0.9)
    assert sum(fixed.add([1], [2]) is not None for _ in range(60)) == 1 and fixed.threshold == 0.9
    assert fixed.metrics()["disagreement_lower"] > 0.05


def config(**changes):
    tested = [{"threshold": t, "accepted": t >= 0.9} for t in (0.99, 0.95, 0.9, 0.8)]
    calibration = {"threshold": 0.9, "risk": 0.01, "disagreement_bound": 0.02, "tested": tested}
    return SimpleNamespace(**{"threshold": 0.9, "calibration": calibration, "curve": None, **changes})


def test_limit_and_stricter_thresholds_come_with_the_model():
    assert limit_of(config()) == 0.02
    several = config()
    several.calibration["others"] = [{"risk": 0.01, "disagreement_bound": 0.3}, {"risk": 0.5}]
    assert limit_of(several) == 0.3
    assert stricter_thresholds(config()) == [0.95, 0.99, NEVER_EXIT]
    points = [{"threshold": t} for t in (2.0, 0.97, 0.5, [0.9, 0.8])]
    assert stricter_thresholds(config(calibration=None, curve={"points": points})) == [0.97, NEVER_EXIT]
    for bare in (config(calibration=None), config(threshold=0.8), config(threshold=NEVER_EXIT)):
        with pytest.raises(CalibrationError, match="calibrated threshold"):
            limit_of(bare)
    old = config()
    del old.calibration["disagreement_bound"]
    with pytest.raises(CalibrationError, match="calibrate again"):
        limit_of(old)
    model = SimpleNamespace(deed_config=config())
    assert DriftMonitor.of(model, rise=True)._stricter == [0.95, 0.99, NEVER_EXIT]
    assert DriftMonitor.of(SimpleNamespace(deed_config=old), limit=0.1).limit == 0.1


def test_every_shipped_model_has_a_limit():
    from deed.utils.files import read_json
    from deed.utils.shipped import CHECKPOINTS

    for name in ("g2p", "latr", "ofa"):
        stored = read_json(CHECKPOINTS / name / "config.json")["deed_config"]
        calibration = stored["calibration"]
        found = limit_of(SimpleNamespace(threshold=stored["threshold"], calibration=calibration, curve=None))
        bounds = [each.get("disagreement_bound", 0) for each in (calibration, *calibration.get("others", ()))]
        assert found >= max(bounds) > 0


def test_the_shipped_model_on_words_and_on_nonsense():
    """Test words of CMUdict raise no alarm; strings of random letters do."""
    from deed.calibration.answering import generate_all
    from deed.data.readers.cmudict import cmudict_path
    from deed.tasks.task import task_for
    from deed.utils.shipped import CHECKPOINTS

    folder = CHECKPOINTS / "g2p"
    task = task_for(folder)
    model, processor = task.load(folder)
    rng = random.Random(0)
    nonsense = ["".join(rng.choice("bcdfghjklmnpqrstvwxyz") for _ in range(12)) for _ in range(80)]
    words = [line.partition(" ")[0] for line in cmudict_path().read_text(encoding="utf-8").splitlines()[::1300]][:80]
    verdicts = {}
    for name, texts in (("words", words), ("nonsense", nonsense)):
        rows = [{"input_ids": processor(text).input_ids} for text in texts]
        early, full = (generate_all(model, rows, t, 100, {})[0] for t in (model.deed_config.threshold, NEVER_EXIT))
        monitor = DriftMonitor.of(model)
        verdicts[name] = [a for pair in zip(early, full, strict=True) if (a := monitor.add(*pair))]
    assert not verdicts["words"] and len(verdicts["nonsense"]) == 1
