"""Encoder outputs kept while the same batches are answered in several ways: alike, counted, bounded, and gone afterwards."""

import pytest
import torch

import deed
from conftest import batch, deed_model
from deed.calibration.encode_once import encoding_once

OPTIONS = {"do_sample": False, "num_beams": 1, "max_new_tokens": 4}


@pytest.fixture
def counted():
    """A model in evaluation mode, and a list that grows by one at each call of its encoder's own forward."""
    model, calls = deed_model("bart").eval(), []
    encoder = model.get_encoder()
    encoder.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    return model, calls


def answers(model, inputs, **options):
    return model.generate(**inputs, **{**OPTIONS, **options})


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_each_batch_is_encoded_once_and_answered_alike(counted, options):
    model, calls = counted
    ways = [{**options, "exit_threshold": t} for t in (2.0, 0.5, 0.0)]
    some, others = batch(), {k: v.flip(0) for k, v in batch().items()}
    before = [answers(model, inputs, **way) for way in ways for inputs in (some, others)]
    calls.clear()
    with encoding_once(model):
        after = [answers(model, inputs, **way) for way in ways for inputs in (some, others)]
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    answers(model, some)
    assert len(calls) == 3, "nothing is kept afterwards"
    assert "forward" not in vars(model.get_encoder())


def test_outputs_are_kept_up_to_a_bound(counted):
    model, calls = counted
    with encoding_once(model, most_bytes=0):
        answers(model, batch())
        answers(model, batch())
    assert len(calls) == 2


def test_training_is_as_ever(counted):
    model, calls = counted
    with encoding_once(model):
        model.get_encoder().train()
        answers(model, batch())
        answers(model, batch())
        model.eval()
        model.get_encoder()(batch()["input_ids"])  # with gradients
        model.get_encoder()(batch()["input_ids"])
    assert len(calls) == 4


def test_a_forward_of_ones_own_comes_back(counted):
    model, _ = counted
    encoder = model.get_encoder()
    own = encoder.forward = encoder.forward
    with pytest.raises(RuntimeError), encoding_once(model):
        raise RuntimeError
    assert vars(encoder)["forward"] is own


def test_calibration_encodes_once(counted):
    model, calls = counted
    rows = [{"input_ids": [3 + i % 30, 5, 7]} for i in range(40)]
    report = deed.calibrate(model, rows, risk=0.2, batch_size=20, max_new_tokens=3, thresholds=(1.0, 0.9, 0.5))
    assert report["tested"] and len(calls) == 2
