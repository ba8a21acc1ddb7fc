"""Chains of linears: natively as in PyTorch, and a row of a block is what the row alone gives, bit for bit."""

import copy
import threading
from importlib import import_module

import pytest
import torch
from torch import nn

from deed.kernels import Link, RowNorm, chain, fused_norm_linear
from deed.kernels.int8 import IntMM, Native, is_exact
from deed.kernels.int8_linear import Int8Linear
from deed.kernels.native.runs import available

WIDTH, INNER, OTHER = 96, 256, 48
NATIVELY = pytest.mark.skipif(not available(), reason="the native library is not built, or off")
CASES = ("qkv", "feed_forward", "gated", "post_norm", "between", "after", "gate_last")


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "fixed")


@pytest.fixture(params=["float32", "int8", "mixed"])
def linear(request):
    """`linear(in, out)` of the precision."""
    if request.param != "float32" and available() and not is_exact(Native, 127):
        pytest.fail("the native int8 kernel is not exact")
    turn = iter(range(99))

    def make(width, out):
        plain = nn.Linear(width, out, bias=next(turn) % 2 == 0)
        int8 = request.param == "int8" or (request.param == "mixed" and next(turn) % 2)
        return Int8Linear(plain) if int8 else plain

    return make


def norm(kind):
    weight = torch.rand(WIDTH) + 0.5
    return RowNorm(kind, weight, torch.randn(WIDTH) if kind == "layer" else None, 1e-5)


def links(case, linear, kind):
    one, two = norm(kind), norm(kind)
    up, down, square = (lambda: linear(WIDTH, INNER)), (lambda: linear(INNER, WIDTH)), (lambda: linear(WIDTH, WIDTH))
    first = Link(linear(OTHER, WIDTH), "residual")
    return {
        "qkv": lambda: [Link(square(), before=one), Link(square(), before=one), Link(up(), before=one)],
        "feed_forward": lambda: [Link(up(), activation="relu", before=one), Link(down(), "residual")],
        "gated": lambda: [
            Link(up(), activation="gelu_tanh", before=one),
            Link(up(), "gate", before=one),
            Link(down(), "residual"),
        ],
        "post_norm": lambda: [Link(up(), activation="gelu"), Link(down(), "residual", after=two)],
        "between": lambda: [first, Link(square(), before=two)],
        "after": lambda: [
            Link(first.linear, "residual", after=one),
            Link(up(), activation="silu"),
            Link(down(), "residual", after=two),
        ],
        "gate_last": lambda: [Link(up(), activation="silu", before=one), Link(up(), "gate", before=one)],
    }[case]()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("case", CASES)
def test_a_chain_gives_what_pytorch_gives_and_rows_are_independent(case, kind, linear, each_set):
    torch.manual_seed(0)
    run = chain(links(case, linear, kind))
    assert run.native
    hidden, x = 3 * torch.randn(37, WIDTH), torch.randn(37, OTHER)
    int8 = any(type(link.linear) is Int8Linear for link in run.links)
    for got, expected in zip(run(hidden, x), run.by_torch(hidden, x), strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            error = (got - expected).abs().max() / expected.abs().max()
            assert error < (0.02 if int8 else 3e-6)
    whole = run(hidden, x)
    for rows in (1, 2, 3, 4, 5, 8, 9, 33):
        for part, full in zip(run(hidden[2 : 2 + rows], x[2 : 2 + rows]), whole, strict=True):
            assert part is None or torch.equal(part, full[2 : 2 + rows])


@NATIVELY
@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_threads_nor_long_blocks_change_a_row(threads, linear, each_set):
    """600 rows go through in parts; sizes that are large enough for several threads."""
    torch.manual_seed(0)
    run = chain(
        [Link(linear(WIDTH, 1000), activation="gelu", before=norm("rms")), Link(linear(1000, WIDTH), "residual")]
    )
    if not run.native:
        return  # 1000 is no multiple of 16: in float32 PyTorch's
    run.rows = 10**6
    hidden = torch.randn(2, 300, WIDTH)
    one = torch.cat([run(hidden[0, i : i + 1])[0] for i in range(0, 300, 50)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = run(hidden)[0]
    finally:
        torch.set_num_threads(before)
    assert whole.shape == hidden.shape and torch.equal(whole[0, ::50], one)


@NATIVELY
@torch.inference_mode()
@pytest.mark.parametrize("rows", [257, 258, 514])
def test_few_rows_that_are_left_after_long_blocks(rows):
    """They had been prepared by each thread in memory for one row, and wrote over what lay behind it."""
    wide, narrow = Int8Linear(nn.Linear(512, 2048)), Int8Linear(nn.Linear(2048, 512))
    run = chain(
        [Link(wide, activation="relu", before=RowNorm("rms", torch.ones(512), None, 1e-5)), Link(narrow, "residual")]
    )
    run.rows = 10**6
    hidden, before = torch.randn(rows, 512), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(20):
            assert torch.equal(run(hidden)[0][256:], run(hidden[256:].contiguous())[0])
            [torch.empty(37 * i + 5) for i in range(50)]  # finds out whether the heap is whole
    finally:
        torch.set_num_threads(before)


@NATIVELY
@pytest.mark.skipif(not is_exact(IntMM, 127), reason="`_int_mm` is not exact here")
@pytest.mark.parametrize("shape", [(33, 50), (768, 96), (96, 768), (130, 257), (1, 1)])
def test_int8_is_bit_for_bit_what_int_mm_gives(shape, each_set):
    torch.manual_seed(0)
    source = nn.Linear(shape[1], shape[0])
    x = torch.randn(37, shape[1]) * torch.logspace(-30, 30, 37)[:, None]
    x[3] = 0
    ours, theirs = Int8Linear(source, product=(Native, 127)), Int8Linear(source, product=(IntMM, 127))
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.dequantize(), theirs.dequantize())


@NATIVELY
@pytest.mark.parametrize("shape", [(33, 50), (784, 768), (80, 3072)])
def test_int8_sums_are_exact_for_every_number_of_rows(shape, each_set):
    """Beside float64, with the largest values: tiles of all heights, alone and behind whole ones, and one that is not full."""
    torch.manual_seed(0)
    out, width = shape
    weight = torch.randint(-127, 128, shape).float()
    weight[0], weight[-1] = 127, -127
    x = torch.randint(-127, 128, (64, width)).float()
    x[0], x[1], x[-1] = 127, -127, 127
    x[:, 0] = 127
    run = Native(weight, torch.ones(out), 127).row_wise(None)
    exact = (x.double() @ weight.double().T).float()  # sums stay below 2^26, so that float32 rounds them once
    for rows in (*range(1, 30), 63, 64):
        got = run(x[:rows])
        torch.testing.assert_close(got, exact[:rows], rtol=3e-7, atol=0)
        assert torch.equal(got[-1:], run(x[rows - 1 : rows]))


@torch.inference_mode()
def test_values_that_are_not_finite_stay_in_their_row(linear):
    run = fused_norm_linear(linear(WIDTH, INNER), norm("rms"))
    x = torch.randn(5, WIDTH)
    expected = run(x).clone()
    x[1, 7], x[3, 0] = float("nan"), float("inf")
    got = run(x)
    assert got[1].isnan().all() and not got[3].isfinite().all()
    assert torch.equal(got[[0, 2, 4]], expected[[0, 2, 4]])
    assert run(x[:0]).shape == (0, INNER)


@torch.inference_mode()
def test_layouts_dtypes_and_the_input_stay_as_they_are(linear):
    run = chain(
        [Link(linear(WIDTH, INNER), activation="relu", before=norm("rms")), Link(linear(INNER, WIDTH), "residual")]
    )
    x = torch.randn(3, 4, WIDTH)
    before = x.clone()
    assert torch.equal(run(x.transpose(0, 1))[0], run(x)[0].transpose(0, 1))
    assert torch.equal(x, before)
    if all(type(link.linear) is Int8Linear for link in run.links):
        assert fused_norm_linear(run.links[0].linear, None)(x.double()).dtype == torch.float64


def test_a_weight_whose_memory_was_replaced_is_followed():
    torch.manual_seed(0)
    layer, scale = nn.Linear(WIDTH, INNER).requires_grad_(False), RowNorm("rms", torch.ones(WIDTH))
    run, x = fused_norm_linear(layer, scale), torch.randn(2, WIDTH)
    first = run(x)
    layer.weight.data = 2 * layer.weight.data
    layer.bias.data = 2 * layer.bias.data
    torch.testing.assert_close(run(x), 2 * first)
    scale.weight.mul_(0)
    assert torch.equal(run(x), layer.bias.expand(2, INNER))


def test_gradients_flow_where_they_are_asked_for():
    layer = nn.Linear(WIDTH, INNER)
    x = torch.randn(2, WIDTH, requires_grad=True)
    fused_norm_linear(layer, None)(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None
    assert fused_norm_linear(layer, None)(x.detach()).requires_grad


def test_many_threads_at_once(linear):
    torch.manual_seed(0)
    run = chain(links("gated", linear, "rms"))
    inputs = [torch.randn(rows, WIDTH) for rows in (1, 7, 20, 3)]
    with torch.inference_mode():
        expected = [run(x)[0] for x in inputs]
    wrong = []

    def work(i):
        with torch.inference_mode():
            for _ in range(20):
                if not torch.equal(run(inputs[i])[0], expected[i]):
                    wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: [], "at least one"),
        (lambda a: [Link(a, "sum")], "there are output, gate, residual"),
        (lambda a: [Link(a, activation="tanh")], "there are output"),
        (lambda a: [Link(a, "residual", activation="relu")], "no norm before it and no activation"),
        (lambda a: [Link(a, after=norm("rms"))], "only a residual"),
        (lambda a: [Link(a, "gate")], "a gate follows an output"),
        (lambda a: [Link(a), Link(a, "gate", before=norm("rms"))], "a gate follows an output on the same input"),
        (lambda a: [Link(a), Link(a), Link(a, "gate")], "a gate follows one output"),
    ],
)
def test_what_is_no_chain_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        chain(make(nn.Linear(WIDTH, WIDTH)))


def test_without_the_library_pytorch_runs_it(monkeypatch, linear):
    torch.manual_seed(0)
    made, x = links("gated", linear, "rms"), torch.randn(3, WIDTH)
    with torch.inference_mode():
        expected = chain(made).by_torch(x)[0]
        monkeypatch.setattr(import_module("deed.kernels.chain"), "available", lambda: False)
        run = chain(made)
        assert not run.native and torch.equal(run(x)[0], expected)


def test_a_chain_is_not_copied():
    with pytest.raises(TypeError, match="make one of the copy"):
        copy.deepcopy(chain([Link(nn.Linear(WIDTH, WIDTH))]))
