"""The staircase alone and under the layers of real models: whatever happens to it, what lies under the stair is exact."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, EncoderDecoderCache

from conftest import VOCAB, deed_model
from deed import FixedSchedule, StaircaseCache
from deed.engine.staircase import Staircase
from deed.engine.step import decode_step

pytestmark = pytest.mark.usefixtures("packing")

N_LAYERS = 4
ROWS = st.integers(0, 5)

# A program: append q tokens and leave at one depth per row; reorder or select rows; roll back.
STEP = st.tuples(st.just("step"), st.integers(1, 3), st.lists(st.integers(1, N_LAYERS), min_size=6, max_size=6))
SELECT = st.tuples(st.just("select"), st.lists(ROWS, min_size=1, max_size=5))
ROLLBACK = st.tuples(st.just("rollback"), st.integers(1, 3))
FINISH = st.tuples(st.just("finish"), ROWS)
PROGRAM = st.lists(st.one_of(STEP, STEP, STEP, SELECT, ROLLBACK, FINISH), min_size=1, max_size=9)


class Rig:
    """A model's cache driven step by step, beside the tokens every row has seen."""

    def __init__(self, kind, rows=3):
        self.model = MODELS[kind]
        generator = torch.Generator().manual_seed(7)
        self.source = torch.randint(3, VOCAB, (rows, 6), generator=generator)
        self.mask = torch.ones_like(self.source)
        self.mask[1, 4:] = 0
        self.mask[2, 2:] = 0
        self.tokens = torch.zeros(rows, 0, dtype=torch.long)
        self.generator = generator
        self.cache = StaircaseCache(N_LAYERS, FixedSchedule([1]), capacity=2, audit=True)
        self.encode()
        self.cache.begin(self.model, self.encoded, encoder_mask=self.mask, may_skip_finished=True)

    def encode(self):
        encoder = self.model.get_encoder()
        self.encoded = encoder(input_ids=self.source, attention_mask=self.mask)

    def step(self, q, depths):
        rows = self.tokens.shape[0]
        new = torch.randint(3, VOCAB, (rows, q), generator=self.generator)
        self.tokens = torch.cat([self.tokens, new], 1)
        self.cache.policy = FixedSchedule([[d] for d in depths[:rows]])
        self.logits = decode_step(self.cache, new)

    def select(self, indices):
        rows = self.tokens.shape[0]
        index = torch.tensor([i % rows for i in indices])
        self.cache.reorder_cache(index)
        self.tokens, self.source, self.mask = self.tokens[index], self.source[index], self.mask[index]
        self.encode()

    def rollback(self, n):
        n = min(n, self.tokens.shape[1])
        self.cache.crop(-n)
        self.tokens = self.tokens[:, : self.tokens.shape[1] - n]

    def finish(self, row):
        rows = self.tokens.shape[0]
        self.cache.state.note_finished([r == row % rows for r in range(rows)])

    def check(self):
        """Keys and values under the stair, and pending states, against a full teacher-forced pass."""
        stairs, model = self.cache.stairs, self.model
        assert stairs.length == self.tokens.shape[1]
        if stairs.length == 0:
            return
        full = EncoderDecoderCache(DynamicCache(), DynamicCache())
        decoder = model.get_decoder()
        out = decoder(
            input_ids=self.tokens,
            encoder_hidden_states=self.encoded[0],
            encoder_attention_mask=self.mask,
            past_key_values=full,
            use_cache=True,
            output_hidden_states=True,
        )
        for r in range(stairs.n_rows):
            filled = [stairs.filled[layer][r] for layer in range(N_LAYERS)]
            assert filled == sorted(filled, reverse=True), "stairs only fall"
            for layer, p in enumerate(filled):
                exact = full.self_attention_cache.layers[layer]
                if p:
                    torch.testing.assert_close(stairs.keys[layer][r, :, :p], exact.keys[r, :, :p], rtol=0, atol=1e-10)
                    torch.testing.assert_close(
                        stairs.values[layer][r, :, :p], exact.values[r, :, :p], rtol=0, atol=1e-10
                    )
                if self.cache.cross_ready[layer] and self.cache.cross_ready[layer][r]:
                    cross = full.cross_attention_cache.layers[layer]
                    torch.testing.assert_close(self.cache.cross_keys[layer][r], cross.keys[r], rtol=0, atol=1e-10)
            for position in range(stairs.length):
                depth = sum(p > position for p in filled)
                if depth < N_LAYERS:  # the last hidden state is reported after the final norm
                    expected = out.hidden_states[depth][r, position]
                    torch.testing.assert_close(stairs.hidden[r, position], expected, rtol=0, atol=1e-10)
        assert int(stairs.writes.max()) <= 1, "no (row, layer, position) is written twice"


MODELS = {kind: deed_model(kind, enc=2, dec=N_LAYERS) for kind in ("t5_tied", "bart")}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=PROGRAM)
def test_under_the_stair_everything_is_exact(name, program):
    rig = Rig(name)
    for op, *arguments in program:
        getattr(rig, op)(*arguments)
        rig.check()


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=PROGRAM, depths=st.lists(st.integers(1, N_LAYERS), min_size=6, max_size=6))
def test_logits_after_any_history_equal_the_exit_logits(name, program, depths):
    rig = Rig(name)
    rig.step(1, [1] * 6)
    for op, *arguments in program:
        getattr(rig, op)(*arguments)
    rig.cache.state.finished = None
    rig.step(2, depths)
    z = rig.model.exit_logits(encoder_outputs=rig.encoded, attention_mask=rig.mask, decoder_input_ids=rig.tokens)[
        :, :, -1
    ]
    for r in range(rig.tokens.shape[0]):
        torch.testing.assert_close(rig.logits[r, 0], z[depths[r] - 1, r], rtol=0, atol=1e-10)


def test_cells_are_counted():
    stairs = Staircase(2, capacity=1)
    stairs.extend(torch.zeros(2, 1, 3))
    for layer, rows in ((0, [0, 1]), (1, [0])):
        block = stairs.block(layer, rows)
        stairs.widen(block, block.hidden + 1)
    stairs.extend(torch.zeros(2, 1, 3))
    block = stairs.block(0, [0, 1])
    assert (block.start, block.stop, block.index, block.spans) == (1, 2, None, [(0, 2, 0, 1, 2)])
    stairs.widen(block, block.hidden + 1)
    block = stairs.block(1, [0, 1])  # row 0 lacks one position, row 1 two: one padding cell
    assert block.spans == [(0, 1, 0, 1, 2), (1, 2, 1, 0, 2)] and block.runs == [(0, 2, 0)]
    before = stairs.hidden.clone()
    stairs.widen(block, block.hidden + 1)
    assert torch.equal(stairs.hidden[0, 0], before[0, 0]), "a padding cell is not written"
    assert (stairs.computed_cells, stairs.padding_cells) == (2 + 1 + 2 + 3, 1)


def test_layers_nobody_reached_hold_no_memory():
    model = deed_model("t5_tied")
    g = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, exit_threshold=0.0, return_dict_in_generate=True)
    cache = g.past_key_values
    assert cache.stairs.keys[0] is not None and not any(k is not None for k in cache.stairs.keys[1:])
    assert not any(k is not None for k in cache.cross_keys[1:])


def test_bad_calls():
    stairs = Staircase(2)
    stairs.extend(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="holds 2 rows, but 3"):
        stairs.extend(torch.zeros(3, 1, 4))
    with pytest.raises(ValueError, match="cannot roll back 4 of 3"):
        stairs.rollback(4)
    with pytest.raises(IndexError, match="do not fit"):
        stairs.select(torch.tensor([0, 2]))
