"""The scheduler: every request's tokens and depths are those of `generate()` alone, whatever runs beside it."""

import asyncio
import gc
import threading
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_cases import MODELS, alone, check, inputs_of, model_of, request_of

from conftest import deed_model
from deed.errors import DeadlinePassed, QueueFull, RequestCancelled, RequestTooLarge, SchedulerClosed
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.serving.ticket import Failed, Token

WAIT = 120  # seconds, after which something hangs


@pytest.fixture(scope="module")
def t5():
    return deed_model("t5_tied")


class Gate:
    """A logits processor that holds the decoding thread up until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, ids, scores):
        self.reached.set()
        assert self.opened.wait(WAIT)
        return scores


@pytest.mark.parametrize("kind", MODELS)
def test_everything_at_once_is_as_alone(kind):
    model = model_of(kind)
    numbers = list(range(28))
    with Scheduler(model, encoder_rows=3) as scheduler:
        tickets = [scheduler.submit(request_of(kind, n)) for n in numbers]
        ends = [ticket.result(WAIT) for ticket in tickets]
        stats = scheduler.stats()
    check(model, kind, numbers, ends)
    assert stats.batch_rows > 2 * stats.step_s.count, "rows decode together"
    assert sum(stats.depths.values()) == stats.tokens == sum(len(end.tokens) for end in ends)
    assert len({d for end in ends for d in end.depths}) > 2
    assert stats.cache_bytes == stats.cache_bytes_reserved == 0


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=st.lists(st.tuples(st.integers(0, 41), st.sampled_from(["go", "go", "pause", "cancel"])), max_size=9),
    rows=st.sampled_from([1, 4]),
)
def test_whatever_joins_and_leaves_in_whatever_order(t5, program, rows):
    tickets = []
    with Scheduler(t5, encoder_rows=rows) as scheduler:
        for number, act in program:
            ticket = scheduler.submit(request_of("t5_tied", number))
            tickets.append((number, ticket))
            if act == "pause":
                next(iter(ticket))  # its first token
            if act == "cancel":
                tickets[number % len(tickets)][1].cancel()
        ends = [list(ticket)[-1] for _, ticket in tickets]
        assert scheduler.drain(WAIT)
        assert scheduler.stats().cache_bytes_reserved == 0
    for (number, ticket), end in zip(tickets, ends, strict=True):
        tokens, depths = alone(t5, "t5_tied", number)
        if isinstance(end, Failed):
            assert ticket.cancelled and isinstance(end.error, RequestCancelled)
            assert end.tokens == tokens[: len(end.tokens)] and end.depths == depths[: len(end.depths)]
        else:
            assert (end.tokens, end.depths) == (tokens, depths)


def test_events_come_in_order_to_threads_and_to_event_loops(t5):
    request = request_of("t5_tied", 4)

    async def read(ticket):
        return [event async for event in ticket]

    async def both(scheduler):
        ticket = scheduler.submit(request)
        one, two = await asyncio.gather(read(ticket), read(ticket))
        assert one == two and (await ticket.wait()) is one[-1]
        return one

    with Scheduler(t5) as scheduler:
        events = asyncio.run(both(scheduler))
        again = list(scheduler.submit(request_of("t5_tied", 4)))
    *tokens, end = events
    assert all(isinstance(event, Token) for event in tokens)
    assert [t.id for t in tokens] == end.tokens and [t.depth for t in tokens] == end.depths
    assert all(0 < t.confidence <= 1 for t in tokens)
    assert sorted(t.time for t in tokens) == [t.time for t in tokens]
    assert [e.id for e in again[:-1]] == end.tokens
    assert 0 <= end.queued_s <= end.first_token_s <= end.total_s


def test_confidence_is_the_probability_at_the_exit(t5):
    inputs = inputs_of("t5_tied", 1)
    options = {"max_new_tokens": 5, "exit_threshold": 0.4}
    with Scheduler(t5) as scheduler:
        events = list(scheduler.submit(GenerationRequest(inputs, options)))[:-1]
        silent = list(scheduler.submit(GenerationRequest(inputs, options, confidence=False)))[:-1]
    out = t5.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    for event, logits in zip(events, out.logits, strict=True):
        assert event.confidence == pytest.approx(float(logits[0].softmax(-1)[event.id]), abs=1e-5)
    assert [event.confidence for event in silent] == [None] * len(silent)


def test_a_full_queue_says_when_to_come_back(t5):
    gate = Gate()
    with Scheduler(t5, queue_limit=2, cache_bytes=80_000) as scheduler:
        first = scheduler.submit(
            GenerationRequest(inputs_of("t5_tied", 0), {"max_new_tokens": 8, "logits_processor": [gate]})
        )
        assert gate.reached.wait(WAIT)
        waiting = []
        with pytest.raises(QueueFull) as refusal:
            for _ in range(12):
                waiting.append(scheduler.submit(GenerationRequest(inputs_of("t5_tied", 1), {"max_new_tokens": 16})))
        assert 1 <= refusal.value.retry_after_s <= 120
        assert scheduler.stats().refused == 1 and scheduler.stats().queue_length == 2
        gate.opened.set()
        for ticket in [first, *waiting]:
            ticket.result(WAIT)
        assert scheduler.stats().finished == 1 + len(waiting)


def test_what_can_never_fit_is_told_so_and_what_does_not_fit_waits(t5):
    with Scheduler(t5, cache_bytes=80_000) as scheduler:
        with pytest.raises(RequestTooLarge, match="budget"):
            scheduler.submit(GenerationRequest(inputs_of("t5_tied", 0), {"max_new_tokens": 500}))
        tickets = [scheduler.submit(request_of("t5_tied", n)) for n in range(14)]
        most = 0
        while not all(t.done for t in tickets):
            most = max(most, scheduler.stats().cache_bytes_reserved)
            time.sleep(0.002)
        check(t5, "t5_tied", range(14), [t.result(WAIT) for t in tickets])
        assert 0 < most <= 80_000


def test_deadlines_and_cancellations_free_the_row(t5):
    gate = Gate()
    long = {"max_new_tokens": 400, "min_new_tokens": 400}
    with Scheduler(t5) as scheduler:
        one = scheduler.submit(
            GenerationRequest(inputs_of("t5_tied", 0), {**long, "logits_processor": [gate]}, deadline_s=0.2)
        )
        two = scheduler.submit(GenerationRequest(inputs_of("t5_tied", 1), {"max_new_tokens": 4}))
        assert gate.reached.wait(WAIT)
        time.sleep(0.25)
        gate.opened.set()
        with pytest.raises(DeadlinePassed):
            one.result(WAIT)
        assert len(one.end.tokens) < 400
        two.result(WAIT)
        three = scheduler.submit(GenerationRequest(inputs_of("t5_tied", 0), long))
        next(iter(three))
        three.cancel()
        with pytest.raises(RequestCancelled):
            three.result(WAIT)
        assert scheduler.drain(WAIT)
        stats = scheduler.stats()
    assert (stats.expired, stats.cancelled, stats.finished) == (1, 1, 1)
    assert stats.cache_bytes == stats.cache_bytes_reserved == stats.running_rows == 0


def test_a_deadline_passes_in_the_queue_too(t5):
    gate = Gate()
    with Scheduler(t5, cache_bytes=120_000) as scheduler:
        holder = scheduler.submit(
            GenerationRequest(inputs_of("t5_tied", 0), {"max_new_tokens": 30, "logits_processor": [gate]})
        )
        assert gate.reached.wait(WAIT)
        late = scheduler.submit(GenerationRequest(inputs_of("t5_tied", 1), {"max_new_tokens": 30}, deadline_s=0.01))
        time.sleep(0.05)
        gate.opened.set()
        with pytest.raises(DeadlinePassed):
            late.result(WAIT)
        holder.result(WAIT)


class Raises:
    """A processor, criterion or policy that fails at its third token."""

    needs_history = False
    exits_early = True

    def __init__(self, message):
        self.message, self.count = message, 0

    def __call__(self, ids, scores):
        self.count += 1
        if self.count == 3:
            raise RuntimeError(self.message)
        return scores if scores is not None else torch.zeros(1, dtype=torch.bool)

    def leaves(self, query):
        if query.steps[0] == 2:
            raise RuntimeError(self.message)
        return torch.ones(len(query.rows), dtype=torch.bool)


def test_what_raises_fails_its_own_request_alone(t5):
    from transformers import LogitsProcessorList, StoppingCriteriaList

    bad = [
        {"logits_processor": LogitsProcessorList([Raises("a processor")])},
        {"stopping_criteria": StoppingCriteriaList([Raises("a criterion")])},
        {"exit_policy": Raises("a policy")},
    ]
    good = [1, 2, 3, 5, 7]
    with Scheduler(t5) as scheduler:
        tickets = [scheduler.submit(request_of("t5_tied", n)) for n in good]
        failing = [
            scheduler.submit(GenerationRequest(inputs_of("t5_tied", 2), {"max_new_tokens": 20, **options}))
            for options in bad
        ]
        more = [scheduler.submit(request_of("t5_tied", n)) for n in good]
        check(t5, "t5_tied", good + good, [ticket.result(WAIT) for ticket in tickets + more])
        for ticket, message in zip(failing, ("a processor", "a criterion", "a policy"), strict=True):
            with pytest.raises(RuntimeError, match=message):
                ticket.result(WAIT)
            assert len(ticket.end.tokens) == (3 if message == "a criterion" else 2)
        assert scheduler.stats().failed == 3


def test_an_encoder_that_raises_fails_its_own_request_alone():
    bart = deed_model("bart")
    too_long = {"input_ids": torch.full((1, 80), 5)}  # of 64 positions
    with Scheduler(bart, encoder_rows=4) as scheduler:
        tickets = [scheduler.submit(request_of("bart", n)) for n in (0, 1, 2)]
        bad = scheduler.submit(GenerationRequest(too_long, {"max_new_tokens": 3}))
        check(bart, "bart", (0, 1, 2), [ticket.result(WAIT) for ticket in tickets])
        with pytest.raises((IndexError, RuntimeError)):
            bad.result(WAIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 3}, "num_beams=1"),
        ({"do_sample": True, "num_return_sequences": 2}, "one row"),
        ({"past_key_values": object()}, "past_key_values"),
        ({"exit_threshold": [0.5]}, "exit_threshold"),
        (
            {"decoder_attention_mask": torch.tensor([[0, 1]]), "decoder_input_ids": torch.tensor([[0, 4]])},
            "decoder_attention",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(t5, options, message):
    with Scheduler(t5) as scheduler:
        with pytest.raises(ValueError, match=message):
            scheduler.submit(GenerationRequest(inputs_of("t5_tied", 1), {"max_new_tokens": 3, **options}))
        with pytest.raises(ValueError, match="one row"):
            rows = {k: v.expand(2, -1) for k, v in inputs_of("t5_tied", 1).items()}
            scheduler.submit(GenerationRequest(rows, {"max_new_tokens": 3}))
        assert not scheduler.busy


def test_draining_and_closing(t5):
    scheduler = Scheduler(t5)
    ticket = scheduler.submit(request_of("t5_tied", 1))
    assert scheduler.drain(WAIT) and ticket.done
    with pytest.raises(SchedulerClosed):
        scheduler.submit(request_of("t5_tied", 1))
    scheduler.close()
    scheduler = Scheduler(t5)
    long = scheduler.submit(
        GenerationRequest(inputs_of("t5_tied", 0), {"max_new_tokens": 5000, "min_new_tokens": 5000})
    )
    next(iter(long))
    assert not scheduler.drain(0.0)
    scheduler.close()
    with pytest.raises(SchedulerClosed):
        long.result(WAIT)
    assert not scheduler._thread.is_alive()


def test_code_that_generates_by_itself_joins_the_batch(t5):
    rows = {k: v.repeat(3, 1) for k, v in inputs_of("t5_tied", 3).items()}
    rows["input_ids"][1] += 1
    options = {"max_new_tokens": 7, "repetition_penalty": 1.3, "exit_threshold": torch.tensor([0.4, 0.9, 2.0])}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    expected = t5.generate(**rows, **options)
    found = []
    with Scheduler(t5) as scheduler:

        def work():
            with scheduler.guest():
                found.append(t5.generate(**rows, **options))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert scheduler.stats().batch_rows > scheduler.stats().step_s.count
    for out in found:
        assert torch.equal(out.sequences, expected.sequences)
        assert torch.equal(out.exit_layers, expected.exit_layers)
        assert len(out.scores) == len(expected.scores)
        for one, two in zip(out.scores, expected.scores, strict=True):
            torch.testing.assert_close(one[0], two[0])
    assert len(found) == 3


def test_memory_is_flat_and_an_idle_scheduler_sleeps(t5):
    def tensors():
        gc.collect()
        return sum(1 for x in gc.get_objects() if type(x) is torch.Tensor)

    with Scheduler(t5) as scheduler:
        for n in range(6):
            scheduler.submit(request_of("t5_tied", n)).result(WAIT)
        assert scheduler.drain(WAIT)
        before = tensors()
        scheduler._admission.draining = False
        for ticket in [scheduler.submit(request_of("t5_tied", n)) for n in range(28)]:
            ticket.result(WAIT)
        del ticket
        assert scheduler.drain(WAIT)
        assert tensors() <= before + 8
        used = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - used < 0.1
