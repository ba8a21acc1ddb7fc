"""Drift in a server: requests of a real scheduler are decoded again, compared, and an alarm raises the model's threshold."""

import time

import pytest
import torch

from conftest import deed_model
from deed.constants import NEVER_EXIT
from deed.serving.drift import DriftMonitor
from deed.serving.drift_watch import DriftWatch, can_repeat
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler


@pytest.fixture
def model():
    return deed_model("t5_tied")


def asked(i, **options):
    return GenerationRequest(
        {"input_ids": torch.tensor([[3 + i % 30, 5, 7 + i % 11, 2]])}, {"max_new_tokens": 6, **options}
    )


def until(condition):
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_answers_that_differ_are_counted_as_generate_alone_gives_them(model):
    model.deed_config.threshold = 0.05  # a random model: everything leaves at the first exit
    monitor = DriftMonitor(0.999, every=1, threshold=0.05)
    with Scheduler(model) as scheduler:
        watch = DriftWatch(scheduler, monitor)
        tickets = [scheduler.submit(asked(i)) for i in range(12)]
        assert all(watch.watch(ticket) for ticket in tickets)
        assert until(lambda: monitor.metrics()["samples"] == 12)
        watch.close()
    differ = 0
    for i in range(12):
        ids = asked(i).inputs["input_ids"]
        early, full = (model.generate(ids, max_new_tokens=6, exit_threshold=t).tolist() for t in (0.05, NEVER_EXIT))
        differ += early != full
    assert differ > 0 and monitor.metrics()["disagreement"] == pytest.approx(differ / 12)
    assert watch.dropped == 0


def test_an_alarm_raises_the_models_threshold(model):
    model.deed_config.threshold = 0.05
    monitor, told = DriftMonitor(0.02, every=1, threshold=0.05, stricter=(NEVER_EXIT,)), []
    with Scheduler(model) as scheduler:
        watch = DriftWatch(scheduler, monitor, told.append)
        for i in range(60):
            ticket = scheduler.submit(asked(i))
            watch.watch(ticket)
            ticket.result(60)
            if told:
                break
        assert until(lambda: told)
        assert model.deed_config.threshold == NEVER_EXIT == monitor.threshold
        end = scheduler.submit(asked(0)).result(60)
        assert set(end.depths) == {len(model.deed_family.layers(model))}
        assert not watch.watch(scheduler.submit(asked(1))), "nothing leaves early any more"
        watch.close()


def test_what_cannot_be_repeated_is_left_alone(model):
    for request in (
        asked(0, do_sample=True),
        asked(0, num_beams=2),
        asked(0, exit_policy=object()),
        asked(0, logits_processor=[object()]),
        GenerationRequest(asked(0).inputs, {}, exact=True),
    ):
        assert not can_repeat(request)
    assert can_repeat(asked(0))
    monitor = DriftMonitor(0.5, every=1, threshold=0.05)
    with Scheduler(model) as scheduler:
        watch = DriftWatch(scheduler, monitor)
        assert not watch.watch(scheduler.submit(asked(0, exit_threshold=0.5))), "a threshold of its own"
        given_up = scheduler.submit(asked(0, exit_threshold=0.05))
        given_up.cancel()
        watch.watch(given_up)
        assert until(lambda: watch.dropped + monitor.metrics()["samples"] == 1)
        watch.close()


def test_too_many_samples_are_dropped_not_waited_for(model, monkeypatch):
    monkeypatch.setattr("deed.serving.drift_watch.WAITING", 2)
    monitor = DriftMonitor(0.5, every=1, threshold=0.05)

    class Stuck:
        """A ticket whose end does not come before it is told."""

        request = asked(0)

        def __iter__(self):
            until(lambda: done)
            return iter(())

    done = []
    watch = DriftWatch(None, monitor)
    taken = [watch.watch(Stuck()) for _ in range(6)]
    assert taken[:2] == [True, True] and taken[-1] is False and 3 <= watch.dropped <= 4
    done.append(True)
    watch.close()
