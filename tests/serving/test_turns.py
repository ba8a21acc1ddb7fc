"""Turns on one device: in order, and an encoder that steps aside between its layers."""

import threading
import time

import pytest
import torch
from serving_cases import alone, model_of, request_of

from conftest import VOCAB, deed_model
from deed.bench.shapes import build, shape_of
from deed.families.encoders import lean
from deed.families.encoders.lean import LeanLayer
from deed.serving import scheduler as scheduling
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import LONGEST_S, SHORTEST_S, Scheduler
from deed.serving.ticket import Token
from deed.serving.turns import Slices, Turns, in_one_thread

WAIT = 120


def test_turns_are_in_order_and_one_at_a_time():
    turns, order, inside = Turns(), [], []

    def work(number):
        with turns.turn():
            inside.append(number)
            assert inside == [number]
            order.append(number)
            inside.remove(number)

    with turns.turn():
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            while turns._next < number + 2:  # it stands in line
                time.sleep(0.001)
        assert order == []
        turns.step_aside()
        assert order == list(range(5))
    for thread in threads:
        thread.join(WAIT)


@pytest.mark.parametrize("kind", ["t5_tied", "ofa"])
def test_rows_go_on_while_a_source_is_encoded(kind, monkeypatch):
    """With slices of no length, running rows get a token between any two layers of the encoder."""
    model = model_of(kind)
    with Scheduler(model, encoder_slice_s=0.0) as scheduler:
        running = scheduler.submit(request_of(kind, 2))
        events = iter(running)
        next(events)
        seen = []
        between = type(scheduler)._between

        def watch(scheduler):
            seen.append(len(running._events))
            between(scheduler)

        monkeypatch.setattr(type(scheduler), "_between", watch)
        long = GenerationRequest(request_of(kind, 2).inputs, {"max_new_tokens": 40, "min_new_tokens": 40})
        rest = scheduler.submit(long)
        next(iter(rest))
        others = [scheduler.submit(request_of(kind, n)) for n in (0, 1, 3)]
        for ticket in [running, rest, *others]:
            ticket.result(WAIT)
    assert len(seen) >= 2 * len(model.get_encoder().layers if kind == "ofa" else model.encoder.block)
    assert (running.end.tokens, running.end.depths) == alone(model, kind, 2)


def test_a_long_source_does_not_hold_running_rows_up():
    """Between two tokens of a running row there is one slice of encoder work, not the whole encoder."""
    model = deed_model("t5_tied", enc=24)
    short = {"input_ids": torch.full((1, 4), 5)}
    long = {"input_ids": torch.randint(3, VOCAB, (1, 700))}
    with Scheduler(model, encoder_slice_s=0.0) as scheduler:
        running = scheduler.submit(GenerationRequest(short, {"max_new_tokens": 4000, "min_new_tokens": 4000}))
        next(iter(running))
        before = len(running._events)
        late = scheduler.submit(GenerationRequest(long, {"max_new_tokens": 2}))
        first = next(iter(late))
        assert isinstance(first, Token)
        got = len(running._events) - before
        running.cancel()
        late.result(WAIT)
        assert scheduler.stats().gap_s.count >= got
    assert got >= 12, "a token for every two layers at least"


@pytest.mark.parametrize("shape", ["tiny-t5", "tiny-bart", "tiny-latr"])
def test_slices_leave_lean_encoders_lean(shape):
    encoder = build(shape_of(shape))[1].get_encoder()

    def layers():
        return sum(isinstance(module, LeanLayer) for module in lean(encoder).modules())

    before = layers()
    slices = Slices(encoder)
    assert layers() == before == 4, "a hook on a part of a layer would keep it from running lean"
    slices.remove()


def test_a_slice_is_as_long_as_a_step_within_bounds():
    with Scheduler(deed_model("t5_tied")) as scheduler:
        for step, slice_s in ((0.0, SHORTEST_S), (0.007, 0.007), (1.0, LONGEST_S)):
            scheduler._decoding.step_s = step
            assert scheduler.encoder_slice_s == scheduler.stats().encoder_slice_s == slice_s
    with Scheduler(deed_model("t5_tied"), encoder_slice_s=0.5) as scheduler:
        assert scheduler.encoder_slice_s == 0.5


@pytest.mark.parametrize(("length", "together"), [(12, True), (129, False)])
def test_long_sources_are_encoded_one_by_one_on_a_cpu(length, together, monkeypatch):
    model, sizes, held = deed_model("t5_tied"), [], threading.Event()
    encode = scheduling.encode_together

    def watch(rows):
        sizes.append(len(rows))
        assert held.wait(WAIT)
        encode(rows)

    monkeypatch.setattr(scheduling, "encode_together", watch)
    with Scheduler(model) as scheduler:
        inputs = {"input_ids": torch.full((1, length), 5), "attention_mask": torch.ones(1, length, dtype=torch.long)}
        tickets = [scheduler.submit(GenerationRequest(inputs, {"max_new_tokens": 2})) for _ in range(5)]
        held.set()
        for ticket in tickets:
            ticket.result(WAIT)
    assert (max(sizes) >= 4 if together else max(sizes) == 1) and sum(sizes) == 5


def test_who_has_the_turn_has_the_threads_and_readers_have_one():
    before, seen = torch.get_num_threads(), []
    turns = Turns(threads=3)

    def compute():
        with turns.turn():
            seen.append(torch.get_num_threads())
        with turns.turn(1):
            seen.append(torch.get_num_threads())
        seen.append(in_one_thread(torch.get_num_threads))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join(WAIT)
    torch.set_num_threads(before)  # what MKL shares
    assert seen == [3, 1, 1]


def test_short_sources_wait_for_others_while_rows_decode():
    with Scheduler(deed_model("t5_tied"), encoder_rows=3) as scheduler:
        row = next(iter([scheduler.submit(request_of("t5_tied", 1))]))
        row.result(WAIT)
        assert scheduler.drain(WAIT) and not scheduler._gathers(), "nobody decodes"
    scheduler._decoding.batches = [None]
    scheduler._call_s = 0.004
    assert not scheduler._gathers(), "nobody waits"
    scheduler._admission.draining = scheduler._admission.closing = False
    late = scheduler.submit(request_of("t5_tied", 1))
    late.submitted = time.monotonic() + 1
    assert scheduler._gathers()
    late.submitted = time.monotonic() - 0.009
    assert not scheduler._gathers(), "it has waited for long enough"
    late.submitted = time.monotonic() + 1
    scheduler._call_s = 0.011
    assert not scheduler._gathers(), "a long call gains nothing by that"
    scheduler._decoding.batches = []
