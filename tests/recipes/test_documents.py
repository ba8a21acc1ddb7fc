"""Fine-tuning a LaTr++ from a T5 and a ViT on data sets in their own formats, as the command line does it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

import deed
from data.formats import write_docvqa, write_ocrvqa, write_stvqa, write_textvqa
from deed.errors import DataError
from deed.models.latr import LatrForConditionalGeneration
from deed.models.latr import small as small_latr
from deed.recipes.documents import DocumentRecipe, document_stream, start_documents, train_documents
from deed.tasks.loading import load_saved

WRITERS = {"docvqa": write_docvqa, "textvqa": write_textvqa, "stvqa": write_stvqa, "ocrvqa": write_ocrvqa}
QUICK = {
    "steps": 4,
    "batch_size": 2,
    "warmup_steps": 1,
    "save_every": 2,
    "log_every": 1,
    "bf16": False,
    "eval_count": 3,
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A T5 and a ViT folder as they lie on the Hub: weights, configuration, tokenizer or image processor."""
    path = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    tokenizer = small_latr.build_tokenizer(["question", "context", "What", "is", "number", "Number"])
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_heads=4,
        num_layers=1,
        num_decoder_layers=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(path / "t5")
    tokenizer.save_pretrained(path / "t5")
    vision = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    ViTModel(vision).save_pretrained(path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path / "vit")
    return {"base": str(path / "t5"), "vit": str(path / "vit")}


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", "TQDM_DISABLE": "1"}


def options(**values):
    return [x for name, value in values.items() for x in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("processes", (1, 2))
def test_the_command_trains_from_folders(checkpoints, tmp_path, processes):
    data = write_docvqa(tmp_path / "data", n=6)
    few = {k: QUICK[k] for k in ("steps", "batch_size", "save_every")}
    arguments = options(task="docvqa", data=data, output=tmp_path / "run", warmup_steps=1, **few, **checkpoints)
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    done = subprocess.run([*start, "deed", "train", *arguments], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 steps, anls 0.0" in done.stdout
    model, processor = load_saved(tmp_path / "run" / "model")
    assert isinstance(model, LatrForConditionalGeneration) and model.deed_config.exit_layers == [1, 2]
    assert processor.image_processor.size["height"] == 32
    vit = ViTModel.from_pretrained(checkpoints["vit"], add_pooling_layer=False).state_dict()
    assert all(torch.equal(model.state_dict()[f"encoder.vit.{k}"], value) for k, value in vit.items()), "frozen"
    recipe = json.loads((tmp_path / "run" / "model" / "recipe.json").read_text())
    assert recipe["task"] == "docvqa" and recipe["steps"] == 4

    # The commands that follow, on the same folder.
    folder = str(tmp_path / "run" / "model")
    for verb, more in (("evaluate", ["--split", "val"]), ("calibrate", ["--risk", "0.5", "--confidence", "0.6"])):
        if processes == 1:
            call = [
                sys.executable,
                "-m",
                "deed",
                verb,
                folder,
                "--task",
                "docvqa",
                "--data",
                str(data),
                *more,
                "--json",
            ]
            done = subprocess.run(call, capture_output=True, text=True, env=environment())
            assert done.returncode == 0, done.stderr[-2000:]
            report = json.loads(done.stdout)
            assert report["examples"] == 6
    if processes == 1:
        assert deed.from_pretrained(folder).deed_config.threshold == report["threshold"]


@pytest.mark.parametrize("task", WRITERS)
def test_every_data_set_trains(checkpoints, tmp_path, task, monkeypatch):
    monkeypatch.setenv("DEED_CACHE", str(tmp_path / "cache"))
    data = WRITERS[task](tmp_path / "data")
    result = train_documents(tmp_path / "run", DocumentRecipe(task=task, data=str(data), **checkpoints, **QUICK))
    assert result["steps"] == 4 and result["validation"]["questions"] == 3
    assert (tmp_path / "run" / "model" / "deed_exits.safetensors").is_file()


def test_denoising_and_then_answering_from_the_pretrained_model(checkpoints, tmp_path):
    data = write_docvqa(tmp_path / "data")
    first = DocumentRecipe(task="docvqa", data=str(data), objective="denoise", **checkpoints, **QUICK)
    _, processor = start_documents(first)
    row = next(iter(document_stream(first, processor)))
    text, target = processor.tokenizer.decode(row["input_ids"]), processor.tokenizer.decode(row["labels"])
    assert text.startswith("question: read context:") and "<extra_id_0>" in text and target.startswith("<extra_id_0>")
    assert train_documents(tmp_path / "first", first)["validation"] == {}
    again = {**checkpoints, "base": str(tmp_path / "first" / "model"), "vit": None}
    result = train_documents(tmp_path / "second", DocumentRecipe(task="docvqa", data=str(data), **again, **QUICK))
    assert "anls" in result["validation"]


def test_words_only_and_conventional(checkpoints, tmp_path):
    data = write_docvqa(tmp_path / "data")
    blind = DocumentRecipe(task="docvqa", data=str(data), base=checkpoints["base"], conventional=True, **QUICK)
    train_documents(tmp_path / "run", blind)
    model, processor = load_saved(tmp_path / "run" / "model", plain=True)
    assert type(model) is LatrForConditionalGeneration and model.config.vision_config is None and not processor.sees


def test_answers_are_drawn_and_pages_reshuffled(checkpoints, tmp_path):
    data = write_docvqa(tmp_path / "data", n=6)
    recipe = DocumentRecipe(task="docvqa", data=str(data), **checkpoints, **QUICK)
    _, processor = start_documents(recipe)
    stream = iter(document_stream(recipe, processor))
    rounds = [[processor.tokenizer.decode(next(stream)["labels"]) for _ in range(6)] for _ in range(6)]
    assert len({tuple(r) for r in rounds}) > 1
    assert len({answer for r in rounds for answer in r}) == 12, "each of the two answers to each question"
    again = iter(document_stream(recipe, processor))
    assert [processor.tokenizer.decode(next(again)["labels"]) for _ in range(6)] == rounds[0], "fixed by the seed"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task": "vizwiz"}, "task must be one of"),
        ({"objective": "guess"}, "objective: Invalid enum value 'guess'"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"base": "/nowhere"}, "cannot be loaded"),
        ({"vit": "/nowhere"}, "cannot be loaded"),
    ],
)
def test_bad_recipes_leave_nothing(checkpoints, tmp_path, change, message):
    data = write_docvqa(tmp_path / "data")
    values = {"task": "docvqa", "data": str(data), **checkpoints, **QUICK, **change}
    with pytest.raises((DataError, ValueError), match=message):
        train_documents(tmp_path / "run", DocumentRecipe(**values))
    assert not (tmp_path / "run").exists()
