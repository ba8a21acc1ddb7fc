"""`deed tune --recipe lora|decoder`, and answering freely at the end of each."""

import json

import pytest
import torch
from safetensors.torch import load_file

import deed
from conftest import plain_model
from deed.cli.tune import draft_head_of
from deed.constants import NEVER_EXIT
from deed.errors import DeedConfigError
from deed.recipes import tune as recipes
from deed.recipes import tune_cache
from deed.recipes.tune import tune_with
from deed.recipes.tune_free import edit_distance
from deed.recipes.tune_lora import add_lora, take_out_lora
from deed.recipes.tune_student import decoder_parameters
from deed.tasks import task as registry
from test_tune import Spell, recipe, rows_of, save_speller

STEPS = {"steps": 16, "evaluations": 2, "exits": [1]}


@pytest.fixture(autouse=True)
def spell(monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})
    deed.register_task("spell", Spell)
    monkeypatch.setattr(recipes, "say", lambda line: None)


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    return save_speller(tmp_path_factory.mktemp("speller"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("pools")


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_decoder_learns_and_its_tables_do_not(speller, cache, tmp_path):
    report = tune_with(tmp_path / "run", recipe(speller, method="decoder", decoder_rate=1e-3, **STEPS), cache)
    before, after = weights(speller), weights(tmp_path / "run" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert not any("relative_attention_bias" in name or "embed" in name for name in changed)
    assert any("final_layer_norm" in name for name in changed) and any("block.3" in name for name in changed)
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["loss"].keys() == {"1", "4"} and rows[-1]["loss"]["1"] < rows[1]["loss"]["1"]
    assert report["agreement"].get("4", 1.0) > 0.5


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft reads
@pytest.mark.parametrize("keep", [False, True])
def test_lora_merged_or_kept(speller, cache, tmp_path, keep):
    from peft import PeftModel
    from transformers import T5ForConditionalGeneration

    options = {"method": "lora", "rank": 4, "decoder_rate": 1e-2, "keep_adapter": keep}
    report = tune_with(tmp_path / "run", recipe(speller, **options, **STEPS), cache)
    folder = tmp_path / "run" / "model"
    before, after = weights(speller), weights(folder)
    assert before.keys() == after.keys(), "no trace of peft"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert bool(changed) != keep and all(name.startswith("decoder.block.") for name in changed)
    assert (folder / "adapter").exists() == keep
    best = load_file(tmp_path / "run" / "best.safetensors")
    additions = {name: value for name, value in best.items() if "lora_B" in name and value.abs().sum() > 0}
    assert len(additions) > 10
    plain = T5ForConditionalGeneration.from_pretrained(folder)
    if keep:
        plain = PeftModel.from_pretrained(plain, folder / "adapter").merge_and_unload()
    name = next(iter(additions)).split(".lora_B")[0]
    a, b = (best[f"{name}.lora_{x}.default.weight"] for x in "AB")
    torch.testing.assert_close(plain.get_parameter(f"{name}.weight"), before[f"{name}.weight"] + 2 * b @ a)
    assert report["free_running"][0]["budget"] is None
    assert deed.from_pretrained(folder).deed_config.threshold == report["threshold"]


def test_a_killed_run_with_lora_goes_on(speller, cache, tmp_path, monkeypatch):
    options = {"method": "lora", "rank": 4, **STEPS}
    tune_with(tmp_path / "whole", recipe(speller, **options), cache)
    step = recipes.Run.step

    def killed(self):
        if self.state.step == 12:  # the last checkpoint is of step 8
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(recipes.Run, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_with(tmp_path / "cut", recipe(speller, **options), cache)
    tune_with(tmp_path / "cut", recipe(speller, **options), cache)
    one, other = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_lora_at_first_changes_nothing_and_comes_out_again():
    model = deed.get_deed_model(plain_model("bart"), deed.DeedConfig(adapter="layer", exit_layers=[1]))
    model.freeze_backbone()
    names = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.tensor([[5, 6, 7]])
    before = model.exit_logits(input_ids=ids, decoder_input_ids=ids)
    add_lora(model, 4)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in learns)
    assert all("lora_" in name or name.startswith("deed_exits.") for name in learns)
    assert not any("lora_" in name for name in learns if name.startswith("deed_exits.") or "encoder.layers" in name)
    torch.testing.assert_close(model.exit_logits(input_ids=ids, decoder_input_ids=ids), before)
    take_out_lora(model, merge=False)
    after = dict(model.named_parameters())
    assert names.keys() == after.keys() and all(torch.equal(names[k], after[k]) for k in names)


def test_without_peft_the_error_says_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    model = deed.get_deed_model(plain_model("bart"), deed.DeedConfig(adapter="layer", exit_layers=[1]))
    with pytest.raises(DeedConfigError, match=r"pip install deed-transformers\[peft\]"):
        add_lora(model, 4)


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_the_decoders_own_parameters(kind):
    model = deed.get_deed_model(plain_model(kind), deed.DeedConfig(adapter="layer", exit_layers=[1]))
    own = {id(p) for p in decoder_parameters(model)}
    names = {name for name, p in model.named_parameters() if id(p) in own}
    assert all("decoder." in name and "deed_exits" not in name for name in names)
    assert not any(word in name for name in names for word in ("embed_tokens", "embed_positions", "shared", "lm_head"))


def test_free_running_is_what_generate_gives(speller, cache, tmp_path):
    """By hand: the saved model's answers at the thresholds, aligned with full depth's."""
    report = tune_with(tmp_path / "run", recipe(speller, steps=24, learning_rate=1e-2, exits=[1, 2]), cache)
    task = registry.task_for(speller, "spell")
    model, processor = task.load(tmp_path / "run" / "model")
    # The examples that nothing was chosen on: every second one.
    words = list(tune_cache.drawn(task.examples("validation"), 0))[:8][1::2]
    options = {**task.generation_options(model, processor), "max_new_tokens": 12, "return_dict_in_generate": True}

    def answers(threshold):
        out = [
            model.generate(task.encode(processor, x)["input_ids"][None], exit_threshold=threshold, **options)
            for x in words
        ]
        return [o.sequences[0, 1:].tolist() for o in out], [d for o in out for d in o.exit_layers[0].tolist()]

    full, _ = answers(NEVER_EXIT)
    assert len(report["free_running"]) == 4
    assert report["free_running"][0]["changed"] == 0 and report["free_running"][0]["depth"] == 1
    for row in report["free_running"][1:]:
        tokens, depths = answers(row["thresholds"])
        edits = sum(edit_distance(a, b) for a, b in zip(full, tokens, strict=True))
        count = sum(map(len, full))
        assert row["tokens"] == count and row["changed"] == pytest.approx(edits / count)
        assert row["same"] == pytest.approx(sum(a == b for a, b in zip(full, tokens, strict=True)) / 4)
        asked = [d for d, t in zip((1, 2), row["thresholds"], strict=True) if t <= 1]
        own = sum(d + sum(a <= d for a in asked) for d in depths)
        assert row["depth"] == pytest.approx(own / len(depths) / 4)
        assert row["exit_depth"] == pytest.approx(sum(depths) / len(depths) / 4)
    text = (tmp_path / "run" / "report.md").read_text()
    assert "## Generating freely" in text and "| full depth" in text
    assert json.loads((tmp_path / "run" / "report.json").read_text())["free_running"] == report["free_running"]


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ([], [], 0),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [1, 3], 1),
        ([1, 2], [3, 4, 5], 3),
        ([1, 2, 3, 4], [2, 3, 4, 5], 2),
    ],
)
def test_edit_distance(one, other, edits):
    assert edit_distance(one, other) == edit_distance(other, one) == edits


def test_a_draft_head_is_fitted_to_the_trained_exits(speller, cache, tmp_path):
    options = {"draft_head": {"rank": 4, "refine": 4, "max_layers": 1}, **STEPS}
    report = tune_with(tmp_path / "run", recipe(speller, **options), cache)
    model = deed.from_pretrained(tmp_path / "run" / "model")
    assert model.deed_config.draft_head == options["draft_head"]
    assert 0 < report["draft_head"]["recall"] <= 1 and report["draft_head"]["positions"] > 50
    plain = tune_with(tmp_path / "plain", recipe(speller, **STEPS), cache)
    assert plain["draft_head"] is None
    one, other = (load_file(tmp_path / run / "best.safetensors") for run in ("run", "plain"))
    assert all(torch.equal(one[k], other[k]) for k in one), "training does not see it"
    # Agreement is that of the exits as they answer now.
    assert report["agreement"]["1"] != plain["agreement"]["1"]
    assert "draft head worth" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(("text", "options"), [("32,16", {"rank": 32, "refine": 16}), ("4096", {"tokens": 4096})])
def test_a_draft_head_on_the_command_line(text, options):
    assert draft_head_of(text) == options
    with pytest.raises(ValueError, match="--draft-head must be RANK,REFINED"):
        draft_head_of("small")
