"""Exits that share one decoder layer (`adapter_shared`): as the reference, and as copies of that layer at every exit."""

import copy

import pytest
import torch
from cases import CASES
from test_matrix import agrees

import deed
import oracle as ref
from conftest import batch, deed_model
from deed import DeedConfig, DeedConfigError, FixedSchedule, get_deed_model
from deed.exits.adapters import SHARED
from deed.exits.branches import branches_of
from test_decode import MODES, compare

CONFIG = DeedConfig(adapter="layer", adapter_shared=True)
KINDS = ("t5_tied", "bart")
IDS = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 30], [0, 3, 3, 3], [0, 12, 13, 14]])
LABELS = torch.tensor([[5, 6, 7, 2], [9, 8, -100, -100], [3, 3, 3, 2], [12, 13, 2, -100]])


def unshared(model, kind):
    """A model whose exits have the same layer each for itself."""
    made = deed_model(kind, DeedConfig(adapter="layer"))
    for depth in made.deed_exits:
        made.deed_exits[depth].load_state_dict(model.deed_exits[SHARED].state_dict())
    return made


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_one_layer_at_every_exit(kind):
    model = deed_model(kind, CONFIG)
    assert set(model.deed_exits) == {SHARED}
    own = branches_of(model)
    assert len(own) == 4 and len({id(p) for layer in own for p in layer.parameters()}) == len([*own[0].parameters()])
    places = [{m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")} for layer in own]
    assert places == [{5 + i} for i in range(4)]
    given = {**batch(), "decoder_input_ids": IDS}
    torch.testing.assert_close(model.exit_logits(**given), unshared(model, kind).exit_logits(**given), rtol=0, atol=0)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [True, False], ids=["parts", "forward"])
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam"])
def test_equals_the_cache_free_reference(kind, mode, parts, monkeypatch):
    model, seen = deed_model(kind, CONFIG), set()
    if not parts:
        monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    for threshold in (0.3, 0.55, 0.8):
        seen |= set(compare(model, batch(), threshold, **MODES[mode]).exit_layers.flatten().tolist())
    assert len(seen - {0}) >= 3
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(12 if mode == "beam" else 4)]
    compare(
        model,
        batch(),
        depths=lambda t, n: [table[r][t % 7] for r in range(n)],
        policy=FixedSchedule(table),
        **MODES[mode],
    )


@pytest.mark.parametrize("name", ["WhisperForConditionalGeneration", "OFAForConditionalGeneration"])
@torch.no_grad()
def test_whisper_and_ofa_with_a_draft_head(name):
    case, depths = CASES[name], set()
    spec = {"rank": 6, "refine": 4, "max_layers": 2}
    config = DeedConfig(adapter="layer", adapter_shared=True, draft_head=spec)
    model = get_deed_model(case.plain(), config)
    for threshold in (0.05, 0.2, 0.5):
        depths |= agrees(model, case, ref.Oracle(model, threshold), exit_threshold=threshold)
    assert len(depths) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_full_depth(kind, monkeypatch):
    monkeypatch.setattr("deed.engine.exact_tuning.Tuner.warm", False)
    model = deed_model(kind, CONFIG)
    expected = model.generate(**batch(), exit_threshold=2.0, max_new_tokens=12)
    got = model.generate(**batch(), exit_threshold=0.3, exact=True, max_new_tokens=12, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected) and got.past_key_values.stats()["drafted_tokens"] > 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_exit_trains_it(kind):
    model = deed_model(kind, CONFIG)
    model.freeze_backbone()
    alone = unshared(model, kind)
    alone.freeze_backbone()
    for one in (model, alone):
        one(**batch(), labels=LABELS).loss.backward()
    for name, p in model.deed_exits[SHARED].named_parameters():
        each = [dict(layer.named_parameters())[name].grad for layer in alone.deed_exits.values()]
        torch.testing.assert_close(p.grad, torch.stack(each).sum(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_quantized_and_copied(kind, tmp_path):
    model = deed_model(kind, CONFIG, dtype=torch.float32)
    given = {**batch(), "decoder_input_ids": IDS}
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path)
    assert loaded.deed_config == model.deed_config
    for other in (loaded, copy.deepcopy(model)):
        torch.testing.assert_close(other.exit_logits(**given), model.exit_logits(**given), rtol=0, atol=0)
    deed.quantize(model, parts=("decoder",), min_weights=0)
    assert {type(m).__name__ for m in branches_of(model)[1].modules()} >= {"Int8Linear"}
    compare(model, batch(), 0.55)


def test_views_that_read_each_others_keys_are_noticed(monkeypatch):
    model = deed_model("bart", CONFIG)
    monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    compare(model, batch(), 0.6, min_new_tokens=9)
    first = model.deed_exits[SHARED]
    monkeypatch.setattr("deed.exits.branches.view", lambda layer, number: first)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        for threshold in (0.3, 0.6, 0.8):
            compare(model, batch(), threshold, min_new_tokens=9)


def test_only_layers_are_shared():
    for wrong in ({"adapter_shared": True}, {"adapter": "layer", "adapter_shared": 1}):
        with pytest.raises(DeedConfigError, match='true for adapter="layer" only'):
            DeedConfig(**wrong)
