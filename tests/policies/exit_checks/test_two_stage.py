"""Cheap copies, their error bounds, low rank and refined tokens on their own (in decoding: test_asking.py)."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import deed_model
from deed import DeedConfigError, ExitQuery, FixedSchedule, Margin, MaxProb, StateSimilarity, ThresholdPolicy
from deed.exits.head_rows import gathered_logits, principal_directions
from deed.policies.exit_checks import Screen, TwoStagePolicy, build_exit_check, with_exit_check
from deed.policies.exit_checks.bounds import UpperBound, bounded
from deed.policies.exit_checks.int8_copy import CheapMatrix, has_int8
from deed.policies.exit_checks.two_stage import QUERY_FIELDS, ApproximateQuery
from deed.policies.query import ExitDecision

needs_int8 = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="no int8 kernel on this machine")


def numbers(seed, *shape, scale=1.0, outliers=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator) * scale
    return x * (torch.rand(*shape, generator=generator) * 3).exp() if outliers else x


SIZES = {
    "seed": st.integers(0, 10**6),
    "vocab": st.sampled_from([2, 17, 300]),
    "width": st.sampled_from([4, 31, 128]),
    "scale": st.sampled_from([1e-3, 0.1, 1.0, 5.0]),
    "outliers": st.booleans(),
}


@needs_int8
@settings(deadline=None, max_examples=60)
@given(**SIZES)
def test_a_careful_copy_keeps_within_its_error(seed, vocab, width, scale, outliers):
    weight, x = numbers(seed, vocab, width, scale=scale, outliers=outliers), numbers(seed + 1, 3, width)
    copy = CheapMatrix(weight, careful=True)
    exact = x.double() @ weight.double().T
    rounding = 4 * (width + 16) * torch.finfo(torch.float32).eps * copy.largest_norm * x.norm(dim=-1)
    off = (copy(x) - exact).abs().amax(-1)
    assert (off <= copy.error(x) + rounding).all()
    assert (copy.error(x) < 0.1 * copy.largest_norm * x.norm(dim=-1)).all(), "a bound that says nothing"


@needs_int8
def test_int8_is_near_and_zeros_are_harmless():
    weight, x = numbers(0, 200, 64), numbers(1, 5, 64)
    for careful in (False, True):
        exact = x @ weight.T
        assert (CheapMatrix(weight, careful)(x) - exact).abs().max() < 0.05 * exact.abs().max()
        nothing = CheapMatrix(torch.zeros(9, 64), careful)(torch.zeros(2, 64))
        assert nothing.shape == (2, 9) and (nothing.abs() < 1e-20).all()
    weight[3] = 0
    assert (CheapMatrix(weight, True)(x)[:, 3].abs() < 1e-20).all()


def test_bfloat16_where_there_is_no_int8_kernel(monkeypatch):
    monkeypatch.setattr("deed.policies.exit_checks.int8_copy.has_int8", lambda device: False)
    weight, x = numbers(0, 200, 64), numbers(1, 5, 64)
    exact, got = x @ weight.T, CheapMatrix(weight)(x)
    assert got.dtype == torch.float32 and (got - exact).abs().max() < 0.02 * exact.abs().max()


@needs_int8
@settings(deadline=None, max_examples=80)
@given(
    **SIZES,
    refine=st.sampled_from([0, 1, 5]),
    margin=st.booleans(),
    threshold=st.sampled_from([0.2, 0.5, 0.9, 0.99, 1.0]),
    masked=st.booleans(),
)
def test_the_upper_bound_never_says_no_where_the_exact_head_says_yes(
    seed, vocab, width, scale, outliers, refine, margin, threshold, masked
):
    """The whole path of a bounded screen, on a head of random weights and with thresholds that exact confidences touch."""
    weight, hidden = numbers(seed, vocab, width, scale=scale, outliers=outliers), numbers(seed + 1, 6, width)
    model = _HeadOnly(weight, numbers(seed + 2, vocab) if seed % 2 else None, scale=0.5 if seed % 3 else 1.0)
    allowed = (numbers(seed + 3, 6, vocab) > 0) if masked else None
    if allowed is not None:
        allowed[:, 0] = True
    measure = Margin() if margin else MaxProb()
    screen = Screen(model, None, refine, bound=True)
    exact = _ask(hidden, model.head, allowed)
    confidence = measure(exact)
    upper = UpperBound(margin)(_look(exact, screen))
    assert (upper >= confidence).all()
    for value in (threshold, float(confidence[0])):
        policy = ThresholdPolicy(measure, value)
        two_stages = TwoStagePolicy(policy, screen)
        maybe, yes = two_stages.first.leaves(_look(exact, screen)), policy.leaves(exact)
        assert (maybe >= yes).all()
        leaves = two_stages.leaves(_ask(hidden, model.head, allowed))
        # Six rows at once and some of them alone may differ in the last bit, plainly asked too.
        clear = (confidence - value).abs() > 1e-5
        assert torch.equal(leaves[clear], yes[clear]) and not (leaves & ~maybe).any()


@needs_int8
def test_the_upper_bound_is_no_blanket_yes():
    weight, hidden = numbers(0, 500, 128, scale=0.2), numbers(1, 64, 128)
    screen = Screen(_HeadOnly(weight), None, 16, bound=True)
    exact = _ask(hidden, screen.exits.head)
    threshold = float(MaxProb()(exact).quantile(0.7))
    maybe = bounded(ThresholdPolicy(MaxProb(), threshold)).leaves(_look(exact, screen))
    yes = MaxProb()(exact) >= threshold
    assert yes.sum() <= maybe.sum() < 0.6 * len(maybe)


def test_refined_tokens_are_exact(kind):
    model = deed_model(kind)
    hidden = numbers(0, 3, 32).double()
    exact = _ask(hidden, lambda h: model.exit_head(2, h))
    for spec in ({}, {"rank": 5}, {"bound": True}):
        look = _look(exact, Screen(model, **{**ALL, "refine": 7, **spec}))
        rough, tokens = look.logits, look.approximation.refined
        assert tokens.shape == (3, 7)
        torch.testing.assert_close(
            rough.gather(1, tokens), exact.logits.float().gather(1, tokens), rtol=1e-5, atol=1e-5
        )
        assert (rough - exact.logits).abs().max() > 1e-4
    weight, bias, scale = model.deed_family.head_parts(model)
    features = model.deed_exits["2"](model.deed_family.final_norm(model, hidden))
    every = torch.arange(40).expand(3, 40)
    torch.testing.assert_close(gathered_logits(weight, bias, scale, features, every), exact.logits)


ALL = {"rank": None, "refine": 0, "bound": False}


def test_low_rank_reproduces_a_head_of_that_rank():
    weight = numbers(0, 300, 6) @ numbers(1, 6, 32) + numbers(2, 1, 32)  # rank 6 about its mean
    model = _HeadOnly(weight)
    exact = _ask(numbers(3, 4, 32), model.head)
    rough = _look(exact, Screen(model, **{**ALL, "rank": 6})).logits
    assert (rough - exact.logits).abs().max() < 0.05 * exact.logits.abs().max()
    down = principal_directions(weight, 6)
    torch.testing.assert_close(down @ down.T, torch.eye(6), rtol=0, atol=1e-5)
    worse = _look(exact, Screen(model, **{**ALL, "rank": 3})).logits
    assert (worse - exact.logits).norm() > 3 * (rough - exact.logits).norm()


def test_a_shortlist_is_the_last_full_look_of_this_step_and_row():
    model = _HeadOnly(numbers(0, 50, 16))
    head = build_exit_check({"name": "shortlist", "size": 5}, model).begin()

    def ask(exit_index, rows):
        return _ask(numbers(exit_index, 4, 16)[rows], model.head, exit_index=exit_index, rows=torch.tensor(rows))

    def stay(query):
        return torch.zeros(len(query.rows), dtype=torch.bool)

    first = ask(0, [0, 1, 2, 3])
    assert not head.serves(first)
    head.observe(first, ExitDecision(stay(first), None, first.logits))
    best = first.logits.topk(5).indices
    second = ask(1, [1, 3])
    assert head.serves(second)
    seen = head.approximation(second).logits
    for i, row in enumerate((1, 3)):
        listed = (seen[i] > -torch.inf).nonzero()[:, 0]
        assert set(listed.tolist()) == set(best[row].tolist())
        torch.testing.assert_close(seen[i, listed], second.logits[i, listed])
    # Row 3 was confirmed, so that all its logits are known: its list is new, row 1's is not.
    confirmed = second.head(second.hidden[1:])
    head.observe(second, ExitDecision(stay(second), torch.tensor([1]), confirmed))
    third = ask(2, [1, 3])
    assert head.serves(third)
    listed = [set((row > -torch.inf).nonzero()[:, 0].tolist()) for row in head.approximation(third).logits]
    assert listed == [set(best[1].tolist()), set(confirmed[0].topk(5).indices.tolist())]
    head.observe(third, ExitDecision(stay(third)))
    again = ask(0, [0, 1])
    assert not head.serves(again), "a new step starts anew"
    head.observe(again, ExitDecision(stay(again)))
    assert not head.serves(ask(1, [0, 1])), "nothing is known yet: the exit before computed no logits"


def test_a_shortlist_leaves_out_what_is_not_allowed():
    model = _HeadOnly(numbers(0, 50, 16))
    head = build_exit_check({"name": "shortlist", "size": 5}, model).begin()
    allowed = torch.arange(50).expand(2, 50) >= 40
    query = _ask(numbers(1, 2, 16), model.head, allowed, exit_index=0)
    head.serves(query)
    head.observe(query, ExitDecision(torch.zeros(2, dtype=torch.bool), None, query.logits))
    assert head.serves(_ask(numbers(2, 2, 16), model.head, allowed)) and (head.tokens >= 40).all()


def test_what_each_way_promises_and_whom_it_wraps():
    model = deed_model("bart")
    for spec, equal in (("shortlist", False), ("screen", False), ({"name": "screen", "bound": True}, True)):
        head = build_exit_check(spec, model)
        assert head.equals_plain is equal and head.__doc__
        policy = with_exit_check(ThresholdPolicy(MaxProb(), 0.5), spec, model)
        assert isinstance(policy, TwoStagePolicy) and policy.exits_early and not policy.needs_history
        assert policy.to_dict()["head"] == type(head).__name__
    assert build_exit_check("plain", model) is None
    plain = ThresholdPolicy(MaxProb(), 0.5)
    assert (
        with_exit_check(plain, "plain", model) is plain and with_exit_check(plain, {"name": "plain"}, model) is plain
    )
    similar = ThresholdPolicy(StateSimilarity(), 0.5)
    assert with_exit_check(similar, "screen", model) is similar
    with pytest.raises(DeedConfigError, match="bound"):
        with_exit_check(similar, {"name": "screen", "bound": True}, model)
    assert bounded(FixedSchedule([1])) == FixedSchedule([1])


class _Family:
    def norm_and_head(self, model):
        return lambda hidden: hidden, model.head

    def head_parts(self, model):
        return model.weight, model.bias, model.scale


class _HeadOnly(torch.nn.Module):
    """A model that is a head."""

    def __init__(self, weight, bias=None, scale=1.0):
        super().__init__()
        self.weight, self.bias, self.scale = weight, bias, scale
        self.deed_family, self.deed_exits = _Family(), torch.nn.ModuleDict()
        self.deed_config = SimpleNamespace(exit_layers=[1, 2, 3], adapter="none", draft_head=None)

    def head(self, hidden):
        return torch.nn.functional.linear(hidden * self.scale, self.weight, self.bias)


def _ask(hidden, head, allowed=None, exit_index=1, step=0, rows=None):
    rows = torch.arange(len(hidden)) if rows is None else rows
    return ExitQuery(exit_index + 1, exit_index, False, step, rows, hidden, None, lambda h=hidden: head(h), allowed)


def _look(query, head):
    return ApproximateQuery(
        **{name: getattr(query, name) for name in QUERY_FIELDS}, approximate=lambda: head.approximation(query)
    )
