"""Choosing by measurement: the fastest for each number of rows, never one slower than float32, and what the variable says."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from conftest import deed_model
from deed import quantize
from deed.kernels import float32, int8
from deed.kernels.contract import Kernel
from deed.kernels.int8 import Fbgemm, IntMM, faster_than_float32, is_exact
from deed.kernels.int8_linear import Int8Linear
from deed.kernels.native.runs import available
from deed.modeling import quantization

module = import_module("deed.kernels.choosing")
A, B = (Kernel(name, lambda w, b: lambda x: x @ w.T, copies=False) for name in ("a", "b"))
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("DEED_KERNELS", raising=False)
    monkeypatch.setenv("DEED_KERNEL_CACHE", "off")
    monkeypatch.setattr(module, "_times", {})


def timed(monkeypatch, **times):
    """The clock shows these, in ms for 1, 4, 8 and 64 rows."""
    shown = {name: tuple(map(float, row)) for name, row in times.items()}
    monkeypatch.setattr(
        module, "_measure", lambda out, width, kernels: ({k.name: shown[k.name] for k in kernels}, True)
    )
    monkeypatch.setattr(module, "_times", {})
    monkeypatch.setattr(module, "_doubtful", set())


def test_the_fastest_of_each_number_of_rows(monkeypatch):
    timed(monkeypatch, a=(1, 1, 1, 1), b=(2, 0.5, 0.97, 0.9))
    assert [k.name for k in module.fastest(9, 9, (A, B))] == ["a", "b", "a", "b"]  # 3 % are noise


def test_measured_once_per_shape_and_threads(monkeypatch):
    calls = []
    times = {"a": (1,) * 4, "b": (2,) * 4}
    monkeypatch.setattr(module, "_measure", lambda out, width, kernels: calls.append((out, width)) or (times, True))
    for _ in range(2):
        module.fastest(9, 8, (A, B))
        module.fastest(8, 9, (A, B))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    module.fastest(9, 8, (A, B))
    module.fastest(10**9, 2**24, (A, B))
    assert calls == [(9, 8), (8, 9), (9, 8), (1, 2**24)]  # of a huge matrix only a part is built


def test_the_clock_finds_the_slow_one(monkeypatch):
    slow = Kernel("slow", lambda w, b: lambda x: [x @ w.T for _ in range(20)][-1], copies=False)
    assert [k.name for k in module.fastest(512, 512, (slow, A))] == ["a"] * 4
    assert [k.name for k in module.fastest(512, 512, (A, slow))] == ["a"] * 4


def test_fixed_takes_no_time(monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "fixed")
    monkeypatch.setattr(module, "_measure", None)
    assert module.fastest(9, 9, (A, B)) == (A,) * 4
    assert float32.fastest_for(1024, 1024)[3] is float32.ONEDNN
    few = float32.NATIVE if available() else float32.ONEDNN
    assert float32.fastest_for(1024, 1024)[:3] == (few,) * 3
    assert faster_than_float32(1024, 1024) == int8.exact_kernels()[0]


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "fastest")
    with pytest.raises(
        ValueError, match="DEED_KERNELS='fastest': use measured or fixed, or names out of plain, onednn"
    ):
        module.fastest(9, 9, (A, B))


# -- int8 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_exact(monkeypatch):
    """An AVX2 machine without a compiler: FBGEMM is exact at 63 levels, `_int_mm` at 127 (and slow)."""
    monkeypatch.setattr(int8, "candidates", lambda width: (float32.PLAIN, float32.ONEDNN))
    monkeypatch.setattr(int8, "exact_kernels", lambda: [(Fbgemm, 63), (IntMM, 127)])
    monkeypatch.setattr(int8, "kernel", lambda: (Fbgemm, 63))


def test_the_slow_exact_kernel_with_more_levels_is_not_taken(monkeypatch, two_exact):
    base = {"plain": (60, 90, 150, 900), "onednn": (60, 90, 150, 900)}
    timed(monkeypatch, **base, fbgemm_at_63=(36, 50, 80, 500), int_mm_at_127=(175, 600, 1300, 9000))
    assert faster_than_float32(768, 768) == (Fbgemm, 63)
    timed(monkeypatch, **base, fbgemm_at_63=(36, 50, 80, 500), int_mm_at_127=(20, 25, 30, 500))
    assert faster_than_float32(768, 768) == (IntMM, 127)


@pytest.mark.parametrize("slow", range(4))
def test_clearly_slower_than_float32_for_some_rows_is_never_taken(monkeypatch, two_exact, slow):
    times = [0.01] * 4
    times[slow] = 0.115
    floats = {"plain": (0.3,) * 4, "onednn": (0.1,) * 4}
    timed(monkeypatch, **floats, fbgemm_at_63=tuple(times), int_mm_at_127=(0.5,) * 4)
    assert faster_than_float32(768, 768) is None


@pytest.mark.parametrize("name", ["native_int8", "fbgemm", "int_mm", "weight_only", "fp16_weights", "int4_weights"])
def test_the_variable_forces_a_kernel(monkeypatch, name):
    wanted = {v: getattr(int8, k) for k, v in int8.NAMES.items()}[name]
    if not is_exact(wanted, 127) and wanted not in (Fbgemm, int8.Int4Weights):
        pytest.skip(f"{name} is not exact here")
    monkeypatch.setenv("DEED_KERNELS", f"onednn, {name}")
    # FBGEMM's float16 product depends on the rows beside on AVX2.
    if name == "fp16_weights" and not module.rows_are_independent(int8.contract(wanted, 127), 256, 768):
        with pytest.raises(ValueError, match="fp16_weights depends on the rows beside it on this machine"):
            int8.kernel()
        return
    assert faster_than_float32(1024, 1024)[0] is wanted
    layer = Int8Linear(nn.Linear(64, 32), product=int8.kernel())
    x = torch.randn(5, 64)
    assert type(layer.multiply) is wanted
    torch.testing.assert_close(layer(x), x @ layer.dequantize().T + layer.bias, rtol=0.02, atol=0.02)
    assert torch.equal(layer(x)[2:3], layer(x[2:3]))


def test_a_named_kernel_whose_rows_depend_on_others_is_refused(monkeypatch):
    class Mixing(int8.IntMM):
        def __call__(self, x):
            y = super().__call__(x)
            return y + 1e-6 * y.flatten(0, -2).sum(0)

    monkeypatch.setitem(int8.NAMES, "Mixing", "fp16_weights")
    monkeypatch.setattr(int8, "Fp16Weights", Mixing)
    monkeypatch.setenv("DEED_KERNELS", "fp16_weights")
    int8.kernel_where.cache_clear()
    with pytest.raises(ValueError, match="a row by fp16_weights depends on the rows beside it"):
        int8.kernel()
    with pytest.raises(ValueError, match="name another kernel"):
        faster_than_float32(1024, 1024)
    int8.kernel_where.cache_clear()


def test_quantize_leaves_what_int8_makes_slower_and_says_so(monkeypatch):
    model = deed_model("t5_tied", dtype=torch.float32)
    shapes = {tuple(m.weight.shape) for m in model.decoder.modules() if type(m) is nn.Linear}
    slow = sorted(shapes)[0]
    monkeypatch.setattr(quantization, "MIN_WEIGHTS", 0)
    fast = quantization.kernel()
    monkeypatch.setattr(quantization, "faster_than_float32", lambda *shape: None if shape == slow else fast)
    with pytest.warns(
        UserWarning, match=f"slower than float32 on this machine for linears of {slow[0]} x {slow[1]}, "
    ) as w:
        quantize(model, parts=["decoder"], min_weights=0)
    assert len(w) == 1
    left = {tuple(m.weight.shape) for m in model.decoder.modules() if type(m) is nn.Linear}
    assert left == {slow} and model.deed_quantized["kept"] > 0 and model.deed_quantized["replaced"] > 0
    assert model.deed_quantized["kernels"] == [fast[0].__name__]
    assert model.generate(torch.tensor([[3, 4, 1]]), max_new_tokens=4, exit_threshold=0.5).shape[0] == 1


# -- other instruction sets ---------------------------------------------------------------------------------------

INSIDE = "DEED_TESTS_RESTRICTED"


@pytest.mark.skipif(INSIDE in os.environ, reason="is inside")
@pytest.mark.parametrize("fbgemm", [{}, {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}], ids=["fbgemm_native", "fbgemm_avx2"])
def test_int8_and_linears_on_avx2(fbgemm):
    """FBGEMM does not heed the other three, so it has both ways here."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    files = [
        f"{root}/kernels/test_float32.py",
        f"{root}/kernels/test_choose.py",
        f"{root}/kernels/test_chain.py",
        f"{root}/modeling/test_quantization.py",
    ]
    only = "not copies_and_threads and not shipped and not latr and not bf16 and not without_vnni"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *files,
        "-k",
        only,
    ]
    env = {**os.environ, **AVX2, **fbgemm, INSIDE: "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=os.path.dirname(root))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif(not is_exact(Fbgemm, 127), reason="restricted already, or no FBGEMM")
def test_only_its_own_variable_restricts_fbgemm():
    code = "from deed.kernels.int8 import Fbgemm, is_exact; print(is_exact(Fbgemm, 127), is_exact(Fbgemm, 63))"

    def exact(**env):
        run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)
        return run.stdout.split()

    assert exact(**AVX2) == ["True", "True"]
    assert exact(FBGEMM_ENABLE_INSTRUCTIONS="AVX2") == ["False", "True"]


def test_the_kernel_chosen_is_in_truth_no_slower_than_float32(monkeypatch):
    """With the clock, and timed afresh after the choice: for a large linear, what the default takes is as fast as float32 for
    every number of rows, but for what a busy machine adds."""
    taken = faster_than_float32(2048, 1024)
    if taken is None:
        pytest.skip("int8 does not pay here")
    floats, one = int8.candidates(1024), int8.contract(*taken)
    for _ in range(3):  # a load that comes and goes may hit one of them
        monkeypatch.setattr(module, "_times", {})
        times = module.measure(2048, 1024, (*floats, one))
        slowest = max(times[one.name][i] / min(times[f.name][i] for f in floats) for i in range(4))
        if slowest <= 1.5:
            return
    pytest.fail(f"{one.name} takes {slowest:.2f} times as long as float32")


# -- a busy machine -----------------------------------------------------------------------------------------------


def clock(monkeypatch, *measurements):
    """`_measure` gives these in turn, (times, settled), the last one from then on; returns how often it was asked."""
    asked = []

    def measured(out, width, kernels):
        times, settled = measurements[min(len(asked), len(measurements) - 1)]
        asked.append((out, width))
        return {k.name: tuple(map(float, times[k.name])) for k in kernels}, settled

    monkeypatch.setattr(module, "_measure", measured)
    monkeypatch.setattr(module, "_times", {})
    monkeypatch.setattr(module, "_doubtful", set())
    monkeypatch.setattr(module, "_spent", [0.0])
    return asked


BUSY = {"plain": (7.9,) * 4, "onednn": (8.0,) * 4, "fbgemm_at_63": (12.0,) * 4, "int_mm_at_127": (16.0,) * 4}
CALM = {
    "plain": (0.2, 0.3, 0.4, 0.9),
    "onednn": (0.3, 0.3, 0.4, 0.8),
    "fbgemm_at_63": (0.1, 0.1, 0.2, 0.5),
    "int_mm_at_127": (9.0,) * 4,
}


def test_in_doubt_int8(monkeypatch, two_exact):
    """Each call waits for the other program's turn: such times settle, and say nothing of kernels."""
    asked = clock(monkeypatch, (BUSY, True))
    assert faster_than_float32(2048, 512) == (Fbgemm, 63)
    assert len(asked) == 1 + module.RETRIES


def test_waiting_for_a_quiet_moment_has_an_end(monkeypatch, two_exact):
    asked = clock(monkeypatch, (BUSY, True))
    monkeypatch.setattr(module, "_spent", [module.BUDGET + 1])
    assert faster_than_float32(2048, 512) == (Fbgemm, 63)
    assert len(asked) == 1


def test_times_that_do_not_settle_leave_it_at_int8(monkeypatch, two_exact):
    slow = {name: tuple(3 * t for t in row) if "fbgemm" in name else row for name, row in CALM.items()}
    clock(monkeypatch, (slow, False))
    assert faster_than_float32(2048, 512) == (Fbgemm, 63)
    clock(monkeypatch, (slow, True))
    assert faster_than_float32(2048, 512) is None


def test_one_quiet_moment_is_enough(monkeypatch, two_exact, tmp_path):
    """The least of all measurements is taken, and only times to rely on are kept."""
    kept = []
    monkeypatch.setattr(module.cache, "write", lambda key, entry: kept.append(entry))
    asked = clock(monkeypatch, (BUSY, True), (CALM, False), (BUSY, True))
    assert faster_than_float32(2048, 512) == (Fbgemm, 63)
    assert len(asked) == 3 and kept[0]["plain"] == CALM["plain"]
    clock(monkeypatch, (BUSY, True))
    faster_than_float32(2048, 512)
    assert len(kept) == 1


def test_a_tenth_slower_is_no_reason_against_int8(monkeypatch, two_exact):
    near = {**CALM, "fbgemm_at_63": (0.1, 0.1, 0.2, 0.85)}
    clock(monkeypatch, (near, True))
    assert faster_than_float32(2048, 512) == (Fbgemm, 63)
    clock(monkeypatch, ({**near, "fbgemm_at_63": (0.1, 0.1, 0.2, 0.95)}, True))
    assert faster_than_float32(2048, 512) is None
