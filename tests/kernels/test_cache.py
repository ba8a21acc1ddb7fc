"""Measured times on disk: kept per machine and read by the next process; a damaged or read-only file is no error."""

import json
import os
import subprocess
import sys
import threading
from importlib import import_module

import pytest
import torch

from deed.kernels import cache, choose
from deed.kernels.contract import Kernel

module = import_module("deed.kernels.choosing")
A, B = (Kernel(name, lambda w, b: lambda x: x @ w.T, copies=False) for name in ("a", "b"))
TIMES = {"a": (2.0,) * 4, "b": (1.0,) * 4}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEED_KERNEL_CACHE", str(tmp_path / "kernels"))
    monkeypatch.delenv("DEED_KERNELS", raising=False)
    monkeypatch.setattr(module, "_times", {})
    return tmp_path / "kernels"


@pytest.fixture
def measured(monkeypatch):
    """Each measurement appends to this list."""
    calls = []
    monkeypatch.setattr(module, "_measure", lambda *given: calls.append(given[:2]) or (dict(TIMES), True))
    return calls


def forget(monkeypatch):
    monkeypatch.setattr(module, "_times", {})


def test_measured_once_per_machine(measured, folder, monkeypatch):
    assert module.measure(9, 8, (A, B)) == TIMES
    forget(monkeypatch)
    assert module.measure(9, 8, (A, B)) == TIMES and measured == [(9, 8)]
    module.measure(8, 9, (A, B))
    module.measure(9, 8, (B, A))
    assert len(measured) == 3 and len(cache.read()) == 3
    assert [f.suffix for f in folder.iterdir()] == [".json"], "a temporary file was left"
    kept = json.loads(cache.path().read_text())
    assert kept["machine"]["torch"] == torch.__version__ and kept["machine"]["processor"]


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "FBGEMM_ENABLE_INSTRUCTIONS", "DEED_NATIVE"])
def test_other_instruction_sets_have_times_of_their_own(measured, monkeypatch, name):
    module.measure(9, 8, (A, B))
    monkeypatch.setenv(name, "avx2")
    forget(monkeypatch)
    module.measure(9, 8, (A, B))
    monkeypatch.setattr(torch, "__version__", "99.0")
    forget(monkeypatch)
    module.measure(9, 8, (A, B))
    assert len(measured) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1]",
        lambda text: '{"entries": 3}',
        lambda text: text.replace("2.0", '"fast"'),
        lambda text: text.replace("2.0", "-2.0"),
        lambda text: text.replace("2.0", "NaN"),
        lambda text: text.replace('"a"', '"z"'),
        lambda text: "\udcff\udcfe",
    ],
)
def test_a_damaged_file_is_measured_again_and_mended(measured, damage, monkeypatch):
    module.measure(9, 8, (A, B))
    file = cache.path()
    file.write_text(damage(file.read_text()), errors="surrogateescape")
    forget(monkeypatch)
    assert module.measure(9, 8, (A, B)) == TIMES
    forget(monkeypatch)
    module.measure(9, 8, (A, B))
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_and_off(measured, folder, monkeypatch):
    folder.write_text("a file where the folder should be")
    assert module.measure(9, 8, (A, B)) == TIMES
    monkeypatch.setenv("DEED_KERNEL_CACHE", "off")
    forget(monkeypatch)
    module.measure(9, 8, (A, B))
    assert cache.path() is None and len(measured) == 2
    monkeypatch.delenv("DEED_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache.path()).startswith("/somewhere/deed/kernels/")


def test_times_that_did_not_settle_stay_in_the_process(monkeypatch):
    monkeypatch.setattr(module, "_measure", lambda *given: (dict(TIMES), False))
    assert module.measure(9, 8, (A, B)) == TIMES and cache.read() == {}


def test_threads_that_ask_at_once_measure_once(measured):
    workers = [threading.Thread(target=module.measure, args=(9, 8, (A, B))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(measured) == 1


def test_processes_that_write_at_once_leave_a_whole_file(folder):
    code = "from deed.kernels import cache\nfor i in range(20): cache.write(f'{PLACE}-{i}', {'a': [1.0] * 4})"
    jobs = [subprocess.Popen([sys.executable, "-c", f"PLACE={p}\n{code}"], env=dict(os.environ)) for p in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    kept = cache.read()
    assert len(kept) >= 20 and all(entry == {"a": [1.0] * 4} for entry in kept.values())
    assert [f.suffix for f in folder.iterdir()] == [".json"]


def test_choose(monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "onednn,int_mm")
    assert choose((768, 768)).name == "onednn"
    assert choose((768, 768), rows=300, precision="int8").name.startswith("int_mm")
    x, weight, bias = torch.randn(3, 64), torch.randn(32, 64), torch.randn(32)
    torch.testing.assert_close(choose((32, 64), 3).prepare(weight, bias)(x), x @ weight.T + bias)
    for bad in [((0, 4), 1, "float32"), ((4, 4), 0, "float32"), ((4, 4), 1, "int3")]:
        with pytest.raises(ValueError, match="sizes from 1 on, precision of float32, int8"):
            choose(*bad)


def test_rows_that_depend_on_their_neighbours_are_found():
    whole_block = Kernel("a", lambda w, b: lambda x: x / x.abs().max() @ w.T * x.abs().max(), copies=False)
    by_row = Kernel("b", lambda w, b: lambda x: (x[:, None] * w).sum(-1), copies=False)
    assert not module.rows_are_independent(whole_block, 64, 48)
    assert module.rows_are_independent(by_row, 64, 48)
