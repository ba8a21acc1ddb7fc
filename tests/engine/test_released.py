"""Keys and values go when a generation's result does, without waiting for Python's collector of reference cycles."""

import gc
import weakref

import pytest
import torch

from conftest import batch, deed_model
from deed import DeedConfig
from deed.engine.cache import StaircaseCache

WAYS = {
    "early": {},
    "full depth": {"exit_threshold": 2.0},
    "exact": {"exact": True},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 2},
}


@pytest.fixture
def caches(monkeypatch):
    """References to the caches that were made; Python's collector stands still."""
    made = []
    begun = StaircaseCache.__init__

    def noted(self, *args, **kwargs):
        begun(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(StaircaseCache, "__init__", noted)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_nothing_is_left_of_a_generation(kind, way, caches):
    model = deed_model(kind, DeedConfig(threshold=0.05))
    out = model.generate(**batch(), max_new_tokens=5, return_dict_in_generate=True, **WAYS[way])
    cache = out.past_key_values
    assert any(one() is cache for one in caches)
    assert isinstance(out.sequences, torch.Tensor)
    del out, cache
    assert caches and all(one() is None for one in caches)
