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


def test_a_server_that_is_told_to_watches_its_models():
    """Settings to metrics: every request of the shipped model is compared, and `/metrics` says so."""
    from fastapi.testclient import TestClient

    from deed.serving.app import create_app
    from deed.serving.models import Models
    from deed.serving.settings import ServeSettings
    from deed.utils.shipped import CHECKPOINTS

    settings = ServeSettings(models=(("words", str(CHECKPOINTS / "g2p")),), drift=1, drift_rise=True)
    models = Models(settings)
    models.load()
    with TestClient(create_app(settings, models), base_url="http://localhost") as client:
        for word in ("cat", "squirrel", "tomato"):
            assert client.post("/generate", json={"text": word}).status_code == 200
        assert client.post("/generate", json={"text": "cat", "exact": True}).status_code == 200
        assert until(lambda: 'deed_drift_samples{model="words"} 3.0' in client.get("/metrics").text)
        limit = models.all()[0].model.deed_config.calibration["disagreement_bound"]
        assert f'deed_drift_disagreement_limit{{model="words"}} {limit}' in client.get("/metrics").text


def test_a_model_without_a_limit_is_served_unwatched(model, caplog):
    from types import SimpleNamespace

    from deed.serving.drift_watch import start_watch

    assert start_watch(SimpleNamespace(model=model, name="plain", scheduler=None), 10, False) is None
    assert "plain is not watched for drift" in caplog.text
