"""The divergence from a teacher's likeliest tokens, its gradient, and that logits live for a chunk only."""

import pytest
import torch
from torch.nn import functional as F

from conftest import deed_model
from deed.training import distill
from deed.training.distill import Teacher, distill_sum, divergence, frozen_head, top_of

VOCAB, TOKENS, WIDTH = 50, 7, 6


@pytest.fixture
def given():
    torch.manual_seed(0)
    weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64)
    features = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    teacher_logits = torch.randn(TOKENS, VOCAB, dtype=torch.float64) * 3
    labels = torch.randint(0, VOCAB, (TOKENS,))
    return weight, features, teacher_logits, labels


def by_definition(logits, teacher_logits, top, labels, share):
    """The divergence over the likeliest tokens and all the others as one, token by token."""
    total = 0.0
    for z, t, y in zip(logits, teacher_logits, labels, strict=True):
        p, q = t.softmax(-1), z.softmax(-1)
        kept = p.argsort(descending=True)[:top]
        others = torch.ones(VOCAB, dtype=torch.bool)
        others[kept] = False
        kl = (p[kept] * (p[kept] / q[kept]).log()).sum()
        if others.any():
            kl = kl + p[others].sum() * (p[others].sum() / q[others].sum()).log()
        total = total + (1 - share) * kl - share * q[y].log()
    return total


@pytest.mark.parametrize("top", [3, 20, VOCAB, 64])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_value_and_gradient(given, top, share):
    weight, features, teacher_logits, labels = given
    expected = by_definition(features @ weight.T, teacher_logits, min(top, VOCAB), labels, share)
    (slope,) = torch.autograd.grad(expected, features)
    got = distill_sum(lambda h: h @ weight.T, features, top_of(teacher_logits, top), labels, share)
    got.backward()
    torch.testing.assert_close(got.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.grad, slope, rtol=1e-4, atol=1e-5)


def test_the_whole_vocabulary_is_the_usual_divergence(given):
    weight, features, teacher_logits, _ = given
    logits = (features @ weight.T).detach()
    losses, _ = divergence(logits, top_of(teacher_logits, VOCAB), None, 0.0)
    usual = F.kl_div(logits.log_softmax(-1), teacher_logits.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(losses.double(), usual, rtol=1e-5, atol=1e-5)
    fewer, _ = divergence(logits, top_of(teacher_logits, 5), None, 0.0)
    assert (fewer <= losses + 1e-6).all(), "lumping tokens together cannot raise the divergence"


def test_what_a_pool_keeps_of_a_teacher_is_enough(given):
    """float16 log-probabilities, and a mass of 0 written as a very small one."""
    weight, features, teacher_logits, _ = given
    teacher = top_of(teacher_logits * 40, 4)  # so sure that nothing is left
    assert teacher.rest.exp().min() == 0
    kept = Teacher(
        teacher.ids, teacher.logs.clamp(min=-1e4).half().float(), teacher.rest.clamp(min=-1e4).half().float()
    )
    for one in (teacher, kept):
        loss = distill_sum(lambda h: h @ weight.T, features, one)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(features.grad).all()


def test_logits_live_for_a_chunk(given, monkeypatch):
    weight, features, teacher_logits, labels = given
    whole = distill_sum(lambda h: h @ weight.T, features, top_of(teacher_logits), labels, 0.2)
    whole.backward()
    expected, features.grad = features.grad, None
    monkeypatch.setattr(distill, "CHUNK_LOGITS", 2 * VOCAB)
    rows = []

    def head(h):
        rows.append(len(h))
        return h @ weight.T

    chunked = distill_sum(head, features, top_of(teacher_logits), labels, 0.2)
    chunked.backward()
    assert max(rows) == 2 and sum(rows) == TOKENS
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(features.grad, expected)


def test_nothing_to_learn_from(given):
    weight, features, teacher_logits, _ = given
    loss = distill_sum(lambda h: h @ weight.T, features[:0], top_of(teacher_logits[:0]))
    loss.backward()
    assert loss.item() == 0 and features.grad.abs().sum() == 0


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_the_head_in_bfloat16(kind):
    model = deed_model(kind, dtype=torch.float32)
    features = torch.randn(5, 32)
    exact, half = frozen_head(model, False)(features), frozen_head(model, True)(features)
    assert torch.equal(exact, model.deed_family.head(model, features)) and half.dtype == torch.bfloat16
    assert 0 < (exact - half.float()).abs().max() < 0.05 * exact.abs().max()


def test_a_head_that_is_more_than_a_product_stays_whole(monkeypatch):
    model = deed_model("t5_tied", dtype=torch.float32)
    plain = type(model.deed_family).head
    monkeypatch.setattr(type(model.deed_family), "head", lambda self, m, h: 3 * torch.tanh(plain(self, m, h) / 3))
    assert frozen_head(model, True)(torch.randn(2, 32)).dtype == torch.float32
