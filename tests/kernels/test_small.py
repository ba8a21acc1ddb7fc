"""Linears with few weights: what `linear` gives, by MKL for few rows and by the faster kernel for long blocks."""

import pytest
import torch

from deed.kernels import small
from deed.kernels.contract import Kernel
from deed.kernels.small import small_product

WEIGHT = torch.randn(160, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["", "fixed", "plain", "onednn"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_results_are_those_of_linear(name, with_bias, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", name)
    bias = torch.arange(160.0) if with_bias else None
    run = small_product(WEIGHT, bias)
    for rows in (1, 22, 23, 200):
        x = torch.randn(2, rows, 128, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(run(x), torch.nn.functional.linear(x, WEIGHT, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("faster", ["plain", "onednn"])
def test_long_blocks_go_to_the_faster_one(faster, monkeypatch):
    monkeypatch.delenv("DEED_KERNELS", raising=False)
    times = {name: (1.0, 1.0, 1.0, 0.5 if name == faster else 1.0) for name in ("plain", "onednn")}
    monkeypatch.setattr(small, "measure", lambda *_: times)
    taken = []
    for name in ("plain", "onednn"):
        made = Kernel(name, lambda w, b, name=name: lambda x: taken.append((name, len(x))), copies=False)
        monkeypatch.setattr(small, name.upper(), made)
    small._faster_by_onednn.cache_clear()
    run = small_product(WEIGHT, None)
    for rows in (1, 22, 23, 64):
        run(torch.zeros(rows, 128))
    small._faster_by_onednn.cache_clear()
    assert taken == [("plain", 1), ("plain", 22), (faster, 23), (faster, 64)]


def test_tiny_ones_and_other_dtypes_go_to_linear(monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "onednn")
    for weight in (torch.zeros(32, 48), WEIGHT.double(), WEIGHT.T[:, ::2]):
        run = small_product(weight, None)
        assert run.func.__name__ == "_linear"
