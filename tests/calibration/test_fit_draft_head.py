"""`fit_draft_head`: on the shipped model it says more often what the own head says; what it refuses; what is saved."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, DeedConfigError, DeedLoadError
from deed.cli.demo import CHECKPOINT
from deed.data.readers import cmudict
from deed.tasks.loading import load_saved
from test_decode import compare

SPEC = {"rank": 6, "refine": 4}
IDS = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 30], [0, 3, 3, 3], [0, 12, 13, 14]])


def examples(rows=10):
    inputs = batch(rows=rows)
    return [{"input_ids": i[m > 0]} for i, m in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


@pytest.fixture(scope="module")
def shipped():
    model, tokenizer = load_saved(CHECKPOINT)
    words = [word for word, _ in cmudict.load_split("calibration")[::40][:100]]
    return model, [{"input_ids": ids} for ids in tokenizer(words).input_ids], tokenizer


@pytest.mark.parametrize("spec", [{"rank": 4, "refine": 4}, {"rank": 8, "refine": 8}, {"tokens": 30}])
def test_on_the_shipped_model_fitting_pays(shipped, spec):
    model, data, _ = shipped
    lines = []
    before = model.generate(torch.tensor([data[0]["input_ids"]]), exit_threshold=2.0, max_new_tokens=20)
    found = deed.fit_draft_head(model, data, spec, progress=lines.append)
    assert found["recall"] > found["start"] + 0.05 and found["recall"] > 0.8
    assert found["held_out"] > 80 and 0 < found["layers"] < 0.5 and lines
    assert model.deed_config.draft_head == spec
    again = deed.fit_draft_head(model, data)
    assert again["recall"] == pytest.approx(found["recall"], abs=0.02)
    after = model.generate(torch.tensor([data[0]["input_ids"]]), exit_threshold=2.0, max_new_tokens=20)
    assert torch.equal(before, after), "full depth does not know of it"
    assert not any(p.requires_grad for p in model.deed_exits["draft_head"].parameters())


def test_gradient_steps_pay(shipped):
    model, data, _ = shipped
    found = [deed.fit_draft_head(model, data, {"rank": 4, "refine": 4}, steps=n)["recall"] for n in (0, 300)]
    assert found[1] > found[0] + 0.03


def test_a_draft_head_is_calibrated_and_exact(shipped):
    model, data, tokenizer = shipped
    deed.fit_draft_head(model, data, {"rank": 6, "refine": 8})
    words = [word for word, _ in cmudict.load_split("test")[::200][:24]]
    inputs = tokenizer(words, return_tensors="pt", padding=True)
    full = model.generate(**inputs, max_new_tokens=24, exit_threshold=2.0)
    early = model.generate(**inputs, max_new_tokens=24, exit_threshold=0.9, return_dict_in_generate=True)
    exact = model.generate(**inputs, max_new_tokens=24, exact=True, return_dict_in_generate=True)
    assert torch.equal(exact.sequences, full) and int(exact.accepted.sum()) > 0
    depths = early.exit_layers[early.exit_layers > 0].float()
    assert depths.mean() < 7, "exits with a draft head are left by"
    length = min(full.shape[1], early.sequences.shape[1])
    assert (early.sequences[:, :length] == full[:, :length]).float().mean() > 0.9


@pytest.mark.parametrize("spec", [SPEC, {"tokens": 12}, {"tokens": [2, 5, 9, 30]}], ids=["rank", "size", "ids"])
@pytest.mark.parametrize("adapter", ["residual_linear", "layer"])
def test_saved_and_loaded_it_is_the_same(kind, spec, adapter, tmp_path):
    model = deed_model(kind, DeedConfig(threshold=0.4, adapter=adapter))
    deed.fit_draft_head(model, examples(), spec, steps=20)
    model.save_pretrained(tmp_path)
    loaded = deed.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.deed_config == model.deed_config and loaded.deed_config.draft_head == spec
    given = {**batch(), "decoder_input_ids": IDS}
    torch.testing.assert_close(loaded.exit_logits(**given), model.exit_logits(**given), rtol=0, atol=0)
    compare(loaded, batch(), 0.4)
    loaded.deed_config.draft_head = None
    loaded.save_pretrained(tmp_path / "without")
    assert not any("draft" in name for name in load_file(tmp_path / "without" / "deed_exits.safetensors"))
    assert deed.from_pretrained(tmp_path / "without").deed_config.draft_head is None
    assert type(deed.unwrap(model)).__name__ == type(model).__name__


@pytest.mark.parametrize("spec", [SPEC, {"tokens": 12}], ids=["rank", "tokens"])
def test_exits_saved_alone_bring_it_along(spec, tmp_path):
    model = deed_model("bart", DeedConfig(threshold=0.4), dtype=torch.float32)
    deed.fit_draft_head(model, examples(), spec, steps=5)
    model.save_exits(tmp_path)
    loaded = deed.load_exits(plain_model("bart", dtype=torch.float32), tmp_path)
    given = {**batch(), "decoder_input_ids": IDS}
    assert loaded.deed_config.draft_head == spec
    torch.testing.assert_close(loaded.exit_logits(**given), model.exit_logits(**given))
    model.save_exits(tmp_path / "half", dtype="float16")
    half = deed.load_exits(plain_model("bart", dtype=torch.float32), tmp_path / "half")
    assert torch.equal(half.generate(**batch(), exact=True), model.generate(**batch(), exit_threshold=2.0))
    model.deed_config.draft_head = None
    model.save_exits(tmp_path / "without")
    assert not any("draft" in name for name in load_file(tmp_path / "without" / "deed_exits.safetensors"))


def test_ids_that_are_none_are_named(tmp_path):
    model = deed_model("bart", DeedConfig(draft_head={"tokens": 6}))
    model.save_pretrained(tmp_path)
    file = tmp_path / "deed_exits.safetensors"
    for ids in ([0, 1, 2, 3, 4, 40], [0, 1, 2, 3, 4, 4], [-1, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]):
        tensors = load_file(file)
        tensors["draft_head.ids"] = torch.tensor(ids)
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(DeedLoadError, match="ascending ids of the vocabulary"):
            deed.from_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for spec, message in (({"tokens": 7}, "draft_head.ids is"), ({"rank": 4}, "does not fit")):
        values["deed_config"]["draft_head"] = spec
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(DeedLoadError, match=message):
            deed.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"rank": 32}, "rank must be below d_model, which is 32"),
        ({"tokens": 41}, "beyond the vocabulary, which has 40"),
        ({"tokens": [3, 40]}, "beyond the vocabulary, which has 40"),
        ({"rank": 6, "max_layers": 0.01}, "above max_layers = 0.01: take a smaller rank, or set max_layers"),
        ({"tokens": 30, "max_layers": 0.01}, "take a smaller number of tokens"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(spec, message):
    model = deed_model("bart")
    with pytest.raises(DeedConfigError, match=message):
        deed.fit_draft_head(model, examples(), spec)
    assert model.deed_config.draft_head is None and "draft_head" not in model.deed_exits
    plain = deed.unwrap(model)
    with pytest.raises(DeedConfigError, match=message):
        deed.get_deed_model(plain, DeedConfig(draft_head=spec))
    assert not hasattr(plain, "deed_exits")


def test_other_refusals():
    only = deed_model("bart", DeedConfig(exit_layers=[5]))
    with pytest.raises(ValueError, match="has none"):
        deed.fit_draft_head(only, examples(), SPEC)
    model = deed_model("bart")
    with pytest.raises(ValueError, match="every fifth is held out"):
        deed.fit_draft_head(model, examples(3), SPEC)
    with pytest.raises(ValueError, match="no tokens"):
        deed.fit_draft_head(model, [], SPEC)
    for check in ("screen", "shortlist"):
        with pytest.raises(DeedConfigError, match="approximates the model's own head"):
            DeedConfig(exit_check=check, draft_head=SPEC)
        model.deed_config.exit_check = check
        with pytest.raises(DeedConfigError, match="approximates the model's own head"):
            deed.fit_draft_head(model, examples(), SPEC)
    model.deed_config.exit_check = "plain"
    deed.fit_draft_head(model, examples(), SPEC, steps=2)
    with pytest.raises(DeedConfigError, match="approximates the model's own head"):
        model.generate(**batch(), exit_check="screen", exit_threshold=0.5)
    with pytest.raises(DeedConfigError, match="approximates the model's own head"):
        deed.fit_screen(model, examples(), 4)
    del model.deed_exits["draft_head"]
    with pytest.raises(DeedConfigError, match=r"deed.fit_draft_head\(model, samples\) makes one"):
        model.generate(**batch(), exit_threshold=0.5)
    small = deed.quantize(deed_model("bart", dtype=torch.float32), min_weights=0)
    with pytest.raises(ValueError, match="before the model is quantized"):
        deed.fit_draft_head(small, examples(), SPEC)


def test_training_passes_it_by(kind):
    """Exits learn by the model's own head, and the draft head does not move."""
    losses = []
    for spec in (None, SPEC):
        model = deed_model(kind)
        if spec:
            deed.fit_draft_head(model, examples(), spec, steps=2)
        before = {n: p.detach().clone() for n, p in model.deed_exits.state_dict().items()}
        model.freeze_backbone()
        out = model.train()(**batch(), labels=IDS)
        losses.append(out.exit_losses)
        out.loss.backward()
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
        moved = {n for n, p in model.deed_exits.state_dict().items() if not torch.equal(p, before[n])}
        assert "1.linear.weight" in moved and not any(n.startswith("draft_head") for n in moved)
    torch.testing.assert_close(*losses)


def test_thresholds_are_calibrated_with_it():
    model = deed_model("bart", DeedConfig(draft_head=SPEC))
    data = [{**example, "labels": torch.tensor([5, 6, 2])} for example in examples(12)]
    report = deed.calibrate(model, data, risk=0.5, max_new_tokens=4)
    assert report["draft_head"] == SPEC
    found = deed.record_exits(model, data, tokens="labels")
    ids = model.prepare_decoder_input_ids_from_labels(torch.tensor([[5, 6, 2]]))
    z = model.exit_logits(input_ids=data[0]["input_ids"][None], decoder_input_ids=ids)[:, 0]
    confidence, agrees = torch.from_numpy(found.confidence)[:, :3], torch.from_numpy(found.agrees)[:, :3]
    torch.testing.assert_close(confidence, z[:-1].softmax(-1).amax(-1).to(torch.float64))
    assert torch.equal(agrees, z[:-1].argmax(-1) == z[-1].argmax(-1))
