"""What Trainer's options could do to deep supervision and to self-distillation, and must not."""

import pytest
import torch
from tiny_trainer import pairs, trainer
from transformers import Seq2SeqTrainer
from transformers.trainer_pt_utils import LabelSmoother

from conftest import deed_model, plain_model
from deed import DeedConfig, get_deed_model
from deed.modeling.loss import normalizer
from deed.training.trainer import DeedTrainer

IDS = torch.arange(3, 31).view(4, 7)
LABELS = torch.tensor([[5, 6, 7, 2], [9, 8, 2, -100], [3, 2, -100, -100], [12, 13, 14, 2]])


def test_label_smoothing_of_a_plain_trainer_is_refused(tmp_path):
    """It takes the labels away from the model: the exits would stay untrained, and nothing would say so."""
    run = trainer(Seq2SeqTrainer, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"labels were taken away.*label_smoothing_factor.*DeedTrainer"):
        run.train()


def test_a_loss_function_of_the_users_own_is_refused(tmp_path):
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()}
    with pytest.raises(ValueError, match="compute_loss_func"):
        trainer(Seq2SeqTrainer, tmp_path, more=own).train()
    with pytest.raises(ValueError, match="compute_loss_func"):
        trainer(DeedTrainer, tmp_path, more=own)


def test_label_smoothing_reaches_every_exit(tmp_path):
    """The loss is that of Transformers' own smoother on each exit's logits."""
    run = trainer(DeedTrainer, tmp_path, label_smoothing_factor=0.1)
    batch = run.data_collator(pairs()[1][:4])
    loss = run.compute_loss(run.model, {**batch})
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "decoder_input_ids")}
    logits = run.model.exit_logits(**inputs)
    each = torch.stack([LabelSmoother(0.1)({"logits": exit_}, batch["labels"]) for exit_ in logits])
    torch.testing.assert_close(loss, each.mean() + each[-1], rtol=1e-5, atol=1e-6)
    unsmoothed = run.model(**batch).loss
    assert abs(loss - unsmoothed) > 1e-3


def test_label_smoothing_of_a_conventional_model_is_transformers_own(tmp_path):
    ours, theirs = (
        trainer(cls, tmp_path, early_exit=False, label_smoothing_factor=0.1) for cls in (DeedTrainer, Seq2SeqTrainer)
    )
    batch = ours.data_collator(pairs()[1][:4])
    a, b = (run.compute_loss(run.model, {**batch}) for run in (ours, theirs))
    assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [Seq2SeqTrainer, DeedTrainer])
def test_a_batch_without_labels_has_loss_zero(cls, tmp_path):
    rows = [{**row, "labels": [-100, -100]} for row in pairs()[1]]
    run = trainer(cls, tmp_path, rows=rows, logging_nan_inf_filter=False, max_steps=2)
    run.train()
    losses = {k: v for row in run.state.log_history for k, v in row.items() if "loss" in k or k == "grad_norm"}
    assert losses and all(value == 0.0 for value in losses.values())
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)])
def test_nothing_is_divided_by_no_tokens(count):
    assert float(normalizer(torch.full((2, 3), -100), count)) == 1.0


def distilled(dropout=0.0, freeze=True, loss="distill"):
    model = plain_model("t5_tied", dec=4)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model = get_deed_model(model, DeedConfig(loss=loss))
    if freeze:
        model.freeze_backbone()
    return model.train()


def test_the_teacher_of_a_frozen_backbone_has_no_dropout():
    """Trainer calls `train()` before every step; the backbone stays in evaluation mode all the same."""
    model = distilled(dropout=0.5)
    plain = plain_model("t5_tied", dec=4)
    batch = {"input_ids": IDS, "labels": LABELS}
    expected = plain(**batch).logits
    for _ in range(2):
        model.train()
        out = model(**batch)
        torch.testing.assert_close(out.logits, expected, rtol=1e-9, atol=1e-9)
    still = distilled(dropout=0.0)(**batch)
    torch.testing.assert_close(out.loss, still.loss, rtol=1e-9, atol=1e-9)


def test_the_teacher_is_not_trained():
    """Each other exit moves towards the last; the last layer, which only the teacher goes through, gets no gradient."""
    model = distilled(freeze=False)
    model(input_ids=IDS, labels=LABELS).loss.backward()
    last, earlier = model.decoder.block[-1], model.decoder.block[-2]
    assert all(p.grad is None or not p.grad.any() for p in last.parameters())
    assert any(p.grad is not None and p.grad.any() for p in earlier.parameters())


def test_distillation_is_the_cross_entropy_with_the_last_exit():
    model = distilled()
    out = model(input_ids=IDS, labels=LABELS)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(LABELS)
    *exits, last = model.exit_logits(input_ids=IDS, decoder_input_ids=decoder_ids)
    keep = LABELS != -100
    expected = [-(last[keep].softmax(-1) * exit_[keep].log_softmax(-1)).sum(-1).mean() for exit_ in exits]
    torch.testing.assert_close(out.loss.double(), torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)
    out.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained and all(name.startswith("deed_exits.") for name in trained)


def test_a_deed_model_without_labels_still_answers():
    """Only labels that Trainer has counted and kept to itself are an error."""
    model = deed_model("t5_tied")
    assert model(input_ids=IDS, decoder_input_ids=IDS[:, :2]).loss is None
