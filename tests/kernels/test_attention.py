"""Native attention: what PyTorch's gives, and a query of a block is what it is alone, bit for bit."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from deed.kernels import native
from deed.kernels.native import attention
from deed.kernels.native.attention import attend, attends, available

pytestmark = pytest.mark.skipif(not available(), reason="the native library is not built, or off")


def inputs(rows, heads, queries, keys, dim, kv_heads=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, kv_heads or heads, keys, dim)
    q = torch.randn(rows, heads, queries, dim, generator=generator)
    return q, torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5, 9, 17])
@pytest.mark.parametrize("keys", [1, 15, 40, 1500])
@pytest.mark.usefixtures("each_set")
def test_is_pytorchs(queries, keys):
    for rows, heads, dim in ((1, 8, 64), (3, 2, 16), (2, 3, 80)):
        q, k, v = inputs(rows, heads, queries, keys, dim)
        assert attends(q, k, v, None)
        torch.testing.assert_close(attend(q, k, v, None, 0.3), sdpa(q, k, v, scale=0.3), rtol=1e-4, atol=1e-5)
        mask = torch.randn(rows, 1, queries, keys)
        mask[..., 1:].masked_fill_(torch.rand(rows, 1, queries, keys - 1) < 0.3, torch.finfo(torch.float32).min)
        found = attend(q, k, v, mask, 0.3)
        torch.testing.assert_close(found, sdpa(q, k, v, attn_mask=mask, scale=0.3), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("each_set")
def test_views_shared_heads_and_masks_that_repeat():
    q, k, v = inputs(2, 6, 3, 20, 32, kv_heads=2)
    buffer = torch.full((4, 2, 50, 32), torch.nan)  # rows, capacity: what lies beyond is never read
    buffer[1:3, :, :20] = k
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)
    keys = buffer[1:3, :, :20]
    for mask in (torch.randn(1, 6, 3, 20), torch.randn(2, 1, 1, 20), torch.randn(1, 1, 3, 20).expand(2, 1, 3, 20)):
        expected = sdpa(q, k, v, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(attend(turned, keys, v, mask, 32**-0.5), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("each_set")
def test_a_query_in_a_block_is_what_it_is_alone(threads):
    """Whatever the number of queries, rows and threads, and with later keys hidden by a mask or not there."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        q, k, v = inputs(2, 4, 7, 300, 64)
        block = attend(q, k, v, None, 0.125)
        causal = torch.full((7, 300), torch.finfo(torch.float32).min).triu(294)[None, None]
        hidden = attend(q, k, v, causal, 0.125)
        for i in range(7):
            one = q[1:, :, i : i + 1]
            assert torch.equal(attend(one, k[1:], v[1:], None, 0.125), block[1:, :, i : i + 1])
            alone = attend(one, k[1:, :, : 294 + i], v[1:, :, : 294 + i], None, 0.125)
            assert torch.equal(alone, hidden[1:, :, i : i + 1])
    finally:
        torch.set_num_threads(before)


def test_what_it_does_not_know():
    q, k, v = inputs(1, 2, 3, 10, 32)
    assert not attends(q.double(), k.double(), v.double(), None)
    assert not attends(*inputs(1, 2, 3, 10, 24), None) and not attends(*inputs(1, 2, 40, 10, 32), None)
    assert not attends(q, k.transpose(2, 3).contiguous().transpose(2, 3), v, None)
    assert not attends(q, k, v, torch.ones(1, 1, 3, 10, dtype=torch.bool))
    assert not attends(q, k[:, :, :0], v[:, :, :0], None)


def test_no_memory_is_an_error(monkeypatch):
    library = native.load()
    monkeypatch.setattr(attention, "load", lambda: type("Full", (), {"deed_attend": staticmethod(lambda *_: -1)}))
    assert library is not None
    with pytest.raises(MemoryError):
        attend(*inputs(1, 2, 3, 10, 32), None, 1.0)
