"""The shipped checkpoint on real words that training never saw: what is promised of it holds."""

import json
import random

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import deed
import oracle as ref
from data.g2p_words import answer
from deed.cli.demo import CHECKPOINT
from deed.data.readers import cmudict
from deed.recipes.g2p import G2pRecipe, start_g2p
from deed.tasks import g2p
from deed.tasks.loading import load_saved as load
from deed.utils.shipped import CHECKPOINTS

WORDS = 300


@pytest.fixture(scope="module")
def shipped():
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def rows():
    rows = cmudict.load_split("test")
    random.Random(1).shuffle(rows)
    return rows[:WORDS]


def test_what_is_shipped():
    files = {p.name: p.stat().st_size for p in CHECKPOINT.iterdir()}
    assert {"README.md", "recipe.json", "training_log.jsonl", "deed_exits.safetensors", "tokenizer.json"} <= set(files)
    assert sum(files.values()) < 20e6
    assert json.loads((CHECKPOINT / "recipe.json").read_text())["conventional"] is False


def test_scores(shipped, rows):
    model, tokenizer = shipped
    words, references = [w for w, _ in rows], [a for _, a in rows]
    full, depth = answer(model, tokenizer, words, 2.0)
    early, early_depth = answer(model, tokenizer, words, None)  # its own, calibrated threshold
    full_score, early_score = (g2p.score(p, references)["word_accuracy"] for p in (full, early))
    assert depth == len(model.deed_family.layers(model)) >= 8
    assert full_score > 0.6  # 0.68 and more on the whole split; three hundred words waver by 0.05
    assert early_score > full_score - 0.03 and early_depth < 0.5 * depth
    assert model.deed_config.calibration["risk"] == 0.005 and model.deed_config.threshold <= 1


def test_full_depth_is_the_plain_model(shipped, rows):
    model, tokenizer = shipped
    plain = AutoModelForSeq2SeqLM.from_pretrained(CHECKPOINT).eval()
    inputs = tokenizer([w for w, _ in rows[:64]], return_tensors="pt", padding=True)
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    for mode in ({}, {"num_beams": 4}):
        expected = plain.generate(**inputs, **mode)
        assert torch.equal(model.generate(**inputs, exit_threshold=1.5, **mode), expected)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_trained_exits_equal_the_cache_free_reference(shipped, rows, mode):
    model, tokenizer = shipped
    inputs = tokenizer([w for w, _ in rows[:12]], return_tensors="pt", padding=True)
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    threshold = model.deed_config.threshold
    expected, trace = ref.Oracle(model, threshold).generate(inputs, **mode)
    got = model.generate(**inputs, **mode, exit_threshold=threshold, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected.sequences)
    depths = ref.expected_exit_layers(expected, trace, 1, tokenizer.eos_token_id)
    assert torch.equal(got.exit_layers, depths)
    assert len(set(got.exit_layers.flatten().tolist())) > 3


@pytest.mark.parametrize("name", ["g2p", "latr"])
def test_targets_are_read_from_the_recorded_curve(name):
    model = deed.from_pretrained(CHECKPOINTS / name)
    calibrated = model.deed_config.threshold
    point = deed.set_target(model, score_drop=0.01)
    assert point["score_drop"] <= 0.01 and point["speedup"]["median"] > 2
    assert model.deed_config.threshold == point["threshold"] != calibrated
    assert deed.set_target(model, speedup=2.0)["score_drop"] <= 0.01
    with pytest.raises(ValueError, match="the best reachable"):
        deed.set_target(model, speedup=100.0)


def test_what_was_measured_is_forgotten_by_who_trains_on():
    model, _ = start_g2p(G2pRecipe(start=str(CHECKPOINT)))
    config = model.deed_config
    assert (config.threshold, config.calibration, config.curve) == (2.0, None, None)
