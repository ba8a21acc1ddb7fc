"""The best token by an int8 copy of the head: bit for bit the whole head's, near ties and rounding errors included."""

import pytest
import torch

import deed.engine.greedy as greedy
from conftest import batch, deed_model
from deed import FixedSchedule
from deed.engine.greedy import GreedyHead, greedy_head
from deed.exits.heads import DirectExits
from deed.policies.exit_checks.int8_copy import has_int8

pytestmark = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="no int8 kernel for this CPU")


@pytest.fixture
def small(monkeypatch):
    """Tiny heads too, under every kernel."""
    monkeypatch.setattr(greedy, "LARGE", 0)
    monkeypatch.setattr(greedy, "IntMM", None)


def check(head: GreedyHead, features: torch.Tensor) -> None:
    with torch.inference_mode():
        assert torch.equal(head.best(features), head.exits.logits_of(features).argmax(-1))


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_the_best_token_is_the_whole_heads(kind, small, rows):
    model = deed_model(kind, dtype=torch.float32)
    head = greedy_head(model, DirectExits(model))
    generator = torch.Generator().manual_seed(rows)
    for size in (1e-3, 1.0, 300.0):
        for _ in range(20):
            check(head, torch.randn(rows, 32, generator=generator) * size)
    assert head.whole_rows < 6 * rows  # of 60: nearly all are decided without


def test_tokens_that_the_copy_would_get_wrong(kind, small):
    """Weights closer to each other than a step of int8: the copy alone would take another token, and often."""
    model = deed_model(kind, dtype=torch.float32)
    generator, wrong = torch.Generator().manual_seed(3), 0
    for _ in range(12):
        close = torch.randn(32, generator=generator) + 2e-3 * torch.randn(12, 32, generator=generator)
        with torch.no_grad():
            model.get_output_embeddings().weight[10:22] = 3 * close
        head = greedy_head(model, DirectExits(model))
        features = close.mean(0) + 0.1 * torch.randn(4, 32, generator=generator)
        check(head, features)
        wrong += int((head.copy(features).argmax(-1) != head.exits.logits_of(features).argmax(-1)).sum())
    assert wrong > 10


def test_ties_and_what_is_no_number(kind, small):
    model = deed_model(kind, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight[20:] = model.get_output_embeddings().weight[:20]
        if kind == "bart":
            model.final_logits_bias.zero_()
    head = greedy_head(model, DirectExits(model))
    features = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    check(head, features)
    assert head.whole_rows == 6  # each best token comes twice, and the first one counts
    check(head, torch.full((2, 32), torch.nan))
    check(head, torch.zeros(3, 32))


@pytest.mark.parametrize("forced", [{}, {"forced_eos_token_id": 2, "min_new_tokens": 3}])
def test_generates_the_same(kind, small, forced, monkeypatch):
    model = deed_model(kind, dtype=torch.float32)
    policies = [{"exit_threshold": 2.0}, {"exit_threshold": 0.6}]
    schedule = FixedSchedule([[1, 3, 5], [2, 5, 5], [5, 1, 2], [4, 4, 1]])
    calls = []
    best = GreedyHead.best
    monkeypatch.setattr(GreedyHead, "best", lambda self, x: calls.append(len(x)) or best(self, x))
    for how in (*policies, {"exit_policy": schedule}):
        outs = []
        for least in (0, 2**40):
            monkeypatch.setattr(greedy, "LARGE", least)
            out = model.generate(**batch(), **how, **forced, max_new_tokens=9, return_dict_in_generate=True)
            outs.append(out)
        assert torch.equal(outs[0].sequences, outs[1].sequences)
        assert torch.equal(outs[0].exit_layers, outs[1].exit_layers)
        assert outs[0].past_key_values.stats() == outs[1].past_key_values.stats()
    assert calls


def test_whoever_wants_scores_gets_the_whole_head(kind, small, monkeypatch):
    monkeypatch.setattr(GreedyHead, "best", lambda self, x: pytest.fail("asked for the best token alone"))
    model = deed_model(kind, dtype=torch.float32)
    wants = {"return_dict_in_generate": True, "max_new_tokens": 4, "exit_threshold": 2.0}
    for options in ({"output_scores": True}, {"output_logits": True}, {"do_sample": True}, {"num_beams": 2}):
        model.generate(**batch(), **wants, **options)
    model.generate(**batch(), **wants, repetition_penalty=1.3)


def test_only_where_it_saves_something(kind):
    model = deed_model(kind, dtype=torch.float32)
    assert greedy_head(model, DirectExits(model)) is None  # small
