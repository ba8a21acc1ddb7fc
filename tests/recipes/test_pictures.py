"""Going on with an OFA on data sets in their own formats."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from data.tiny_ofa import save_small_ofa, write_data, write_ofa_tsv
from deed.cli.train import run
from deed.errors import DataError
from deed.models.ofa import OFAForConditionalGeneration
from deed.recipes.fine_tune import FineTuneRecipe, collate, fine_tune
from deed.recipes.task_data import task_stream
from deed.tasks.loading import load_saved
from deed.tasks.pictures import closed_list
from deed.tasks.task import get_task

QUICK = {
    "steps": 2,
    "batch_size": 2,
    "warmup_steps": 1,
    "save_every": 1,
    "log_every": 1,
    "bf16": False,
    "eval_count": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("ofa")
    return {"deed": save_small_ofa(path / "deed"), "plain": save_small_ofa(path / "plain", plain=True)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    found = {name: where for name, (where, _, _) in write_data(path).items()}
    write_ofa_tsv(path / "tsv", "train")  # beside val: now the folder has both splits
    refer = path / "refer"
    refer.mkdir()
    for split in ("train", "val"):
        (refer / f"refcoco_{split}.tsv").write_bytes((path / "tsv" / f"refer_{split}.tsv").read_bytes())
    return {**found, "ofa_tsv_refer": refer}


def recipe_of(folders, data, task="refcoco", start="deed", **changes):
    return FineTuneRecipe(task=task, start=str(folders[start]), data=str(data[task]), **{**QUICK, **changes})


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("refcoco", "acc_at_0.5"),
        ("coco_captions", "cider_d"),
        ("vqav2", "vqa_accuracy"),
        ("snli_ve", "accuracy"),
        ("ofa_tsv_refer", "acc_at_0.5"),
    ],
)
def test_every_data_set_trains(folders, data, tmp_path, task, metric):
    result = fine_tune(tmp_path / "run", recipe_of(folders, data, task))
    assert result["steps"] == 2 and result["validation"]["questions"] == 2 and metric in result["validation"]
    model, _ = load_saved(tmp_path / "run" / "model")
    assert model.deed_config.threshold == 2.0 and model.deed_config.calibration is None
    before, after = (load_file(path / "model.safetensors") for path in (folders["deed"], tmp_path / "run" / "model"))
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)


def test_a_plain_model_gets_exits_or_stays_plain(folders, data, tmp_path):
    fine_tune(tmp_path / "a", recipe_of(folders, data, start="plain", adapter="linear", steps=1))
    model, _ = load_saved(tmp_path / "a" / "model")
    assert model.deed_config.exit_layers == [1, 2, 3] and model.deed_config.adapter == "linear"
    conventional = recipe_of(folders, data, "snli_ve", "plain", conventional=True, steps=1)
    fine_tune(tmp_path / "b", conventional)
    plain, _ = load_saved(tmp_path / "b" / "model", plain=True)
    assert type(plain) is OFAForConditionalGeneration


def test_a_killed_run_goes_on(folders, data, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fine_tune(whole, recipe_of(folders, data))
    with monkeypatch.context() as patch:
        patch.setattr("deed.recipes.run.publish", lambda *_: 1 / 0)  # it ends after the last checkpoint
        with pytest.raises(ZeroDivisionError):
            fine_tune(cut, recipe_of(folders, data))
    for path in (cut / "checkpoint-2").iterdir():
        path.unlink()
    fine_tune(cut, recipe_of(folders, data))
    a, b = (load_file(path / "model" / "model.safetensors") for path in (whole, cut))
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)


def rows_of(folders, name, data, count):
    task = get_task(name, "ofa")
    _, processor = task.load(folders["deed"])
    return task, processor, list(itertools.islice(task_stream(task, processor, data, seed=0), count))


def test_batches(folders, data):
    task, processor, rows = rows_of(folders, "snli_ve", data["snli_ve"], 3)
    said = {processor.tokenizer.decode(row["labels"], skip_special_tokens=True).strip() for row in rows}
    assert said == {"yes", "no", "maybe"}
    rows = [{**row, "task": 0} for row in rows]
    batch = collate([task], processor, False, rows)
    assert batch["patch_images"].shape == (3, 3, 128, 128) and batch["labels"].shape[0] == 3
    first = {ids[0] for ids in closed_list(processor, "snli_ve").ids}
    assert all(set(row.tolist()) - {-1} == first for row in batch["allowed_tokens"][:, 0])
    assert "allowed_tokens" not in collate([task], processor, True, rows)
    task, processor, rows = rows_of(folders, "coco_captions", data["coco_captions"], 1)
    assert "allowed_tokens" not in collate([task], processor, False, [{**rows[0], "task": 0}])


def test_the_surest_answer_is_learnt(folders, tmp_path):
    files = write_ofa_tsv(tmp_path, "train")
    _, processor, rows = rows_of(folders, "ofa_tsv_vqa", files["vqa"], 20)
    said = [processor.tokenizer.decode(row["labels"], skip_special_tokens=True).strip() for row in rows]
    assert set(said) == {"yes", "2"}


def test_without_a_validation_split_the_model_is_there_all_the_same(folders, tmp_path):
    files = write_ofa_tsv(tmp_path / "tsv", "train")
    file = recipe_of(folders, {"ofa_tsv_vqa": files["vqa"]}, "ofa_tsv_vqa", steps=1)
    assert "is what was trained on" in fine_tune(tmp_path / "a", file)["validation"]["not_scored"]
    (tmp_path / "only").mkdir()
    files["vqa"].rename(tmp_path / "only" / "vqa_train.tsv")
    folder = recipe_of(folders, {"ofa_tsv_vqa": tmp_path / "only"}, "ofa_tsv_vqa", steps=1)
    assert "expected one file *_val.tsv" in fine_tune(tmp_path / "b", folder)["validation"]["not_scored"]
    assert all((tmp_path / run / "model" / "model.safetensors").is_file() for run in "ab")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "docvqa"}, "--task docvqa needs a LaTr"),
        ({"data": None}, "--task refcoco is read from disk; give its folder as --data"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"start": "/nowhere"}, "/nowhere is not a folder with a saved model"),
        ({"conventional": True}, "has early exit; --conventional goes on from a plain model"),
    ],
)
def test_bad_recipes_leave_nothing(folders, data, tmp_path, changes, message):
    recipe = replace(recipe_of(folders, data), **changes)
    with pytest.raises((DataError, ValueError), match=message):
        fine_tune(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_the_command_chooses_the_model(folders, data, tmp_path):
    options = ["--from", str(folders["deed"]), "--steps", "1", "--batch-size", "2", "--no-bf16"]
    result = run(tmp_path / "run", "vqav2", options, data["vqav2"], limit=4)
    assert result["steps"] == 1 and "vqa_accuracy" in result["validation"]
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["task"] == "vqav2" and recipe["start"] == str(folders["deed"])
    # It names task, data and model, and is followed again.
    assert run(tmp_path / "again", None, [], recorded=tmp_path / "run" / "recipe.json", limit=4)["steps"] == 1
    assert json.loads((tmp_path / "again" / "recipe.json").read_text()) == recipe
    for task, options, message in (
        ("refcoco", [], "goes on from a saved model"),
        ("refcoco", ["--base", "x", "--from", str(folders["deed"])], "--task refcoco takes no --base"),
        ("vqav2", [], "starts from a T5 checkpoint: give --base .*, or an OFA: --from"),
        ("vqav2", ["--base", "x"], "--task vqav2 is read from disk"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "none", task, options)
    assert not (tmp_path / "none").exists()
