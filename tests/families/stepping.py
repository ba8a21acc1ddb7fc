"""A batch whose rows wait, catch up and have lengths of their own, step by step against exits without a cache."""

import copy

import torch

from deed import FixedSchedule, StaircaseCache, get_deed_model
from deed.engine.step import decode_step
from tiny import LAYERS, TINY, VOCAB

WAYS = {"padded": float("inf"), "packed": 0.0, "layers": float("inf")}  # `state.SPAN`: what a span by itself costs


def made(name, way, monkeypatch, seed=1):
    """A deed model whose layers run by their parts ("padded" or "packed" blocks) or by their own `forward` ("layers")."""
    model = get_deed_model(TINY[name].build())
    monkeypatch.setattr("deed.engine.state.SPAN", WAYS[way])
    if way == "layers":
        monkeypatch.setattr(type(model.deed_family), "parts", lambda self, model: None)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def encoded(model, source):
    """The encoder's output, as `generate()` gets it."""
    names = {"input_features": "inputs_embeds"} if type(model).__name__.startswith("Pop2Piano") else {}
    return model.get_encoder()(**{names.get(k, k): v for k, v in source.items()})


def row_of(outputs, r):
    """A row of an encoder's output, copied."""
    return type(outputs)(**{k: v[r : r + 1].clone() for k, v in outputs.items() if v is not None})


@torch.no_grad()
def check(model, source, rows=3, steps=8, atol=1e-6):
    """Every token's logits equal `exit_logits` on the row alone. Norms of T5 and Gemma compute in float32.

    Args:
        model: a deed model with `LAYERS` layers, each of them an exit.
        source: encoder inputs of `rows` rows.
    """
    outputs, mask = encoded(model, source), source.get("attention_mask")
    before = copy.deepcopy(outputs)
    cache = StaircaseCache(LAYERS, FixedSchedule([[1, 3, 2, 4], [4, 1, 2], [2, 2, 3, 1, 4]]), audit=True)
    cache.begin(model, outputs, encoder_mask=mask)
    generator = torch.Generator().manual_seed(5)
    ids = [torch.zeros(1, 0, dtype=torch.long) for _ in range(rows)]
    depths, ragged = set(), 0
    for step in range(steps):
        active = [r for r in range(rows) if not step or (step + 2 * r) % 4 != 1]
        new = torch.randint(3, VOCAB, (len(active), 2 if step == 0 else 1 + step % 2), generator=generator)
        logits = decode_step(cache, new, rows=active)
        ragged += cache.stairs.ragged
        for i, r in enumerate(active):
            ids[r] = torch.cat([ids[r], new[i : i + 1]], 1)
            depth = cache.state.depths[-1][r]
            depths.add(depth)
            one = {"encoder_outputs": row_of(before, r)}
            if mask is not None:
                one["attention_mask"] = mask[r : r + 1]
            expected = model.exit_logits(**one, decoder_input_ids=ids[r])[depth - 1, 0, -1]
            torch.testing.assert_close(logits[i, 0], expected, rtol=0, atol=atol)
    assert ragged > 3 and depths == {1, 2, 3, 4}
    assert int(cache.stairs.writes.max()) == 1, "every layer ran once for every position"
    assert all(torch.equal(a, b) for a, b in zip(outputs.values(), before.values(), strict=True)), "left as it was"
