"""Training: Trainer's conventions, resuming after kill -9, two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import trainer
from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer

import deed
from conftest import deed_model
from deed.data.readers import cmudict
from deed.recipes.fine_tune import FineTuneRecipe, fine_tune
from deed.recipes.g2p import G2pRecipe as Recipe
from deed.recipes.g2p import train_g2p
from deed.training.callbacks import DropoutWindow
from deed.training.sampler import BucketSampler
from deed.training.trainer import DeedTrainer

TINY = {"steps": 12, "batch_size": 8, "n_layers": 2, "d_model": 32, "d_ff": 32, "save_every": 4, "log_every": 4}
TINY |= {"warmup_steps": 2, "eval_every": 100, "bf16": False}


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory):
    """Eight hundred lines of the real dictionary, spread over the alphabet."""
    lines = cmudict.cmudict_path().read_text(encoding="utf-8").splitlines()[:: 134860 // 800]
    path = tmp_path_factory.mktemp("data") / "small.dict"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("cls", [Seq2SeqTrainer, DeedTrainer])
def test_a_plain_trainer_trains(cls, tmp_path):
    run = trainer(cls, tmp_path, max_steps=30, learning_rate=3e-3, logging_steps=10)
    run.train()
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    logged = [row for row in run.state.log_history if "exit_loss_1" in row]
    assert bool(logged) == (cls is DeedTrainer)
    if logged:
        row = logged[0]
        mean = (row["exit_loss_1"] + row["exit_loss_2"]) / 2
        assert row["loss"] == pytest.approx(mean + row["exit_loss_2"], abs=2e-3)


def test_evaluation_does_not_gather_exit_losses(tmp_path):
    run = trainer(Seq2SeqTrainer, tmp_path)
    predictions = run.predict(run.eval_dataset).predictions
    arrays = predictions if isinstance(predictions, tuple) else (predictions,)
    assert all(len(a) == len(run.eval_dataset) for a in arrays)


def test_accumulated_gradients_equal_one_batch(tmp_path):
    """Rows of different length, so that a mean of means would differ: `num_items_in_batch` has to be honoured."""
    weights = []
    for accumulation, size in ((1, 8), (4, 2)):
        run = trainer(DeedTrainer, tmp_path, accumulation, size, max_grad_norm=0.0, optim="sgd", learning_rate=0.1)
        assert run.model_accepts_loss_kwargs
        run.train()
        weights.append({n: p.detach().clone() for n, p in run.model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_resuming_restores_the_adapters(tmp_path):
    straight = trainer(DeedTrainer, tmp_path / "a", max_steps=6, save_strategy="steps", save_steps=3)
    straight.train()
    again = trainer(DeedTrainer, tmp_path / "b", max_steps=6)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for (name, a), b in zip(straight.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_frozen_backbone_stays_bit_for_bit(tmp_path):
    run = trainer(DeedTrainer, tmp_path, max_steps=3, learning_rate=1e-2)
    for name, p in run.model.named_parameters():
        p.requires_grad_(name.startswith("deed_exits."))
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run.train()
    for name, p in run.model.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("deed_exits."), name


def test_dropout_window():
    model = deed_model("t5_tied")
    callback = DropoutWindow(0.3, 5, 6)

    class State:
        global_step = 4

    state = State()
    callback.on_step_begin(None, state, None, model=model)
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates and set(rates) == {0.0}
    state.global_step = 5
    callback.on_step_begin(None, state, None, model=model)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    assert model.decoder.block[0].layer[0].SelfAttention.dropout == 0.3
    state.global_step = 6
    callback.on_step_begin(None, state, None, model=model)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_buckets_hold_every_example_once_and_like_lengths():
    lengths = [(i * 37) % 50 for i in range(1003)]
    sampler = BucketSampler(lengths, 10, seed=1)
    orders = []
    for epoch in (0, 0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(1003))
    assert orders[0] == orders[1] != orders[2]
    spread = [max(b) - min(b) for b in ([lengths[i] for i in orders[0][k : k + 10]] for k in range(0, 1000, 10))]
    assert sum(spread) / len(spread) < 5


def command(output, dictionary):
    options = "--steps 12 --batch-size 8 --layers 2 --d-model 32 --save-every 4 --no-bf16"
    return [
        sys.executable,
        "-m",
        "deed",
        "train",
        "--output",
        str(output),
        "--data",
        str(dictionary),
        *options.split(),
    ]


def environment(threads=1):
    here = str(Path(__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": here, "CUDA_VISIBLE_DEVICES": ""}


def test_a_run_killed_and_continued_gives_the_same_model(dictionary, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole, dictionary), check=True, capture_output=True, env=environment())
    process = subprocess.Popen(
        command(broken, dictionary), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(6000):
        if (broken / "checkpoint-4" / "trainer_state.json").exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "model").exists(), "killed too late for the test to mean anything"
    half = broken / "checkpoint-999"  # as a kill in the middle of saving leaves it
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"cut")
    subprocess.run(command(broken, dictionary), check=True, capture_output=True, env=environment())
    for file in ("model.safetensors", "deed_exits.safetensors"):
        a, b = load_file(whole / "model" / file), load_file(broken / "model" / file)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert not half.exists() and not list(broken.glob("*.tmp"))


def test_train_writes_model_recipe_and_log(dictionary, tmp_path):
    result = train_g2p(tmp_path, Recipe(**TINY), dictionary)
    assert result["steps"] == 12 and "word_accuracy" in result["validation"]
    model = tmp_path / "model"
    assert json.loads((model / "recipe.json").read_text())["steps"] == 12
    rows = [json.loads(line) for line in (model / "training_log.jsonl").read_text().splitlines()]
    assert any("exit_loss_1" in row for row in rows)
    assert deed.from_pretrained(model).deed_config.threshold == 2.0


def test_a_further_stage_goes_on_from_a_saved_model(dictionary, tmp_path):
    train_g2p(tmp_path / "one", Recipe(**TINY), dictionary)
    first = deed.from_pretrained(tmp_path / "one" / "model")
    recipe = Recipe(
        **{**TINY, "steps": 1, "learning_rate": 1e-9, "warmup_steps": 0}, start=str(tmp_path / "one" / "model")
    )
    train_g2p(tmp_path / "two", recipe, dictionary)
    second = deed.from_pretrained(tmp_path / "two" / "model")
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_conventional_training_gives_a_plain_model(dictionary, tmp_path):
    train_g2p(tmp_path, Recipe(**TINY, conventional=True), dictionary)
    assert not (tmp_path / "model" / "deed_exits.safetensors").exists()


def test_tuning_leaves_the_backbone_bit_for_bit(dictionary, tmp_path):
    """A conventionally trained model gets exits; full depth stays what it was, and the exits come to agree with it."""
    train_g2p(tmp_path / "base", Recipe(**TINY, conventional=True), dictionary)
    base = tmp_path / "base" / "model"
    few = {"steps": 60, "batch_size": 8, "learning_rate": 5e-3, "log_every": 4, "bf16": False, "eval_count": 3}
    recipe = FineTuneRecipe(start=str(base), data=str(dictionary), frozen=True, loss="distill", **few)
    fine_tune(tmp_path / "tuned", recipe)
    plain = AutoModelForSeq2SeqLM.from_pretrained(base)
    tuned = deed.from_pretrained(tmp_path / "tuned" / "model")
    for name, value in plain.state_dict().items():
        assert torch.equal(tuned.state_dict()[name], value), name
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 35, 36]])}
    assert torch.equal(tuned(**inputs).logits, plain(**inputs).logits)
    a = tuned.generate(inputs["input_ids"], exit_threshold=1.5)
    assert torch.equal(a, plain.generate(inputs["input_ids"]))
    losses = [json.loads(x) for x in (tmp_path / "tuned/model/training_log.jsonl").read_text().splitlines()]
    first = [x["exit_loss_1"] for x in losses if "exit_loss_1" in x]
    assert first[-1] < first[0]


def test_a_finished_run_is_read_back_not_trained_on(dictionary, tmp_path):
    first = train_g2p(tmp_path, Recipe(**TINY), dictionary)
    before = load_file(tmp_path / "model" / "model.safetensors")
    again = train_g2p(tmp_path, Recipe(**TINY), dictionary)
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert again["steps"] == 12 and again["validation"] == first["validation"]


def test_a_run_stopped_by_the_clock_goes_on(dictionary, tmp_path):
    whole = train_g2p(tmp_path / "whole", Recipe(**TINY), dictionary)
    stopped = train_g2p(tmp_path / "timed", Recipe(**TINY), dictionary, minutes=1e-9)
    assert stopped["steps"] == 1 and (tmp_path / "timed" / "checkpoint-1").is_dir()
    assert train_g2p(tmp_path / "timed", Recipe(**TINY), dictionary)["steps"] == whole["steps"] == 12
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "timed"))
    assert all(torch.equal(a[name], b[name]) for name in a)


TWO = """
import sys, torch
from accelerate import Accelerator
sys.path.insert(0, {here!r})
from conftest import deed_model
accelerator = Accelerator(cpu=True)
model = deed_model("t5_tied").train()
for m in model.modules():
    if isinstance(m, torch.nn.Dropout): m.p = 0.0
    elif isinstance(getattr(m, "dropout", None), float): m.dropout = 0.0
ids = torch.arange(3, 31).view(4, 7)
labels = torch.tensor([[5, 6, 7, 2], [9, 8, 2, -100], [3, 2, -100, -100], [12, 13, 14, 2]])
total = (labels != -100).sum()
wrapped = accelerator.prepare(model)
n, i = accelerator.num_processes, accelerator.process_index
out = wrapped(input_ids=ids[i::n], labels=labels[i::n], num_items_in_batch=total)
accelerator.backward(out.loss * n)  # the processes' gradients are averaged
if accelerator.is_main_process:
    torch.save({{k: p.grad for k, p in accelerator.unwrap_model(wrapped).named_parameters()}}, sys.argv[1])
accelerator.wait_for_everyone()  # one that leaves alone now and then aborts
accelerator.end_training()
"""


def test_two_processes_give_the_gradients_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(here=str(Path(__file__).parents[1])))
    grads = []
    for n in (1, 2):
        target = tmp_path / f"{n}.pt"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
        for _ in range(2):  # gloo itself aborts once in a great while on a busy machine
            done = subprocess.run(
                [*launch, str(script), str(target)], capture_output=True, text=True, env=environment()
            )
            if "SIGABRT" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr[-2000:]
        grads.append(torch.load(target, weights_only=True))
    assert grads[0].keys() == grads[1].keys() and any(g.abs().sum() > 0 for g in grads[0].values())
    for name in grads[0]:
        torch.testing.assert_close(grads[1][name], grads[0][name], rtol=1e-9, atol=1e-11, msg=name)


def test_trainer_can_generate_with_labels_in_the_batch(tmp_path):
    run = trainer(DeedTrainer, tmp_path, predict_with_generate=True)
    run.model.deed_config.threshold = 0.05
    predictions = run.predict(run.eval_dataset, max_length=8).predictions
    assert predictions.shape[0] == len(run.eval_dataset)
