"""Whisper through the scheduler: its whole `generate()` as a guest, every inner generation in the running batch."""

import pytest
import torch

from deed.errors import RequestCancelled
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.serving.ticket import Failed, Token
from test_whisper_generate import LONG, SHORT, assert_same, deed_whisper, ragged, sound

GREEDY = {k: v for k, v in SHORT.items() if "beams" not in k and "token timestamps" not in k}
GREEDY_LONG = {k: v for k, v in LONG.items() if k not in ("beams", "token timestamps", "prompt for all")}


def alone(model, inputs, options, seed):
    torch.manual_seed(seed)
    return model.generate(**inputs, **options)


def plain(out):
    """What can be compared: a cache cannot."""
    return {k: v for k, v in out.items() if k != "past_key_values"} if hasattr(out, "keys") else out


def test_every_way_to_transcribe_at_once():
    model = deed_whisper()
    cases = []
    for i, options in enumerate(GREEDY.values()):
        cases.append(({"input_features": sound(rows=1, seed=i)}, {**options, "exit_threshold": 0.5 + 0.05 * i}))
    for i, options in enumerate(GREEDY_LONG.values()):
        inputs = {k: v[:1] for k, v in ragged(150 + i).items()}
        cases.append((inputs, {"return_timestamps": True, "language": "en", **options, "exit_threshold": 0.8}))
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(GenerationRequest(*case, seed=i)) for i, case in enumerate(cases)]
        ends = [ticket.result(60) for ticket in tickets]
        assert scheduler.stats().batch_rows > 1.5 * scheduler.stats().step_s.count, "they run together"
    for i, (case, end) in enumerate(zip(cases, ends, strict=True)):
        assert_same(plain(alone(model, *case, i)), plain(end.output))
        assert end.depths and min(end.depths) >= 1


def test_tokens_come_as_they_are_decoded():
    model = deed_whisper()
    options = {"language": "en", "return_dict_in_generate": True, "max_new_tokens": 9}
    with Scheduler(model) as scheduler:
        events = list(scheduler.submit(GenerationRequest({"input_features": sound(rows=1)}, options)))
    tokens = [event for event in events if isinstance(event, Token)]
    assert [t.depth for t in tokens] == events[-1].output["exit_layers"][0][0].tolist() == events[-1].depths
    assert {t.piece for t in tokens} == {0}


def test_what_beams_get_told_and_what_is_cancelled():
    model = deed_whisper()
    with Scheduler(model) as scheduler:
        request = GenerationRequest({"input_features": sound(rows=1)}, {"language": "en", "num_beams": 2})
        with pytest.raises(ValueError, match="num_beams=1"):
            scheduler.submit(request).result(30)
        ticket = scheduler.submit(GenerationRequest({"input_features": sound(rows=1)}, {"language": "en"}))
        ticket.cancel()
        end = list(ticket)[-1]
        if isinstance(end, Failed):  # it may have been done already
            assert isinstance(end.error, RequestCancelled)


def test_exact_ones_are_drafted_too():
    model = deed_whisper()
    options = {"language": "en", "return_dict_in_generate": True, "max_new_tokens": 9}
    cases = [{"input_features": sound(rows=1, seed=i)} for i in range(4)]
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(GenerationRequest(case, options, exact=True)) for case in cases]
        ends = [ticket.result(60) for ticket in tickets]
    for case, end in zip(cases, ends, strict=True):
        full = model.generate(**case, **options, exit_threshold=2.0)
        assert end.output["sequences"].tolist() == full["sequences"].tolist()
        assert end.accepted is not None and end.accepted <= len(end.depths)
