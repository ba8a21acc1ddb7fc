"""`deed train` on two processes (gloo): the loss of one with the doubled batch, a killed process, shards of weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from deed.data.readers import cmudict
from deed.recipes.g2p import G2pRecipe
from deed.recipes.recipe import checked
from deed.recipes.run import training_arguments

TESTS = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    lines = cmudict.cmudict_path().read_text(encoding="utf-8").splitlines()[:: 134860 // 600]
    path = tmp_path_factory.mktemp("data") / "small.dict"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def arguments(output, dictionary, steps, batch_size, *more):
    options = f"--task g2p --steps {steps} --batch-size {batch_size} --layers 2 --d-model 32 --no-bf16 --log-every 2"
    return ["-m", "deed", "train", "--output", str(output), "--data", str(dictionary), *options.split(), *more]


def environment():
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}


def run(command):
    for _ in range(2):  # gloo itself aborts once in a great while on a busy machine
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        if "SIGABRT" not in done.stderr:
            break
    return done


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "model" / "training_log.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def test_two_processes_train_as_one_with_the_doubled_batch(dictionary, tmp_path):
    """And one process that sums up two batches trains so, too."""
    runs = {
        "one": [sys.executable, *arguments(tmp_path / "one", dictionary, 4, 16)],
        "two": [*LAUNCH, *arguments(tmp_path / "two", dictionary, 4, 8)],
    }
    for name, command in runs.items():
        done = run(command)
        assert done.returncode == 0, (name, done.stderr[-2000:])
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "exit_loss_1", "exit_loss_2", "learning_rate"):
            assert b[name] == pytest.approx(a[name], rel=2e-5, abs=1.1e-4), name  # exit losses are rounded to 4 places
    for file in ("model.safetensors", "deed_exits.safetensors"):
        a, b = (load_file(tmp_path / name / "model" / file) for name in ("one", "two"))
        for name in a:
            torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=2e-6, msg=name)


def test_a_killed_process_ends_the_run_which_then_goes_on(dictionary, tmp_path):
    command = [*LAUNCH, *arguments(tmp_path / "run", dictionary, 12, 8, "--save-every", "3")]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    killed = None
    for _ in range(9000):
        if (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").exists() or process.poll() is not None:
            workers = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)
            killed = workers[-1].pid
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.02)
    _, said = process.communicate(timeout=300)
    assert killed and process.returncode != 0 and f"{killed}" in said, said[-2000:]
    assert "SIGKILL" in said or "has ended" in said
    assert not (tmp_path / "run" / "model").exists() and not psutil.pid_exists(killed)
    done = run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = log_of(tmp_path / "run")
    assert rows[-1]["step"] == 12 and len({row["step"] for row in rows}) == len(rows), "no step twice"


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from conftest import deed_model
dist.init_process_group("gloo")
rank, n = dist.get_rank(), dist.get_world_size()
model = deed_model("t5_tied").double().train()
for m in model.modules():
    if isinstance(m, torch.nn.Dropout): m.p = 0.0
    elif isinstance(getattr(m, "dropout", None), float): m.dropout = 0.0
ids = torch.arange(3, 31).view(4, 7)
labels = torch.tensor([[5, 6, 7, 2], [9, 8, 2, -100], [3, 2, -100, -100], [12, 13, 14, 2]])
total = (labels != -100).sum()
whole = model(input_ids=ids, labels=labels, num_items_in_batch=total).loss
whole.backward()
expected = {k: p.grad.clone() for k, p in model.named_parameters()}
model.zero_grad(set_to_none=True)
mesh = torch.distributed.init_device_mesh("cpu", (n,))
for block in [*model.encoder.block, *model.decoder.block]:
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
loss = model(input_ids=ids[rank::n], labels=labels[rank::n], num_items_in_batch=total).loss
(loss * n).backward()  # gradients are averaged
summed = loss.detach().clone()
dist.all_reduce(summed)
worst = max(float((p.grad.full_tensor() - expected[k]).abs().max()) for k, p in model.named_parameters())
held = sum(p.to_local().numel() for p in model.parameters()), sum(p.numel() for p in model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
optimizer.step()
if rank == 0:
    torch.save({"loss": float(summed), "whole": float(whole), "worst": worst, "held": held}, sys.argv[1])
dist.barrier()
dist.destroy_process_group()
"""


def test_sharded_weights_give_the_same_loss_and_gradients(tmp_path):
    """FSDP (`fully_shard`) on two processes, a layer a shard."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    done = run([*LAUNCH, str(script), str(tmp_path / "found.pt")])
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["loss"] == pytest.approx(found["whole"], rel=1e-6) and found["worst"] < 1e-5
    local, whole = found["held"]
    assert local < 0.6 * whole, "each process holds its half"


def test_precision_and_accumulation_reach_the_trainer(tmp_path):
    made = training_arguments(tmp_path, checked(G2pRecipe, {"accumulation": 4, "bf16": False}), use_cpu=True)
    assert made.gradient_accumulation_steps == 4 and not made.bf16 and not made.fp16
    assert training_arguments(tmp_path, checked(G2pRecipe, {}), use_cpu=True).bf16
    with pytest.raises(ValueError, match="accumulation"):
        checked(G2pRecipe, {"accumulation": 0})
