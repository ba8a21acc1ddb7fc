"""Rows that join a running batch and leave it: token by token the same logits and depths as each alone, in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ofa_models import ofa_batch, ofa_model

from conftest import KINDS, VOCAB, deed_model
from deed import FixedSchedule, MaxProb, StaircaseCache, ThresholdPolicy
from deed.engine.staircase import Staircase
from deed.engine.step import decode_step
from deed.families.ofa import OFAFamily

pytestmark = pytest.mark.usefixtures("packing")
N_LAYERS = 5
MODELS = {kind: deed_model(kind) for kind in KINDS}


class Request:
    """One row: a source, a prompt, a policy, and what it gave token by token."""

    def __init__(self, model, number, policy, source=None):
        generator = torch.Generator().manual_seed(number)
        if source is None:
            ids = torch.randint(3, VOCAB, (1, 3 + (number * 2) % 5), generator=generator)
            mask = torch.ones_like(ids)
            if number % 3 == 2:
                mask[:, -1] = 0
            source = {"input_ids": ids, "attention_mask": mask}
        self.model, self.policy, self.source = model, policy, source
        start = torch.tensor([[model.config.decoder_start_token_id]])
        prompt = torch.randint(3, VOCAB, (1, number % 3), generator=generator)
        self.prompt = torch.cat([start, prompt], 1)
        self.logits, self.depths = [], []

    def begin(self):
        """A cache after the first step."""
        cache = StaircaseCache(N_LAYERS, self.policy, capacity=2, audit=True)
        encoded = self.model.get_encoder()(**self.source)
        mask = getattr(encoded, "attention_mask", None)  # OFA's spans pictures, too
        cache.begin(self.model, encoded, encoder_mask=self.source["attention_mask"] if mask is None else mask)
        self.take(decode_step(cache, self.prompt)[0, 0], cache.state.depths[-1][0])
        return cache

    def take(self, logits, depth):
        self.logits.append(logits)
        self.depths.append(depth)

    @property
    def token(self):
        return int(self.logits[-1].argmax())


def alone(request, tokens):
    cache = request.begin()
    for _ in range(tokens - 1):
        request.take(decode_step(cache, torch.tensor([[request.token]]))[0, 0], cache.state.depths[-1][0])
    return request


def together(requests, arrivals, tokens, waits):
    """Everyone in one batch from its arrival until it has its tokens; who waits sits a step out."""
    running, cache, tick = [], None, 0
    while running or tick <= max(arrivals):
        for request, arrival in zip(requests, arrivals, strict=True):
            if arrival == tick:
                new = request.begin()
                if cache is None or not running:
                    cache = new
                else:
                    cache.join(new)
                running.append(request)
        done = [r for r, request in enumerate(running) if len(request.logits) >= tokens[requests.index(request)]]
        if done:
            left = [r for r in range(len(running)) if r not in done]
            if left:
                cache.keep(left)
            running = [running[r] for r in left]
        rows = [r for r in range(len(running)) if (tick, r) not in waits] or list(range(len(running)))
        if running:
            ids = torch.tensor([[running[r].token] for r in rows])
            logits = decode_step(cache, ids, rows=None if len(rows) == len(running) else rows)
            for i, r in enumerate(rows):
                running[r].take(logits[i, 0], cache.state.depths[-1][r])
            assert int(cache.stairs.writes.max()) <= 1
        tick += 1


def check(make, arrivals, tokens, waits=()):
    n = len(arrivals)
    expected = [alone(make(i), tokens[i]) for i in range(n)]
    got = [make(i) for i in range(n)]
    together(got, arrivals, tokens, set(waits))
    for one, two in zip(expected, got, strict=True):
        assert two.depths == one.depths
        for a, b in zip(one.logits, two.logits, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-10)
    return expected


def policies(kind):
    if kind == "schedule":
        return lambda i: FixedSchedule([1 + (i * 3 + t * 2) % 5 for t in range(4)])
    decay = {"temperature": 4.0, "length": 9} if kind == "decay" else None
    return lambda i: ThresholdPolicy(MaxProb(), [0.6, 0.9, 0.75, 0.3][i % 4], decay)


@pytest.mark.parametrize("policy", ["schedule", "threshold", "decay"])
@pytest.mark.parametrize("path", ["parts", "layers"])
def test_rows_that_join_and_leave_are_as_alone(kind, policy, path, monkeypatch):
    model, of = MODELS[kind], policies(policy)
    if path == "layers":  # each layer by its own forward, for the rows of one length after those of another
        monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    found = check(
        lambda i: Request(model, i, of(i)),
        arrivals=[0, 0, 2, 3, 5],
        tokens=[7, 4, 9, 5, 6],
        waits=[(3, 1), (4, 0), (6, 2)],
    )
    assert len({d for one in found for d in one.depths}) > 2


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    arrivals=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    tokens=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    waits=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=8),
)
def test_whatever_the_order(name, arrivals, tokens, waits):
    model, of = MODELS[name], policies("schedule")
    check(lambda i: Request(model, i, of(i)), arrivals, tokens[: len(arrivals)], waits)


@pytest.mark.parametrize("path", ["parts", "layers"])
@pytest.mark.parametrize("images", [True, False])
def test_ofa_rows_join_where_their_pictures_are_of_one_size(images, path, monkeypatch):
    if path == "layers":
        monkeypatch.setattr(OFAFamily, "parts", lambda self, model: None)
    model, whole = ofa_model(), ofa_batch(rows=4, images=images)

    def make(i):
        source = {k: v[i : i + 1] for k, v in whole.items()}
        if not images:  # sources of different length
            n = int(source["attention_mask"].sum())
            source = {k: v[:, :n] for k, v in source.items()}
        return Request(model, i, FixedSchedule([1 + (i + 2 * t) % N_LAYERS for t in range(3)]), source)

    check(make, arrivals=[0, 1, 3, 3], tokens=[5, 6, 4, 5])


def test_ofa_rows_with_pictures_of_other_sizes_are_refused():
    model = ofa_model()
    one, two = (Request(model, 0, FixedSchedule([2]), ofa_batch(rows=1, size=size)) for size in ((48, 40), (40, 64)))
    with pytest.raises(ValueError, match="pictures of one size"):
        one.begin().join(two.begin())


def test_what_cannot_share_a_batch(kind):
    model = MODELS[kind]
    one, two = (Request(model, i, ThresholdPolicy(MaxProb(), 0.5)).begin() for i in range(2))
    fresh = StaircaseCache(N_LAYERS, FixedSchedule([1]))
    with pytest.raises(ValueError, match="have to have begun"):
        one.join(fresh)
    with pytest.raises(ValueError, match="same confidence measure"):
        one.join(Request(model, 1, FixedSchedule([2])).begin())
    other = deed_model(kind)
    with pytest.raises(ValueError, match="another model"):
        one.join(Request(other, 1, ThresholdPolicy(MaxProb(), 0.5)).begin())
    assert one.stairs.n_rows == two.stairs.n_rows == 1, "nothing has changed"


# -- the staircase alone ----------------------------------------------------------------------------------------------

ROWS, DEPTHS = st.sets(st.integers(0, 5), min_size=1), st.lists(st.integers(1, 3), min_size=6, max_size=6)
GROW = st.tuples(st.just("grow"), st.integers(1, 3), ROWS, DEPTHS)
JOIN = st.tuples(st.just("join"), st.integers(1, 2), st.integers(1, 4))
KEEP = st.tuples(st.just("keep"), st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
BACK = st.tuples(st.just("back"), st.integers(0, 2))


class Counting:
    """A staircase over layers that add 1 to what they get, and whose keys say (row's name, position, layer)."""

    def __init__(self, rows, length, first_name):
        self.stairs = Staircase(3, capacity=1, audit=True)
        self.names = [first_name + r for r in range(rows)]
        self.lengths = [0] * rows
        self.deepest = [[] for _ in range(rows)]
        self.grow(length, set(range(rows)), [1] * 6)

    def grow(self, new, rows, depths):
        rows = sorted({r % len(self.names) for r in rows})
        cells = [[self.cell(self.names[r], self.lengths[r] + i) for i in range(new)] for r in rows]
        self.stairs.extend(torch.tensor(cells), rows)
        for r in rows:
            self.lengths[r] += new
            self.deepest[r] += [0] * new
        for layer in range(3):
            active = [r for r in rows if depths[r] > layer]
            if not active:
                break
            block = self.stairs.block(layer, active, self.span_worth)
            self.stairs.put(block, self.heads(block.hidden), self.heads(block.hidden))
            newest = block.newest(block.hidden)
            for i, r in enumerate(active):
                assert newest[i].tolist() == [self.names[r], self.lengths[r] - 1, layer]
            self.stairs.widen(block, block.hidden + torch.tensor([0.0, 0.0, 1.0]))
            for r in active:
                self.deepest[r] = [max(d, layer + 1) for d in self.deepest[r]]

    span_worth = 0.0

    @staticmethod
    def cell(name, position):
        return [float(name), float(position), 0.0]

    @staticmethod
    def heads(x):
        return x[:, None]

    def check(self):
        s = self.stairs
        assert s.lengths == self.lengths and s.length == max(self.lengths)
        assert s.ragged == (len(set(self.lengths)) > 1)
        for r, name in enumerate(self.names):
            filled = [s.filled[layer][r] for layer in range(3)]
            assert filled == sorted(filled, reverse=True)
            assert filled == [sum(d > layer for d in self.deepest[r]) for layer in range(3)]
            for position, depth in enumerate(self.deepest[r]):
                assert s.hidden[r, position].tolist() == [name, position, depth]
                for layer in range(depth):
                    assert s.keys[layer][r, 0, position].tolist() == [name, position, layer]
        assert int(s.writes.max()) <= 1


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=st.lists(st.one_of(GROW, GROW, JOIN, KEEP, BACK), max_size=10),
    span_worth=st.sampled_from([0.0, 2.0, float("inf")]),
)
@torch.inference_mode()  # as decode_step
def test_every_row_keeps_what_is_its_own(program, span_worth):
    rig = Counting(2, 1, 0)
    rig.span_worth = span_worth
    next_name = 2
    for op, *arguments in program:
        if op == "grow":
            rig.grow(*arguments)
        elif op == "join":
            rows, length = arguments
            other = Counting(rows, length, next_name)
            next_name += rows
            if len(rig.names) + rows > 6:
                continue
            rig.stairs.join(other.stairs)
            for name in ("names", "lengths", "deepest"):
                getattr(rig, name).extend(getattr(other, name))
        elif op == "keep":
            rows = list(dict.fromkeys(r % len(rig.names) for r in arguments[0]))
            rig.stairs.select(torch.tensor(rows))
            for name in ("names", "lengths", "deepest"):
                setattr(rig, name, [getattr(rig, name)[r] for r in rows])
        else:
            n = min(arguments[0], min(rig.lengths) - 1)
            rig.stairs.rollback(n)
            rig.lengths = [x - n for x in rig.lengths]
            rig.deepest = [d[: len(d) - n] for d in rig.deepest]
        rig.check()


def test_staircases_that_do_not_fit():
    stairs, other = Staircase(2), Staircase(3)
    stairs.extend(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="extend\\(\\) first"):
        stairs.join(other)
    other.extend(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="cannot join"):
        stairs.join(other)
    with pytest.raises(ValueError, match="holds 1 rows, but 2"):
        stairs.extend(torch.zeros(2, 1, 4))
