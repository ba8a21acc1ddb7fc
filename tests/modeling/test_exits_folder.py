"""Exits saved alone: round trips on three families, in half precision, found by weights; and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, DeedLoadError, get_deed_model
from deed.modeling.exits_folder import shipped_exits
from deed.modeling.fingerprint import describe_base, is_base
from test_whisper_generate import plain_whisper

CONFIG = {"exit_layers": [1, 3], "threshold": [0.4, 0.7], "confidence": "margin"}


def trained(kind, **options):
    model = deed_model(kind, DeedConfig(**{**CONFIG, **options}), dtype=torch.float32)
    model.deed_config.calibration = {"risk": 0.01, "tested": [{"threshold": 0.9}]}
    return model


@pytest.fixture
def alone(kind, tmp_path):
    model = trained(kind)
    model.save_exits(tmp_path / "exits")
    return model, tmp_path / "exits"


@pytest.mark.parametrize("adapter", ["residual_linear", "layer"])
@pytest.mark.parametrize("has_exits", [False, True])
@pytest.mark.parametrize(
    "draft_head", [None, {"rank": 2, "refine": 4, "max_layers": 9}, {"tokens": [1, 5, 7], "max_layers": 9}]
)
def test_round_trip(kind, adapter, has_exits, draft_head, tmp_path):
    model = trained(kind, adapter=adapter, draft_head=draft_head)
    model.save_exits(tmp_path / "exits")
    assert sorted(p.name for p in (tmp_path / "exits").iterdir()) == ["deed_exits.json", "deed_exits.safetensors"]
    base = plain_model(kind, dtype=torch.float32)
    again = deed.load_exits(get_deed_model(base) if has_exits else base, tmp_path / "exits")
    assert (
        again is base and type(again) is type(model) and again.deed_config == model.deed_config and not again.training
    )
    for (name, a), (other, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    a = model.generate(**batch(), max_new_tokens=6, return_dict_in_generate=True)
    b = again.generate(**batch(), max_new_tokens=6, return_dict_in_generate=True)
    assert torch.equal(a.sequences, b.sequences) and torch.equal(a.exit_layers, b.exit_layers)


def test_whisper(tmp_path):
    model = get_deed_model(plain_whisper(), DeedConfig(adapter="layer", exit_layers=[1]))
    with torch.no_grad():
        next(model.deed_exits.parameters()).add_(0.3)
    model.save_exits(tmp_path / "exits")
    again = deed.load_exits(plain_whisper(), tmp_path / "exits")
    assert again.deed_config.adapter == "layer" and set(again.deed_exits) == {"1"}
    for name, value in model.deed_exits.state_dict().items():
        assert torch.equal(value, again.deed_exits.state_dict()[name])


def test_half_precision_of_the_file_and_of_the_base(kind, tmp_path):
    model = trained(kind)
    model.save_exits(tmp_path / "exits", dtype="float16")
    assert {v.dtype for v in load_file(tmp_path / "exits" / "deed_exits.safetensors").values()} == {torch.float16}
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        again = deed.load_exits(plain_model(kind, dtype=torch.float32).to(dtype), tmp_path / "exits")
        assert {p.dtype for p in again.parameters()} == {dtype}
    # float16 weights widened again, as from a checkpoint kept in float16
    widened = plain_model(kind, dtype=torch.float32).half().float()
    deed.load_exits(widened, tmp_path / "exits")


def test_a_folder_or_name_as_the_base(kind, tmp_path):
    model = trained(kind)
    model.save_exits(tmp_path / "exits")
    plain_model(kind, dtype=torch.float32).save_pretrained(tmp_path / "plain")
    for again in (
        deed.load_exits(tmp_path / "plain", tmp_path / "exits", dtype=torch.bfloat16),
        deed.from_pretrained(tmp_path / "plain", exits=tmp_path / "exits"),
    ):
        assert again.deed_config == model.deed_config
    other = deed_model(kind, DeedConfig(), dtype=torch.float32)
    other.save_pretrained(tmp_path / "other")  # the same base with other exits
    assert deed.from_pretrained(tmp_path / "other", exits=tmp_path / "exits").deed_config == model.deed_config
    for keeps in (None, "none", "shipped"):
        assert deed.from_pretrained(tmp_path / "other", exits=keeps).deed_config == other.deed_config


def test_gates_come_along(alone, kind, tmp_path):
    model, _ = alone
    from deed.exits.learned import Learned

    model.deed_exits["gate"] = Learned(weight=torch.randn(2, 32), bias=torch.randn(2))
    model.save_exits(tmp_path / "gated")
    again = deed.load_exits(plain_model(kind, dtype=torch.float32), tmp_path / "gated")
    assert torch.equal(again.deed_exits["gate"].weight, model.deed_exits["gate"].weight)


def test_other_weights_are_refused(alone, kind):
    model, folder = alone
    tuned = plain_model(kind, dtype=torch.float32)
    with torch.no_grad():
        next(tuned.parameters()).view(-1)[0] += 0.05
    for base in (tuned, plain_model(kind, dtype=torch.float32, dec=4), get_deed_model(plain_model(kind, seed=1))):
        before = type(base), list(base.state_dict())
        with pytest.raises(DeedLoadError, match="were trained on other weights than this"):
            deed.load_exits(base, folder)
        assert (type(base), list(base.state_dict())) == before
    again = deed.load_exits(tuned, folder, any_base=True)
    assert again.deed_config == model.deed_config


def test_int8_is_refused(alone, kind):
    _, folder = alone
    int8 = deed.quantize(deed_model(kind, dtype=torch.float32), min_weights=0)
    with pytest.raises(ValueError, match=r"load exits before deed\.quantize"):
        deed.load_exits(int8, folder)
    with pytest.raises(ValueError, match=r"save exits before deed\.quantize"):
        int8.save_exits(folder)


def about(folder, change):
    values = json.loads((folder / "deed_exits.json").read_text())
    change(values)
    (folder / "deed_exits.json").write_text(json.dumps(values))


BREAKS = {
    "no description": (lambda p: (p / "deed_exits.json").unlink(), r"it has no deed_exits\.json; save it by"),
    "no JSON": (lambda p: (p / "deed_exits.json").write_text("{"), "cannot be read as JSON"),
    "newer": (lambda p: about(p, lambda v: v.update(format=9)), "format must be 1, got 9"),
    "no base": (lambda p: about(p, lambda v: v.pop("base")), "must have base and deed_config"),
    "bad field": (lambda p: about(p, lambda v: v["deed_config"].update(adapter="x")), "adapter must be one of"),
    "too deep": (lambda p: about(p, lambda v: v["deed_config"].update(exit_layers=[9])), "has 5 layers"),
    "other adapter": (lambda p: about(p, lambda v: v["deed_config"].update(adapter="bottleneck")), "does not fit"),
    "no exits": (lambda p: (p / "deed_exits.safetensors").unlink(), r"deed_exits\.safetensors is missing"),
    "cut short": (lambda p: (p / "deed_exits.safetensors").write_bytes(b"x" * 99), "damaged or cut short"),
    "not finite": (
        lambda p: save_file({"1.linear.weight": torch.tensor([torch.nan])}, p / "deed_exits.safetensors"),
        "not finite",
    ),
    "nothing": (shutil.rmtree, "is not a folder"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_damaged_folders(name, tmp_path):
    trained("bart").save_exits(tmp_path / "exits")
    change, match = BREAKS[name]
    change(tmp_path / "exits")
    base = plain_model("bart", dtype=torch.float32)
    before = type(base)
    with pytest.raises(DeedLoadError, match=match):
        deed.load_exits(base, tmp_path / "exits")
    assert type(base) is before


def test_what_cannot_be_written(tmp_path):
    model = trained("bart")
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "file").touch()
    with pytest.raises(DeedLoadError, match="holds a whole model"):
        model.save_exits(tmp_path / "whole")
    with pytest.raises(DeedLoadError, match="is a file"):
        model.save_exits(tmp_path / "file")
    with pytest.raises(ValueError, match="dtype must be"):
        model.save_exits(tmp_path / "exits", dtype=torch.int8)
    with torch.no_grad():
        model.deed_exits["1"].linear.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"numbers that torch\.float16 cannot"):
        model.save_exits(tmp_path / "exits", dtype=torch.float16)
    assert not (tmp_path / "exits").exists()


def test_whole_models_and_exits_are_told_apart(tmp_path):
    model = trained("bart")
    model.save_pretrained(tmp_path / "whole")
    model.save_exits(tmp_path / "exits")
    with pytest.raises(DeedLoadError, match=r"load it with deed\.from_pretrained"):
        deed.load_exits(plain_model("bart", dtype=torch.float32), tmp_path / "whole")
    with pytest.raises(DeedLoadError, match=r"holds exits alone: deed\.load_exits"):
        deed.from_pretrained(tmp_path / "exits")
    with pytest.raises(ValueError, match="dtype: for loading"):
        deed.load_exits(plain_model("bart", dtype=torch.float32), tmp_path / "exits", dtype=torch.float16)


def test_shipped_exits_are_found_by_the_weights(kind, tmp_path, monkeypatch):
    model = trained(kind)
    for name, other in (("a", deed_model(kind, seed=3)), ("b", model)):
        other.save_exits(tmp_path / "shipped" / name)
    base = plain_model(kind, dtype=torch.float32)
    assert shipped_exits(base, tmp_path / "shipped") == tmp_path / "shipped" / "b"
    assert shipped_exits(plain_model(kind, seed=5), tmp_path / "shipped") is None
    base.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr(shipped_exits, "__defaults__", (tmp_path / "shipped",))
    assert deed.from_pretrained(tmp_path / "plain", exits="shipped").deed_config == model.deed_config
    for exits in (None, "none"):
        with pytest.warns(UserWarning, match="untrained"):
            assert deed.from_pretrained(tmp_path / "plain", exits=exits).deed_config.calibration is None


def test_the_fingerprint_is_of_the_base_alone(kind):
    model = trained(kind)
    told = describe_base(plain_model(kind, dtype=torch.float32))
    assert is_base(model, told) and told == describe_base(model)
    with torch.no_grad():
        next(model.deed_exits.parameters()).add_(1)
    assert is_base(model, told)
