"""The small OFA's start: places that are near each other are alike, and nothing else is."""

import pytest
import torch

from deed.models.ofa import small as small_ofa
from deed.policies.measures import build_confidence

TEXTS = ["the red apple", "a small blue dog", "how many"]


@pytest.fixture(scope="module")
def tokenizer():
    return small_ofa.build_tokenizer(TEXTS * 20, 340)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return small_ofa.build_model(tokenizer, 1, 1, 32, 64, stem=(8, 8, 8, 8))


def alike(rows):
    unit = torch.nn.functional.normalize(rows.detach(), dim=-1)
    return unit @ unit.T


def test_patches_are_most_like_their_neighbors(model):
    side = small_ofa.PICTURE // 16
    table = model.get_encoder().embed_image_positions.weight[1 : side * side + 1]
    near = alike(table).view(side, side, side, side)
    torch.testing.assert_close(near[3, 3, 3, 4], near[3, 3, 4, 3])  # x and y alike
    assert near[3, 3, 3, 4] > near[3, 3, 3, 6] and near[3, 3, 3, 4] > near[3, 3, 4, 4]
    assert table.std() > 0.5  # as large as what the stem sees


def test_bins_are_most_like_their_neighbors_and_no_larger_than_other_tokens(model, tokenizer):
    bins = tokenizer.convert_tokens_to_ids([f"<bin_{i}>" for i in range(small_ofa.N_BINS)])
    weights = model.get_input_embeddings().weight
    near = alike(weights[bins])
    assert (near[10, 11] > near[10, 14]) and (near[10, 14] > near[10, 60])
    text = weights[4 : bins[0]]
    assert 0.5 < weights[bins].std() / text.std() < 2
    assert torch.equal(weights[bins], model.get_decoder().embed_tokens.weight[bins])  # one table for all


def test_waves_tell_all_places_apart():
    at = small_ofa.waves(65, 33)
    assert at.shape == (65, 33) and torch.isfinite(at).all()
    assert (alike(at) - torch.eye(65)).max() < 0.9999


def test_a_box_in_pixels_comes_back_within_one(tokenizer):
    processor = small_ofa.build_processor(tokenizer)
    size = (small_ofa.PICTURE, small_ofa.PICTURE)
    for box in ((0, 0, 128, 128), (3, 17, 40, 61), (101, 7, 126, 30)):
        found = processor.boxes([processor.encode_box(box, size)], [size])[0]
        assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= 1


def test_confidence_knows_the_bins(tokenizer):
    measure = build_confidence(small_ofa.confidence(tokenizer))
    last = tokenizer.convert_tokens_to_ids(f"<bin_{small_ofa.N_BINS - 1}>")
    assert (measure.first + measure.count - 1, measure.count) == (last, small_ofa.N_BINS)
    assert tokenizer.convert_ids_to_tokens(measure.first) == "<bin_0>"
