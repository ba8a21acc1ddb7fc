"""Exits with a decoder layer of their own (`adapter="layer"`): tokens and depths against the cache-free reference."""

import pytest
import torch

from conftest import batch, deed_model
from deed import DeedConfig
from test_decode import MODES, compare

LAYER = DeedConfig(adapter="layer")
KINDS = ("t5_tied", "bart")


def randomized(model, seed=1):
    """Exits' layers that are no copies of the last any more, and no two alike."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


@pytest.fixture(scope="module")
def models():
    return {kind: deed_model(kind, LAYER) for kind in KINDS}


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam", "beam_sampling", "processors"])
def test_equals_the_cache_free_reference(models, kind, mode):
    seen = set()
    for threshold in (0.3, 0.55, 0.8):
        got = compare(models[kind], batch(), threshold, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 3, "the case is vacuous: too few depths were taken"
