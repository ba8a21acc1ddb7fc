"""OFA's position buckets against the definition, cell by cell, and against rows of the original's tables."""

import math

import numpy as np
import pytest
import torch
from ofa_reference import REFERENCE, needs_reference

from deed.models.ofa import OFAConfig
from deed.models.ofa.positions import code_ids, grid_ids, image_relative, token_relative

CPU = torch.device("cpu")
CONFIG = OFAConfig()


def token_bucket(i, j, size=256, reach=1024):
    """One cell, by the definition, in single precision as the original's tensors are."""
    distance, middle = i - j, size // 2
    if abs(distance) <= middle:
        bucket = distance
    else:
        ratio = np.log(np.float32(abs(distance)) / np.float32(middle), dtype=np.float32)
        scaled = ratio / np.float32(math.log((reach - 1) / middle)) * np.float32(middle - 1)
        bucket = int(np.sign(distance)) * (math.ceil(scaled) + middle)
    return bucket + size - 1


def test_token_buckets_cell_by_cell():
    table = token_relative(0, 1024, CONFIG, CPU)
    assert table.min() == 0 and table.max() == 510
    for i in (0, 1, 127, 128, 129, 300, 777, 1023):
        assert table[i].tolist() == [token_bucket(i, j) for j in range(1024)]


def test_rows_of_a_block_are_rows_of_the_table():
    whole = token_relative(0, 50, CONFIG, CPU)
    assert torch.equal(token_relative(44, 50, CONFIG, CPU), whole[44:])


def test_a_models_longest_text_does_not_change_its_buckets():
    short = OFAConfig(max_position_embeddings=300)
    assert torch.equal(token_relative(0, 300, short, CPU), token_relative(0, 300, CONFIG, CPU))


def image_bucket(a, b, side=42):
    if a == 0 or b == 0:
        first = (2 * side - 1) ** 2
        return first + 2 if a == b else first if a == 0 else first + 1
    (ra, ca), (rb, cb) = divmod(a - 1, side), divmod(b - 1, side)
    return (ra - rb + side - 1) * (2 * side - 1) + ca - cb + side - 1


@pytest.mark.parametrize("side", (3, 42))
def test_image_buckets_cell_by_cell(side):
    ids = torch.arange(side**2 + 1)[:: 1 if side == 3 else 29]
    table = image_relative(ids, ids, side)
    assert table.tolist() == [[image_bucket(a, b, side) for b in ids.tolist()] for a in ids.tolist()]


def test_grids_and_codes():
    assert grid_ids(2, 3, 42, CPU).tolist() == [1, 2, 3, 43, 44, 45]
    ids = code_ids(300, CONFIG, CPU)
    assert ids[0] == 0 and ids[1:18].tolist() == [*range(1, 17), 43] and ids[256] == 15 * 42 + 16
    assert set(ids[257:].tolist()) == {1024}
    assert code_ids(9, CONFIG, CPU).tolist() == ids[:9].tolist()
    with pytest.raises(ValueError, match=r"patch_images .* image_bucket_size 42"):
        grid_ids(43, 1, 42, CPU)
    with pytest.raises(ValueError, match="code_image_size"):
        code_ids(9, OFAConfig(image_bucket_size=8), CPU)


def test_tables_made_in_inference_mode_serve_training():
    config = OFAConfig(token_bucket_size=10)
    with torch.inference_mode():
        token_relative(0, 4, config, CPU)
    table = torch.nn.Embedding(19, 2)
    table(token_relative(0, 4, config, CPU)).sum().backward()


@needs_reference
def test_the_originals_tables():
    kept = torch.load(REFERENCE / "buckets.pt", weights_only=True)
    tokens = token_relative(0, 1024, CONFIG, CPU)
    assert torch.equal(tokens[0], kept["token_row0"]) and torch.equal(tokens[:, 0], kept["token_col0"])
    assert torch.equal(tokens[500], kept["token_row500"]) and int(tokens.sum()) == kept["token_sum"]
    ids = torch.arange(42**2 + 1)
    image = image_relative(ids, ids, 42)
    assert torch.equal(image[0], kept["image_row0"]) and torch.equal(image[1], kept["image_row1"])
    assert torch.equal(image[:, 0], kept["image_col0"]) and torch.equal(image[-1], kept["image_last"])
    assert int(image.sum()) == kept["image_sum"]
    assert torch.equal(code_ids(1026, CONFIG, CPU), kept["decoder_image_position_idx"])
