"""The loss among the tokens allowed, and label smoothing over them: by hand, at every exit, and its gradients."""

import math

import pytest
import torch
from models.ofa_models import ofa_batch, ofa_model
from torch.nn import functional as F

import deed.modeling.loss as loss_module
from conftest import VOCAB, batch, deed_model
from deed import DeedConfig
from deed.modeling.loss import allowed_mask, token_loss_sum
from deed.models.ofa import allowed_tokens
from deed.models.ofa.candidates import Trie

LABELS = torch.tensor([[5, 6, 7, 2], [9, 8, 2, -100], [3, 2, -100, -100], [12, 13, 14, 2]])
TRIE = Trie([[5, 6, 7, 2], [5, 9, 2], [9, 8, 2], [3, 2], [12, 13, 14, 2], [12, 13, 2], [20, 2]])


def model_and_batch(kind):
    if kind == "ofa":
        return ofa_model(dtype=torch.float64), ofa_batch()
    return deed_model(kind), batch()


def one(logits, label, allowed=None, smoothing=0.0):
    """The loss of a single place whose logits are given."""
    return token_loss_sum(
        lambda h: h, torch.tensor([[logits]]), torch.tensor([[label]]), allowed=allowed, smoothing=smoothing
    ).item()


def test_by_hand():
    logits = [math.log(x) for x in (4.0, 2.0, 1.0, 1.0)]
    assert one(logits, 0) == pytest.approx(math.log(2))  # 4 of 8
    among = torch.tensor([[[1, 2, -1]]])
    assert one(logits, 1, among) == pytest.approx(math.log(3 / 2))  # 2 of 3
    # 0.9 for the label, 0.1 for the only other token allowed
    wanted = 0.9 * math.log(3 / 2) + 0.1 * math.log(3)
    assert one(logits, 1, among, 0.1) == pytest.approx(wanted)
    # the rest is shared: 0.8 for the label, 0.1 for each of two others (1 of 8, 2 of 8 where all are allowed but one)
    three = torch.tensor([[[0, 1, 3]]])
    wanted = -0.8 * math.log(4 / 7) - 0.1 * math.log(2 / 7) - 0.1 * math.log(1 / 7)
    assert one(logits, 0, three, 0.2) == pytest.approx(wanted)
    wanted = -0.7 * math.log(1 / 2) - 0.1 * (math.log(1 / 4) + 2 * math.log(1 / 8))
    assert one(logits, 0, None, 0.3) == pytest.approx(wanted)
    # where there is no choice, there is nothing to learn
    assert one(logits, 3, torch.tensor([[[3]]]), 0.1) == one(logits, 3, torch.tensor([[[3]]])) == 0.0


def test_masks_and_ids_are_the_same():
    ids = torch.tensor([[4, 0, -1], [-1, -1, -1], [2, 2, -1]])
    mask = allowed_mask(ids, 5)
    assert mask.tolist() == [
        [True, False, False, False, True],
        [True] * 5,
        [False, False, True, False, False],
    ]
    assert allowed_mask(mask, 5) is mask
    nothing = allowed_mask(torch.empty(2, 0, dtype=torch.long), 5)
    assert nothing.all() and nothing.shape == (2, 5)


@pytest.mark.parametrize("kind", ["t5_tied", "bart", "ofa"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_every_exit_learns_among_the_allowed(kind, smoothing):
    model, inputs = model_and_batch(kind)
    allowed = allowed_tokens(LABELS, TRIE)
    out = model(**inputs, labels=LABELS, allowed_tokens=allowed, smoothing=smoothing)
    ids = model.prepare_decoder_input_ids_from_labels(LABELS)
    z = model.exit_logits(**inputs, decoder_input_ids=ids).float()
    wanted = torch.zeros(len(z))
    for row, labels in enumerate(LABELS.tolist()):
        for at, label in enumerate(x for x in labels if x >= 0):
            children = TRIE.children(labels[:at])
            q = torch.full((len(children),), smoothing / max(1, len(children) - 1))
            q[children.index(label)] = 1 - smoothing if len(children) > 1 else 1.0
            wanted -= (z[:, row, at, children].log_softmax(-1) * q).sum(-1)
    wanted /= (LABELS >= 0).sum()
    torch.testing.assert_close(out.exit_losses, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.loss, wanted.mean() + wanted[-1], rtol=1e-5, atol=1e-6)
    dense = allowed_mask(allowed.flatten(0, 1), VOCAB).unflatten(0, LABELS.shape)
    again = model(**inputs, labels=LABELS, allowed_tokens=dense, smoothing=smoothing)
    assert torch.equal(again.exit_losses, out.exit_losses)


@pytest.mark.parametrize("form", ["ids", "mask"])
def test_all_allowed_is_the_plain_loss(form):
    model, inputs = model_and_batch("bart")
    plain = model(**inputs, labels=LABELS)
    free = torch.full((4, 4, 2), -1) if form == "ids" else torch.ones(4, 4, VOCAB, dtype=torch.bool)
    out = model(**inputs, labels=LABELS, allowed_tokens=free)
    assert torch.equal(out.exit_losses, plain.exit_losses)
    smooth = model(**inputs, labels=LABELS, smoothing=0.1)
    torch.testing.assert_close(
        smooth.exit_losses, model(**inputs, labels=LABELS, smoothing=0.1, allowed_tokens=free).exit_losses
    )
    # torch spreads over the label as well
    z = plain.logits.flatten(0, 1).float()
    wanted = F.cross_entropy(z, LABELS.flatten(), label_smoothing=0.1 * VOCAB / (VOCAB - 1))
    torch.testing.assert_close(smooth.exit_losses[-1], wanted, rtol=1e-5, atol=1e-6)


def test_no_gradient_for_what_is_not_allowed():
    torch.manual_seed(0)
    logits = torch.randn(4, 4, VOCAB, requires_grad=True)
    allowed = allowed_tokens(LABELS, [TRIE, TRIE, None, TRIE])
    token_loss_sum(lambda h: h, logits, LABELS, allowed=allowed, smoothing=0.1).backward()
    mask = allowed_mask(allowed.flatten(0, 1), VOCAB).view(4, 4, VOCAB)
    counted = (LABELS >= 0)[..., None]
    assert (logits.grad[~(mask & counted)] == 0).all()
    choice = (mask.sum(-1) > 1) & (LABELS >= 0)
    assert (logits.grad[mask & choice[..., None]] != 0).all()


@pytest.mark.parametrize("loss", ["deed", "distill"])
def test_recomputed_chunks_give_the_same_gradients(loss, monkeypatch):
    def gradients():
        model, inputs = model_and_batch("t5_tied")
        model.deed_config.loss = loss
        kwargs = {"allowed_tokens": allowed_tokens(LABELS, TRIE), "smoothing": 0.1}
        model(**inputs, labels=LABELS, **kwargs).loss.backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert all(torch.isfinite(g).all() for g in found.values())
        return found

    expected = gradients()
    monkeypatch.setattr(loss_module, "KEEP_LOGITS", 0)
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 3 * VOCAB)
    again = gradients()
    assert again.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(again[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_teacher_is_matched_among_the_allowed():
    model = deed_model("bart", DeedConfig(loss="distill"))
    allowed = allowed_tokens(LABELS, TRIE)
    out = model(**batch(), labels=LABELS, allowed_tokens=allowed)
    ids = model.prepare_decoder_input_ids_from_labels(LABELS)
    z = model.exit_logits(**batch(), decoder_input_ids=ids).float()
    mask = allowed_mask(allowed.flatten(0, 1), VOCAB).view(1, 4, 4, VOCAB)
    logs = z.masked_fill(~mask, -torch.inf).log_softmax(-1)
    each = -(logs[-1].exp() * logs[:-1].masked_fill(~mask, 0)).sum(-1)[:, LABELS >= 0].mean(-1)
    torch.testing.assert_close(out.exit_losses[:-1], each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"allowed_tokens": torch.zeros(4, 3, 2, dtype=torch.long)}, r"must be \[batch, length, most\] ids"),
        ({"allowed_tokens": torch.ones(4, 4, 7, dtype=torch.bool)}, r"must be \[batch, length, vocab\] bool"),
        ({"allowed_tokens": torch.full((4, 4, 2), VOCAB)}, f"ids below {VOCAB}"),
        ({"allowed_tokens": torch.full((4, 4, 2), 5)}, "label 6 is not among the tokens allowed"),
        ({"allowed_tokens": torch.zeros(4, 4, VOCAB, dtype=torch.bool)}, "label 5 is not among the tokens allowed"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1, got 1.0"),
    ],
)
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        deed_model("bart")(**batch(), labels=LABELS, **changes)


def test_tries_row_by_row():
    allowed = allowed_tokens(LABELS, [TRIE, None, TRIE, TRIE])
    assert allowed.shape == (4, 4, 5), "as wide as the widest choice"
    assert sorted(allowed[0, 0].tolist()) == [3, 5, 9, 12, 20] and sorted(allowed[0, 1].tolist()) == [-1, -1, -1, 6, 9]
    assert (allowed[1] == -1).all() and (allowed[2, 2:] == -1).all()
    told = torch.tensor([[-100, -100, 5, 9, 2]])  # a prompt told to the decoder first
    assert sorted(allowed_tokens(told, TRIE)[0, 3].tolist())[-2:] == [6, 9]
    with pytest.raises(ValueError, match="labels of 4 rows, but tries for 1"):
        allowed_tokens(LABELS, [TRIE])
    with pytest.raises(ValueError, match=r"the answer \[5, 7\] … is not in the trie of its row"):
        allowed_tokens(torch.tensor([[5, 7, 2]]), TRIE)
    assert allowed_tokens(LABELS, [None] * 4).shape == (4, 4, 0)
