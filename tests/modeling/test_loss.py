"""L_avg + L_N: its value, its gradients, its memory."""

import pytest
import torch
from torch.nn import functional as F

import deed.modeling.loss as loss_module
from conftest import batch, deed_model, plain_model
from deed import DeedConfig

LABELS = torch.tensor([[5, 6, 7, 2], [9, 8, 2, -100], [3, 2, -100, -100], [12, 13, 14, 2]])


def by_hand(model, labels=LABELS):
    ids = model.prepare_decoder_input_ids_from_labels(labels)
    z = model.exit_logits(**batch(), decoder_input_ids=ids)
    return torch.stack([F.cross_entropy(x.flatten(0, 1).float(), labels.flatten()) for x in z])


@pytest.mark.parametrize("kind_of_loss", ["deed", "mean", "rising", "last"])
def test_value(kind, kind_of_loss):
    model = deed_model(kind, DeedConfig(loss=kind_of_loss))
    out = model(**batch(), labels=LABELS)
    exits = by_hand(model)
    weights = torch.arange(1.0, len(exits) + 1, dtype=exits.dtype)
    expected = {
        "deed": exits.mean() + exits[-1],
        "mean": exits.mean(),
        "rising": (weights * exits).sum() / weights.sum() + exits[-1],
        "last": exits[-1],
    }[kind_of_loss]
    torch.testing.assert_close(out.loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.exit_losses, exits, rtol=1e-5, atol=1e-6)
    base = plain_model(kind)(**batch(), labels=LABELS)
    assert torch.equal(out.logits, base.logits), "the last exit's logits are the base model's"
    assert out["exit_losses"] is out.exit_losses and out.exit_losses in [
        x for x in out.to_tuple() if x is out.exit_losses
    ]


def test_num_items_in_batch_divides_the_token_sums(kind):
    model = deed_model(kind)
    whole = model(**batch(), labels=LABELS, num_items_in_batch=26)
    tokens = (LABELS != -100).sum()
    alone = model(**batch(), labels=LABELS)
    torch.testing.assert_close(whole.exit_losses, alone.exit_losses * tokens / 26)
    torch.testing.assert_close(whole.loss, alone.loss * tokens / 26)


def test_only_ignored_labels_give_zero_and_a_graph(kind):
    out = deed_model(kind)(**batch(), labels=torch.full_like(LABELS, -100))
    assert out.loss.item() == 0
    out.loss.backward()


def gradients(model, **kwargs):
    model.zero_grad()
    model(**batch(), labels=LABELS, **kwargs).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-7, msg=name)


def test_recomputed_chunks_give_the_same_gradients(kind, monkeypatch):
    model = deed_model(kind)
    expected = gradients(model)
    monkeypatch.setattr(loss_module, "KEEP_LOGITS", 0)
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 3 * 40)
    same(gradients(model), expected)


def test_gradient_checkpointing_gives_the_same_gradients(kind):
    for reentrant in (False, True):
        model = deed_model(kind).train()
        for module in model.modules():  # without dropout, so that two passes agree
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        expected = gradients(model)
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        same(gradients(model), expected)


def test_deep_supervision_reaches_every_adapter_and_layer(kind):
    grads = gradients(deed_model(kind))
    for depth in range(1, 5):
        assert grads[f"deed_exits.{depth}.linear.weight"].abs().sum() > 0


def test_memory_does_not_grow_with_the_number_of_exits():
    """Bytes of logits kept for the backward pass, counted by saved-tensor hooks."""
    vocab, kept = 40, {}
    for exits in ([1], [1, 2, 3, 4]):
        model = deed_model("t5_tied", DeedConfig(exit_layers=exits))
        sizes = []

        def pack(tensor, sizes=sizes):
            if tensor.shape[-1:] == (vocab,) and tensor.ndim >= 2 and tensor.shape[0] > 1:
                sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            patch.setattr(loss_module, "KEEP_LOGITS", 13 * vocab)  # two exits' worth would not fit
            model(**batch(), labels=LABELS)
        kept[len(exits)] = sum(sizes)
    assert kept[4] <= kept[1]


def test_layerdrop_is_refused():
    model = deed_model("bart").train()
    model.model.decoder.layerdrop = 1.0
    with pytest.raises(ValueError, match="LayerDrop"):
        model(**batch(), labels=LABELS)
