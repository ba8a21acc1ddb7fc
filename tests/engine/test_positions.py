"""Positions in layers (rotary embeddings, sliding windows, left-padded prompts): a toy family on BART's modules against a
dense pass written out here, in float64. Rows have lengths and stairs of their own, and layers run by parts and by `run`."""

from dataclasses import replace

import pytest
import torch
from transformers import BartForConditionalGeneration

from conftest import VOCAB, batch, plain_model
from deed import FixedSchedule, StaircaseCache, get_deed_model
from deed.engine.step import decode_step
from deed.families import family_of, register_family
from deed.families.bart_like import BART, BartLikeFamily
from recording import using

pytestmark = pytest.mark.usefixtures("packing")
N_LAYERS, WINDOW = 4, 3
DEPTHS = [[3, 4, 1], [1, 2, 4], [2, 1, 1, 4], [4, 1, 3, 2, 1]]


class RotaryBart(BartForConditionalGeneration):
    pass


def rotate(q, k, positions):
    """Pairs of a head's numbers turned by their position, more slowly from pair to pair."""
    half = q.shape[-1] // 2
    angles = positions[..., None].to(q.dtype) * 0.7 ** torch.arange(half, dtype=q.dtype, device=q.device)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]

    def turned(x):
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    return turned(q), turned(k)


class RotaryFamily(BartLikeFamily):
    """BART with positions in queries and keys, and a window on every second layer."""

    build = replace(BART, positions_from_mask=True)
    by_parts = True

    def embed(self, model, ids, positions):
        assert positions.shape[1] == ids.shape[1] and positions.shape[0] in (1, ids.shape[0])
        return super().embed(model, ids, positions)

    def window(self, model, layer):
        return WINDOW if layer % 2 else None

    def all_parts(self, model):
        found = BartLikeFamily.parts(self, model)
        return [replace(p, self_attn=replace(p.self_attn, rotate=rotate)) for p in found]

    def parts(self, model):
        return self.all_parts(model) if self.by_parts else None

    def run(self, layer, hidden, self_mask, bias, encoder_hidden, encoder_mask, cache, positions):
        block = cache.block
        assert cache.get_seq_length() == cache.self_attention_cache.get_seq_length(block.layer) == block.start
        assert cache.get_mask_sizes(hidden.shape[1], block.layer) == (block.stop, 0)
        parts = BartLikeFamily.parts(self, _MODEL["model"])[block.layer]
        attn = parts.self_attn
        q, k, v = (heads(f(hidden), attn) for f in (attn.q, attn.k, attn.v))
        q, k = rotate(q, k, positions)
        k, v = cache.self_attention_cache.update(k, v, block.layer)
        assert cache.get_seq_length() == block.start, "the same after its keys are in"
        hidden = attn.norm(hidden + attn.out(flat(attended(q, k, v, self_mask, attn.scale))))
        cross = parts.cross
        source = cache.cross_attention_cache.layers[block.layer]
        seen = attended(heads(cross.q(hidden), cross), source.keys, source.values, encoder_mask, cross.scale)
        hidden = cross.norm(hidden + cross.out(flat(seen)))
        return parts.ffn_norm(hidden + parts.ffn(hidden))


_MODEL = {}


def heads(x, attn):
    return x.unflatten(-1, (attn.heads, attn.head_dim)).transpose(1, 2)


def flat(x):
    return x.transpose(1, 2).flatten(2)


def attended(q, k, v, keep, scale):
    scores = q @ k.transpose(2, 3) * scale
    if keep is not None:
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)  # a padded position sees nothing
    return scores.softmax(-1) @ v


@pytest.fixture(params=["parts", "layers"])
def model(request, own_families, monkeypatch):
    register_family("RotaryBart")(RotaryFamily)
    plain = plain_model("bart", dec=N_LAYERS)
    plain.__class__ = RotaryBart
    model = get_deed_model(plain)
    monkeypatch.setattr(RotaryFamily, "by_parts", request.param == "parts")
    monkeypatch.setitem(_MODEL, "model", model)
    assert isinstance(family_of(model), RotaryFamily)
    return model


def dense(model, ids, encoded, encoder_mask, mask, depth):
    """Logits after the last of one row's `ids` `[1, length]` at the exit at `depth`, all layers over all positions."""
    family, length = model.deed_family, ids.shape[1]
    positions = (mask.cumsum(-1) - 1).clamp(min=0) * mask
    hidden = family.embed(model, ids, positions)
    at = torch.arange(length)
    for number, parts in enumerate(family.all_parts(model)[:depth]):
        keep = (at[None, :] <= at[:, None]) & mask.bool()
        if number % 2:
            keep &= at[None, :] > at[:, None] - WINDOW
        attn, cross = parts.self_attn, parts.cross
        q, k, v = (heads(f(hidden), attn) for f in (attn.q, attn.k, attn.v))
        q, k = rotate(q, k, positions)
        hidden = attn.norm(hidden + attn.out(flat(attended(q, k, v, keep, attn.scale))))
        q, k, v = heads(cross.q(hidden), cross), heads(cross.k(encoded), cross), heads(cross.v(encoded), cross)
        seen = attended(q, k, v, encoder_mask[:, None, None].bool(), cross.scale)
        hidden = cross.norm(hidden + cross.out(flat(seen)))
        hidden = parts.ffn_norm(hidden + parts.ffn(hidden))
    return model.exit_head(depth, hidden[:, -1])[0]


def begun(model, rows=4):
    source = batch(rows)
    cache = StaircaseCache(N_LAYERS, FixedSchedule(DEPTHS), audit=True)
    encoded = model.get_encoder()(**source)
    cache.begin(model, encoded, encoder_mask=source["attention_mask"])
    return cache, encoded[0], source["attention_mask"]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("prompt", [1, 3])
@torch.no_grad()
def test_rotary_layers_with_windows(model, waits, prompt):
    cache, encoded, encoder_mask = begun(model)
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, VOCAB, (1, 0)) for _ in range(4)]
    for step in range(12):
        rows = [0, 1, 2, 3]
        if waits and step:  # lengths of their own
            rows = [r for r in rows if (step * (r + 1)) % 3 != 1]
        new = torch.randint(3, VOCAB, (len(rows), prompt if step == 0 else 1 + step % 2), generator=generator)
        logits = decode_step(cache, new, rows=rows)
        for i, r in enumerate(rows):
            ids[r] = torch.cat([ids[r], new[i : i + 1]], 1)
            depth = cache.state.depths[-1][r]
            keep = torch.ones_like(ids[r])
            expected = dense(model, ids[r], encoded[r : r + 1], encoder_mask[r : r + 1], keep, depth)
            torch.testing.assert_close(logits[i, 0], expected, rtol=0, atol=1e-10)
    assert int(cache.stairs.writes.max()) == 1
    assert cache.stairs.ragged == waits


@torch.no_grad()
def test_left_padded_prompts_count_from_their_first_token(model):
    cache, encoded, encoder_mask = begun(model)
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    ids = torch.zeros(4, 0, dtype=torch.long)
    for step in range(8):
        new = torch.randint(3, VOCAB, (4, 3 if step == 0 else 1), generator=generator)
        ids = torch.cat([ids, new], 1)
        if step:
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        logits = decode_step(cache, new, mask)
        for r in range(4):
            depth, one = cache.state.depths[-1][r], slice(r, r + 1)
            expected = dense(model, ids[one], encoded[one], encoder_mask[one], mask[one], depth)
            torch.testing.assert_close(logits[r, 0], expected, rtol=0, atol=1e-10)


def test_recorded_layers_are_told_their_positions(model, tape):
    if not model.deed_family.by_parts:
        pytest.skip("layers that run by themselves are not recorded")
    using(model)
    for _ in range(2):
        test_rotary_layers_with_windows(model, False, 1)
    assert tape.run


def test_a_layer_that_sees_too_far_is_noticed(model, monkeypatch):
    monkeypatch.setattr(RotaryFamily, "window", lambda self, model, layer: None)
    with pytest.raises(AssertionError, match="not close"):
        test_rotary_layers_with_windows(model, False, 1)
