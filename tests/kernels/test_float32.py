"""float32 linears: every kernel gives what `linear` gives, which runs where, and copies that follow the weight."""

import pytest
import torch

from deed.kernels import float32
from deed.kernels.float32 import KERNELS, product

LARGE = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
ROWS = (1, 2, 3, 5, 6, 8, 22, 23, 64)


@pytest.mark.parametrize("name", ["", "fixed", *(kernel.name for kernel in KERNELS)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_results_are_those_of_linear(name, with_bias, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", name)
    bias = torch.arange(1024.0) if with_bias else None
    run = product(LARGE, bias)
    for rows in ROWS:
        x = torch.randn(1, rows, 1024, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(run(x), torch.nn.functional.linear(x, LARGE, bias), rtol=1e-4, atol=2e-4)


def by(run):
    return getattr(run, "func", None)


@pytest.mark.parametrize("name", ["onednn", "packed"])
def test_small_matrices_and_other_dtypes_go_to_linear(name, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", name)
    for weight in (torch.zeros(256, 512), LARGE.double(), LARGE.bfloat16(), LARGE.T[:, ::2]):
        assert by(product(weight, None)) is float32._linear
    assert by(product(LARGE, None)) is float32._onednn


def test_without_onednn_all_go_to_linear(monkeypatch):
    monkeypatch.setattr(float32, "available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert by(product(LARGE, None)) is float32._linear


def test_each_number_of_rows_has_its_kernel(monkeypatch):
    taken = []
    kernels = {
        name: float32.Kernel(name, lambda w, b, name=name: lambda x: taken.append((name, x.shape[-2])), copies=False)
        for name in "abcd"
    }
    monkeypatch.setattr(float32, "fastest", lambda *_: tuple(kernels.values()))
    monkeypatch.delenv("DEED_KERNELS", raising=False)
    run = product(LARGE, None)
    for rows in ROWS:
        run(torch.zeros(1, rows, 1024))
    assert taken == list(zip("aabbcccdd", ROWS, strict=True))


@pytest.mark.parametrize("name", ["packed", "transposed"])
def test_a_copy_is_made_once_and_again_after_the_weight_changed(name, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", name)
    weight, x = torch.nn.Parameter(LARGE.clone()), torch.ones(1, 3, 1024)
    with torch.no_grad():
        first = product(weight, None)
        assert product(weight, None) is first
        weight.mul_(2)
        second = product(weight, None)
        assert second is not first
        torch.testing.assert_close(second(x), 2 * x @ LARGE.T, rtol=1e-4, atol=1e-3)
        weight.data = LARGE.clone()
        torch.testing.assert_close(product(weight, None)(x), x @ LARGE.T, rtol=1e-4, atol=1e-3)
    before = len(float32._copies)
    del weight, first, second
    assert len(float32._copies) == before - 1


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_gradients_are_those_of_the_plain_product(kernel):
    """oneDNN's own has none: a model must be trainable whichever kernel is the fastest here."""
    torch.manual_seed(0)
    weight, bias = torch.randn(64, 96, requires_grad=True), torch.randn(64, requires_grad=True)
    x = torch.randn(3, 96, requires_grad=True)
    expected = torch.autograd.grad(torch.nn.functional.linear(x, weight, bias).square().sum(), (x, bias))
    got = torch.autograd.grad(kernel.prepare(weight, bias)(x).square().sum(), (x, bias))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    frozen = torch.autograd.grad(kernel.prepare(weight.detach(), bias.detach())(x).square().sum(), x)[0]
    torch.testing.assert_close(frozen, expected[0], rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            kernel.prepare(weight, bias)(x), torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-3
        )
