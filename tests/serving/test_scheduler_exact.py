"""Exact requests in the running batch: drafted, and always the tokens of full depth, whatever runs beside them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ofa_models import plain_ofa
from serving_cases import Stateful, alone, inputs_of, model_of, request_of

from conftest import deed_model, plain_model
from deed import DeedConfig, get_deed_model
from deed.engine import drafting
from deed.policies.query import ExitDecision
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.serving.ticket import Failed, Token

WAIT = 120
STATEFUL = 9  # of options_of; generate(exact=True) alone refuses it


@pytest.fixture(scope="module")
def t5():
    return model_of("t5_tied")


@pytest.mark.parametrize("kind", ["t5_tied", "bart", "ofa", "latr"])
def test_exact_rows_beside_others(kind):
    """Two of three rows are exact, over all options, sampling with a seed among them; the others are untouched by that."""
    model = model_of(kind)
    numbers = [n for n in range(42) if n % 14 != STATEFUL]
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(request_of(kind, n, exact=n % 3 > 0)) for n in numbers]
        ends = [ticket.result(WAIT) for ticket in tickets]
        drafted = scheduler._decoding.pace.tuner.judged
    accepted = 0
    for n, ticket, end in zip(numbers, tickets, ends, strict=True):
        tokens, depths = alone(model, kind, n, exact=n % 3 > 0)
        assert end.tokens == tokens, (kind, n)
        assert [event.id for event in ticket if isinstance(event, Token)] == tokens
        if n % 3 == 0:
            assert end.depths == depths and end.accepted is None
        else:
            early = sum(depth < 5 for depth in end.depths)
            assert len(end.depths) == len(tokens) and end.accepted >= early
            accepted += end.accepted
    assert 0 < accepted < drafted, "drafts of both fates"


class Dice:
    """Drafts at every exit by a generator of its own: rows exit, wait and are verified in every order."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, drafts, exit_index, probability, token):
        drafts.asked[-1].append((exit_index, 0, token))
        drafts.up = bool(torch.rand((), generator=self.generator) < 0.2)
        return not drafts.up and bool(torch.rand((), generator=self.generator) < 0.6)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=st.lists(
        st.tuples(st.integers(0, 41), st.booleans(), st.sampled_from(["go", "go", "pause", "cancel"])), max_size=9
    ),
    seed=st.integers(0, 1000),
)
def test_whatever_is_drafted_and_whoever_joins_and_leaves(t5, program, seed):
    tickets, dice = [], Dice(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting.Drafts, "leaves", lambda drafts, *about: dice(drafts, *about))
        patch.setattr(drafting.Pace, "asking_pays", lambda *about: True)
        with Scheduler(t5, encoder_slice_s=0.0) as scheduler:
            for number, exact, act in program:
                exact = exact and number % 14 != STATEFUL
                ticket = scheduler.submit(request_of("t5_tied", number, exact=exact))
                tickets.append((number, exact, ticket))
                if act == "pause":
                    next(iter(ticket))
                if act == "cancel":
                    tickets[number % len(tickets)][2].cancel()
            ends = [list(ticket)[-1] for *_, ticket in tickets]
            assert scheduler.drain(WAIT)
            assert scheduler.stats().cache_bytes_reserved == 0
    for (number, exact, ticket), end in zip(tickets, ends, strict=True):
        tokens, depths = alone(t5, "t5_tied", number, exact=exact)
        if isinstance(end, Failed):
            assert ticket.cancelled and end.tokens == tokens[: len(end.tokens)]
        else:
            assert end.tokens == tokens
            assert exact or end.depths == depths


def test_a_processor_that_remembers_is_asked_once_a_token(t5):
    """What `generate(exact=True)` alone refuses is answered at full depth, without drafts."""
    ticket_options = {"max_new_tokens": 9, "logits_processor": [Stateful()]}
    with Scheduler(t5) as scheduler:
        end = scheduler.submit(GenerationRequest(inputs_of("t5_tied", 1), ticket_options, exact=True)).result(WAIT)
    full = {"max_new_tokens": 9, "logits_processor": [Stateful()], "exit_threshold": 2.0}
    out = t5.generate(**inputs_of("t5_tied", 1), **full)
    assert end.tokens == out[0, 1:].tolist() and end.accepted == 0


def test_a_step_that_raises_does_not_harm_drafts(t5):
    decide, calls = drafting.DraftPolicy.decide, []

    def sometimes(policy, query):
        calls.append(len(query.rows))
        if len(calls) % 3 == 0 and len(query.rows) > 1:
            raise RuntimeError("a policy")
        found = decide(policy, query)
        assert isinstance(found, ExitDecision)
        return found

    numbers = [n for n in range(12) if n != STATEFUL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting.DraftPolicy, "decide", sometimes)
        with Scheduler(t5) as scheduler:
            tickets = [scheduler.submit(request_of("t5_tied", n, exact=True)) for n in numbers]
            ends = [ticket.result(WAIT) for ticket in tickets]
    assert len(calls) > 10
    assert [end.tokens for end in ends] == [alone(t5, "t5_tied", n, exact=True)[0] for n in numbers]


@pytest.mark.parametrize("kind", ["t5_tied", "bart", "ofa"])
def test_a_plain_model_answers_exactly(kind):
    """Untrained exits draft badly: the answers are the plain model's own `generate()`, and drafting soon stops."""
    plain = (plain_ofa(enc=4, dec=4) if kind == "ofa" else plain_model(kind, enc=4, dec=4)).eval()
    inputs = [inputs_of(kind, n) for n in range(6)]
    limits = {"max_new_tokens": 12, "do_sample": False, "num_beams": 1}
    expected = [plain.generate(**row, **limits)[0].tolist() for row in inputs]
    model = get_deed_model(plain, DeedConfig()).eval()
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(GenerationRequest(row, limits, exact=True)) for row in inputs]
        ends = [ticket.result(WAIT) for ticket in tickets]
    for end, tokens in zip(ends, expected, strict=True):
        assert [*end.prompt, *end.tokens] == tokens[: len(end.prompt) + len(end.tokens)]
        assert not any(t != tokens[-1] for t in tokens[len(end.prompt) + len(end.tokens) :])


def test_drafting_stops_where_no_draft_stands():
    """But for a try now and then."""
    pace = drafting.Pace(model_of("bart"))
    row, asked, at_first = drafting.Drafts(pace), [], pace.tuner.share
    for t in range(300):
        row.begin(20)
        if not row.up:
            asked.append(t)
            if row.leaves(0, 0.5, 3):
                row.took(3, 1)
                row.begin(19)
        row.verified([4])
    assert len([t for t in asked if t >= 200]) <= 100 / drafting.RETRY + 1 < len(asked)
    assert row.accepted == 0 and pace.tuner.share < at_first


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_exits_with_layers_of_their_own(kind):
    model = deed_model(kind, DeedConfig(adapter="layer"))
    numbers = [n for n in range(14) if n != STATEFUL]
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(request_of(kind, n, exact=n % 2 > 0)) for n in numbers]
        ends = [ticket.result(WAIT) for ticket in tickets]
    early = 0
    for n, end in zip(numbers, ends, strict=True):
        tokens, depths = alone(model, kind, n, exact=n % 2 > 0)
        assert end.tokens == tokens, (kind, n)
        if n % 2 == 0:
            assert end.depths == depths
            early += sum(depth < 5 for depth in depths)
    assert early > 3
