"""Which library multiplies: the rule by size, rows and maker of the processor, and that the results are one."""

import pytest
import torch

from deed.kernels import linear as products

LARGE = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[True, False], ids=["intel", "other"])
def intel(request, monkeypatch):
    monkeypatch.setattr(products, "on_intel", lambda: request.param)
    return request.param


@pytest.mark.parametrize("rows", [1, 3, 4, 16, 17])
@pytest.mark.parametrize("with_bias", [True, False])
def test_results_are_those_of_linear(intel, rows, with_bias):
    x = torch.randn(1, rows, 1024, generator=torch.Generator().manual_seed(rows))
    bias = torch.arange(1024.0) if with_bias else None
    out = products.product(LARGE)(LARGE, bias, x)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, LARGE, bias), rtol=1e-4, atol=1e-4)


def test_on_intel_only_some_rows_go_to_onednn(monkeypatch):
    taken = []
    monkeypatch.setattr(products, "_onednn", lambda w, b, x: taken.append(x.shape[-2]))
    for rows in (1, 3, 4, 16, 17):
        products._by_rows(LARGE, None, torch.zeros(1, rows, 1024))
    assert taken == [4, 16]


def test_small_matrices_and_other_dtypes_go_to_linear(intel):
    small = torch.zeros(256, 512 if intel else 128)
    for weight in (small, LARGE.double(), LARGE.bfloat16(), LARGE.T[:, ::2]):
        assert products.product(weight) is products._linear
    assert products.product(LARGE) is (products._by_rows if intel else products._onednn)


def test_without_onednn_all_go_to_linear(intel, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.product(LARGE) is products._linear


def test_the_maker_is_read_from_the_system(monkeypatch, tmp_path):
    for text, expected in (("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False)):
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        monkeypatch.setattr(products, "CPUINFO", file)
        assert products.on_intel.__wrapped__() is expected
    monkeypatch.setattr(products, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(products.platform, "processor", lambda: "Intel64 Family 6")
    assert products.on_intel.__wrapped__()
