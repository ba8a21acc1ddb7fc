"""int8 and bf16: rows independent bit for bit, decoding as the cache-free reference, what is replaced, what is refused."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models.latr import latr_model, page_batch
from torch import nn

import deed
from conftest import batch, deed_model, plain_model
from data.g2p_words import answer
from deed import DeedConfig, FixedSchedule, get_deed_model
from deed.cli.demo import CHECKPOINT
from deed.data.readers import cmudict
from deed.kernels import int8, int8_linear
from deed.kernels.int8 import Fbgemm, IntMM, Native, is_exact
from deed.kernels.int8_linear import join
from deed.modeling import quantization
from deed.modeling.quantization import PARTS, Int8Linear, quantize
from deed.tasks.loading import load_saved as load
from test_decode import MODES, compare

KERNELS = [(build, levels) for build in (Native, Fbgemm, IntMM) for levels in (127, 63) if is_exact(build, levels)]
SHAPES = ((33, 50), (768, 96), (96, 768), (130, 257))


@pytest.fixture(params=KERNELS, ids=lambda k: f"{k[0].__name__}-{k[1]}")
def each_kernel(request, monkeypatch):
    """Every kernel that works on this machine in turn."""
    for module in (quantization, int8_linear):
        monkeypatch.setattr(module, "kernel", lambda: request.param)
    return request.param


def linear(shape, seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Linear(shape[1], shape[0], bias=bias)


def rows_of(width, seed=0):
    """`[3, 8, width]`: rows of very different size, one of zeros, one of values half-way between two steps."""
    x = torch.randn(3, 8, width, generator=torch.Generator().manual_seed(seed))
    x *= torch.logspace(-4, 4, 24).view(3, 8, 1)
    x[1, 2] = 0
    x[2, 5] = (torch.arange(width) % 127 + 0.5) / 127
    x[2, 5, 0] = 1
    return x


def everywhere(model):
    """Int8 in all parts, however small; this is also what makes tiny models quantised at all."""
    return quantize(model, parts=PARTS, min_weights=0)


# -- the linear ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_of_a_block_equals_the_row_alone_bit_for_bit(each_kernel, shape, threads):
    layer, x = Int8Linear(linear(shape)), rows_of(shape[1])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = layer(x)
        for i in range(3):
            assert torch.equal(layer(x[i]), whole[i])
            assert torch.equal(layer(x[i : i + 1, 2:7]), whole[i : i + 1, 2:7])
            for j in range(8):
                assert torch.equal(layer(x[i, j]), whole[i, j])
    finally:
        torch.set_num_threads(before)


def test_dynamic_quantization_of_torch_would_fail_the_test_above():
    layer = pytest.importorskip("torch.ao.nn.quantized.dynamic").Linear(50, 33)
    x = rows_of(50)
    assert not torch.equal(layer(x)[0, :1], layer(x[0, :1]))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_that_of_the_rounded_numbers(each_kernel, shape):
    levels, source = each_kernel[1], linear(shape)
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-3], [1], [7], [50], [9]]
    )
    weight = source.weight.detach().double()
    weight_step = weight.abs().amax(1, keepdim=True) / 127
    step = x.double().abs().amax(1, keepdim=True) / levels
    expected = ((x.double() / step).round() * step) @ ((weight / weight_step).round() * weight_step).T + source.bias
    got = Int8Linear(source)(x)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5 * float(x.abs().max()))
    exact = source(x)
    assert 1e-3 < (got - exact).norm() / exact.norm() < 0.02


def test_weights_come_back_within_half_a_step(each_kernel):
    source = linear((33, 50))
    layer = Int8Linear(source)
    step = source.weight.abs().amax(1, keepdim=True) / 127
    assert ((layer.dequantize() - source.weight).abs() <= 0.501 * step).all()
    assert layer.weight.shape == source.weight.shape and layer.weight.dtype == torch.int8
    assert "in_features=50, out_features=33, bias=True" in repr(layer)


def test_unusual_inputs(each_kernel):
    source = linear((33, 50))
    source.weight.data[4] = 0
    layer, x = Int8Linear(source), rows_of(50)
    assert torch.equal(layer(torch.zeros(2, 50)), source.bias.expand(2, 33))
    assert layer(torch.full((1, 50), float("nan"))).isnan().all()
    assert torch.equal(layer(x)[..., 4], source.bias[4].expand(3, 8))
    assert layer(torch.empty(0, 50)).shape == (0, 33)
    assert torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1))
    assert layer(x.double()).dtype == torch.float64 and layer(x.bfloat16()).dtype == torch.bfloat16
    before = x.clone()
    with torch.inference_mode():
        assert torch.equal(layer(x), Int8Linear(source)(x))
    assert torch.equal(x, before)


# -- which kernel -------------------------------------------------------------------------------------------------


class Exact:
    """A kernel in floating point."""

    def __init__(self, weight, scale, levels):
        self.weight, self.scale, self.levels = (weight / scale[:, None]).round().double(), scale / levels, levels

    def __call__(self, x):
        return ((x * self.levels).round().double() @ self.weight.T).float() * self.scale


class CutOff(Exact):
    """A CPU without VNNI: sums of two products are cut off at 16 bits."""

    def __call__(self, x):
        zero = self.levels + 1
        pairs = (((x * self.levels).round() + zero)[:, None] * self.weight).unflatten(-1, (-1, 2)).sum(-1)
        return (pairs.clamp(-32768, 32767).sum(-1) - zero * self.weight.sum(-1)).float() * self.scale


class Gone:
    def __init__(self, *args):
        raise AttributeError("removed in PyTorch 9")


class Wrong(Exact):
    def __call__(self, x):
        return super().__call__(x) + 1


@pytest.fixture
def choose(monkeypatch):
    """`choose(fbgemm, int_mm)`: what `kernel()` says if these were the two kernels, and the native ones were not built."""

    def choose(*kernels):
        monkeypatch.setattr(int8, "Native", Gone)
        monkeypatch.setattr(int8, "Fbgemm", kernels[0])
        monkeypatch.setattr(int8, "IntMM", kernels[1])
        return int8.kernel_where.__wrapped__("")

    return choose


def test_the_first_exact_kernel_is_taken(choose):
    assert choose(Exact, Wrong) == (Exact, 127)
    assert choose(Gone, Exact) == (Exact, 127)
    assert choose(Wrong, Exact) == (Exact, 127)
    # Where FBGEMM is cut off there is no VNNI, and `_int_mm` has no fast path: five times slower than float32 on AVX2.
    assert choose(CutOff, Exact) == (CutOff, 63)
    assert choose(CutOff, Wrong) == (CutOff, 63)
    assert choose(Gone, CutOff) == (CutOff, 63)
    with pytest.raises(ValueError, match="no exact int8 product"):
        choose(Gone, Wrong)


def test_largest_values_are_right_without_vnni():
    code = (
        "import torch; from deed.modeling.quantization import Int8Linear\n"
        "layer = torch.nn.Linear(64, 8); layer.weight.data.fill_(1); x = torch.ones(2, 64)\n"
        "torch.testing.assert_close(Int8Linear(layer)(x), layer(x))"
    )
    env = {**os.environ, "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


# -- decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam"])
def test_generate_equals_the_cache_free_reference(kind, mode):
    model = deed_model(kind)
    logits = model.exit_logits(**batch(), decoder_input_ids=torch.full((4, 3), 2))
    everywhere(model)
    difference = (model.exit_logits(**batch(), decoder_input_ids=torch.full((4, 3), 2)) - logits).abs()
    assert difference.amax((1, 2, 3)).min() > 1e-3, "an exit was not quantised"
    seen = set()
    for threshold in (0.3, 0.6, 0.75, 0.9):
        got = compare(model, batch(), threshold, min_new_tokens=9, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 4, "the case is vacuous: too few depths were taken"


def test_ragged_blocks_equal_the_cache_free_reference(kind):
    model = everywhere(deed_model(kind))
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(4)]
    got = compare(
        model,
        batch(),
        depths=lambda t, n: [table[r][t % 7] for r in range(n)],
        policy=FixedSchedule(table),
        min_new_tokens=9,
    )
    assert got.past_key_values.stats()["padding_cells"] > 0


def test_latr_equals_the_cache_free_reference():
    model, seen = everywhere(latr_model()), set()
    assert type(model.encoder.visual_projection) is Int8Linear
    inputs = page_batch()
    with torch.no_grad():
        encoded = model.encoder(**inputs)
    given = {"encoder_outputs": encoded, "attention_mask": encoded.attention_mask}
    for threshold in (0.3, 0.6, 0.9):
        got = compare(model, given, threshold, min_new_tokens=9)
        assert torch.equal(
            model.generate(**inputs, exit_threshold=threshold, max_new_tokens=9, min_new_tokens=9), got.sequences
        )
        seen |= set(got.exit_layers.flatten().tolist())
    assert len(seen - {0}) >= 3


@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_never_exiting_gives_the_tokens_of_the_plain_quantized_model(kind, mode):
    plain = everywhere(plain_model(kind, enc=5))  # Transformers takes the length of the cache from the encoder
    expected = plain.generate(**batch(), max_new_tokens=9, min_new_tokens=9, **MODES[mode])
    model = get_deed_model(plain)
    got = model.generate(**batch(), max_new_tokens=9, min_new_tokens=9, exit_threshold=2.0, **MODES[mode])
    assert torch.equal(got, expected)


def test_copies_and_threads(kind):
    model = everywhere(deed_model(kind, dtype=torch.float32))
    other = copy.deepcopy(model)
    jobs = [(m, seed, t) for seed in range(3) for t in (0.45, 0.9) for m in (model, other)]

    def run(job):
        m, seed, threshold = job
        return m.generate(**batch(seed=seed), max_new_tokens=9, exit_threshold=threshold)

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, jobs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert all(torch.equal(alone[i], alone[i + 1]) for i in range(0, len(jobs), 2))


def test_shipped_model_answers_alike():
    model, tokenizer = load(CHECKPOINT)
    words = [word for word, _ in cmudict.load_split("test")[:64]]
    before, depth = answer(model, tokenizer, words, None)
    everywhere(model)
    after, int8_depth = answer(model, tokenizer, words, None)
    assert sum(a == b for a, b in zip(before, after, strict=True)) >= 0.9 * len(words)
    assert int8_depth == pytest.approx(depth, rel=0.1)


# -- what is replaced ---------------------------------------------------------------------------------------------


def int8_names(model):
    return {name for name, m in model.named_modules() if type(m) is Int8Linear}


@pytest.mark.parametrize("make", [deed_model, plain_model])
def test_parts(kind, make):
    linears = {name for name, m in make(kind).named_modules() if type(m) is nn.Linear}
    of = {
        "encoder": {name for name in linears if "encoder." in name.replace("decoder.", "")},
        "decoder": {name for name in linears if "decoder." in name},
        "head": {name for name in linears if name == "lm_head" or name.startswith("deed_exits")},
    }
    assert set.union(*of.values()) == linears and all(of.values())
    for parts in (("decoder",), ("encoder",), ("head",), ("decoder", "head"), PARTS):
        model = quantize(make(kind), parts=parts, min_weights=0)
        expected = set.union(*(of[part] for part in parts))
        assert int8_names(model) == expected
        assert model.deed_quantized["parts"] == [p for p in PARTS if p in parts]
        assert model.deed_quantized["replaced"] == len(expected) and model.deed_quantized["kept"] == 0
    assert int8_names(quantize(make(kind), min_weights=0)) == of["decoder"] | of["head"]


def test_the_cross_attentions_keys_and_values_are_of_the_decoder(kind):
    names = int8_names(quantize(plain_model(kind), parts=["decoder"], min_weights=0))
    wanted = (
        ("encoder_attn.k_proj", "encoder_attn.v_proj")
        if kind == "bart"
        else ("EncDecAttention.k", "EncDecAttention.v")
    )
    assert all(sum(name.endswith(end) for name in names) == 5 for end in wanted)


def test_a_tied_table_stays_as_it_is():
    for kind in ("t5_tied", "bart"):
        model = deed_model(kind, dtype=torch.float32)
        table = model.get_input_embeddings().weight
        assert table is model.lm_head.weight
        before = table.detach().clone()
        quantize(model, parts=["head"], min_weights=0)
        assert model.get_input_embeddings().weight is table and torch.equal(table, before)
        assert table.dtype == torch.float32 and model.dtype == torch.float32
        hidden = torch.randn(3, 32)
        scale = 32**-0.5 if kind == "t5_tied" else 1
        plain = hidden @ before.T * scale + (model.final_logits_bias if kind == "bart" else 0)
        head = model.deed_family.head(model, hidden)
        assert 1e-4 < (head - plain).norm() / plain.norm() < 0.02


def test_small_linears_stay(kind):
    model = quantize(deed_model(kind), parts=PARTS, min_weights=32 * 48)
    assert int8_names(model) and all(m.weight.numel() >= 32 * 48 for m in model.modules() if type(m) is Int8Linear)
    assert all(m.weight.numel() < 32 * 48 for m in model.modules() if type(m) is nn.Linear)
    assert model.deed_quantized["kept"] == sum(type(m) is nn.Linear for m in model.modules())
    with pytest.warns(UserWarning, match="nothing was quantised"):
        quantize(deed_model(kind))


def test_one_linear_used_twice_stays_one():
    model = plain_model("t5_tied")
    blocks = model.decoder.block
    blocks[1].layer[2].DenseReluDense.wi = blocks[0].layer[2].DenseReluDense.wi
    quantize(model, min_weights=0)
    assert type(blocks[0].layer[2].DenseReluDense.wi) is Int8Linear
    assert blocks[1].layer[2].DenseReluDense.wi is blocks[0].layer[2].DenseReluDense.wi


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype must be one of int8, bf16, got 'int4'"),
        ({"parts": "decoder"}, "parts must be a list out of decoder, encoder, head, got 'decoder'"),
        ({"parts": ["decoder", "embeddings"]}, "parts must be"),
        ({"parts": []}, "parts must be"),
        ({"min_weights": -1}, "min_weights must be a whole number"),
        ({"min_weights": 1e5}, "min_weights must be a whole number"),
    ],
)
def test_bad_arguments(options, message):
    model = deed_model("t5_tied")
    with pytest.raises(ValueError, match=message):
        quantize(model, **options)
    assert not int8_names(model) and not hasattr(model, "deed_quantized")


def test_a_model_without_a_family():
    with pytest.raises(TypeError, match="no decoder family"):
        quantize(nn.Linear(3, 3))


def test_twice():
    for first in ("int8", "bf16"):
        model = quantize(deed_model("bart"), first, min_weights=0)
        for second in ("int8", "bf16"):
            with pytest.raises(ValueError, match="quantised already"):
                quantize(model, second)


def test_only_on_the_cpu():
    with pytest.raises(ValueError, match=r"CPU only and the model is on meta; use dtype='bf16'"):
        quantize(deed_model("t5_tied").to("meta"))
    with pytest.raises(ValueError, match="CPU only"):
        everywhere(deed_model("t5_tied")).to("meta")


def test_only_for_inference():
    model = everywhere(deed_model("t5_tied").train())
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="cannot be trained"):
        model.train()
    model.eval()


@pytest.mark.parametrize("make", [deed_model, plain_model])
def test_saving_is_refused(make, tmp_path):
    model = everywhere(make("bart"))
    with pytest.raises(ValueError, match=r"cannot be saved; save it before quantize\(\)"):
        model.save_pretrained(tmp_path / "int8")
    assert not list(tmp_path.glob("**/*.safetensors"))
    with pytest.raises(ValueError, match="cannot be saved"):
        model.state_dict()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(model)


# -- bf16 ---------------------------------------------------------------------------------------------------------


def test_bf16(kind, tmp_path):
    model = deed_model(kind, dtype=torch.float32)
    ids = torch.full((4, 3), 2)
    expected = model.exit_logits(**batch(), decoder_input_ids=ids)
    assert quantize(model, "bf16") is model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    got = model.exit_logits(**batch(), decoder_input_ids=ids)
    assert got.dtype == torch.bfloat16
    assert 0 < (got.float() - expected).norm() / expected.norm() < 0.1
    out = model.generate(**batch(), max_new_tokens=9, exit_threshold=0.6, return_dict_in_generate=True)
    assert out.exit_layers.shape == (4, out.sequences.shape[1] - 1) and (out.exit_layers >= 0).all()
    model.save_pretrained(tmp_path)
    again = deed.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(again.exit_logits(**batch(), decoder_input_ids=ids), got)


def test_bf16_latr():
    model = quantize(latr_model(DeedConfig(threshold=0.5), dtype=torch.float32), "bf16")
    assert model.generate(**page_batch(), max_new_tokens=5).shape[0] == 4


def test_bf16_where_the_cpu_is_slow_at_it(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.warns(UserWarning, match="no bfloat16 arithmetic"):
        quantize(deed_model("t5_tied"), "bf16")


# -- query, key and value as one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_joined_projections_equal_the_three_bit_for_bit(each_kernel, bias):
    three, x = [Int8Linear(linear((64, 50), seed, bias)) for seed in range(3)], rows_of(50)
    whole = join(three)
    assert torch.equal(whole(x), torch.cat([one(x) for one in three], -1))
    assert join(three) is whole and join([three[0], three[2], three[1]]) is not whole


def test_joined_projections_stay_out_of_the_model_and_go_with_it(kind):
    model = everywhere(deed_model(kind, dtype=torch.float32))
    states = {name: set(vars(m)) for name, m in model.named_modules()}
    expected = model.generate(**batch(), max_new_tokens=5)
    assert states == {name: set(vars(m)) for name, m in model.named_modules()}
    parts = model.deed_family.parts(model)
    assert parts is not None and all(type(layer.self_attn.qkv) is Int8Linear for layer in parts)
    assert all(layer.cross.qkv is None for layer in parts)  # its query and its keys have different inputs
    other = copy.deepcopy(model)
    assert torch.equal(other.generate(**batch(), max_new_tokens=5), expected)
    first = [layer.self_attn.qkv for layer in parts]
    assert all(layer.self_attn.qkv is one for layer, one in zip(other.deed_family.parts(other), first, strict=True))
    before = len(int8_linear._joined)
    count = len(first)
    del model, other, parts, first
    gc.collect()
    assert len(int8_linear._joined) <= before - count


def test_a_replaced_projection_is_not_joined_as_it_was():
    three, x = [Int8Linear(linear((64, 50), seed)) for seed in range(3)], rows_of(50)
    join(three)
    three[1] = Int8Linear(linear((64, 50), 9))
    assert torch.equal(join(three)(x), torch.cat([one(x) for one in three], -1))


def test_the_vocabulary_size_of_a_head_that_torch_quantized():
    model = plain_model("t5_tied", dtype=torch.float32)
    size = model.lm_head.out_features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(model.lm_head.weight, torch.Tensor)
    model = get_deed_model(model)
    assert model.deed_family.vocab_size(model) == size
    assert model.generate(**batch(), max_new_tokens=4, exit_threshold=0.5).shape[0] == 4


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
@pytest.mark.parametrize("adapter", ["residual_linear", "layer"])
@pytest.mark.parametrize("spec", [{"rank": 8, "refine": 6}, {"tokens": [2, 3, 5, 9, 17, 30]}], ids=["rank", "tokens"])
def test_draft_heads(kind, adapter, spec):
    """The rough logits in int8, single rows of the head as they were; decoding as the reference."""
    model = deed_model(kind, DeedConfig(adapter=adapter, draft_head=spec), dtype=torch.float32)
    inputs = {**batch(), "decoder_input_ids": torch.tensor([[0, 5, 6, 7]] * 4)}
    before, weight = model.exit_logits(**inputs).detach(), model.get_output_embeddings().weight.detach().clone()
    quantize(model, parts=("head",), min_weights=0)
    head = model.deed_exits["draft_head"]
    assert type(model.get_output_embeddings()) is Int8Linear
    assert torch.equal(model.get_output_embeddings().original, weight)
    if "rank" in spec:
        assert type(head.up) is Int8Linear
    after = model.exit_logits(**inputs)
    assert not torch.equal(after, before)
    assert float((after - before).abs().median()) < 0.03 * float(before.abs().median())
    for threshold in (0.4, 0.7):
        compare(model, batch(), threshold)


def test_a_shortlist_that_is_large_is_read_in_int8(monkeypatch):
    from deed.exits import draft_head

    monkeypatch.setattr(draft_head, "INT8_FROM", 0)
    model = deed_model("bart", DeedConfig(draft_head={"tokens": 20}), dtype=torch.float32)
    monkeypatch.setattr(draft_head, "faster_than_float32", lambda *shape: KERNELS[0])
    inputs = {**batch(), "decoder_input_ids": torch.tensor([[0, 5, 6, 7]] * 4)}
    before = model.exit_logits(**inputs).detach()
    quantize(model, parts=("head",), min_weights=0)
    copies = model.deed_head_copies
    after = model.exit_logits(**inputs)
    assert any(type(kept[1]) is Int8Linear for kept in copies._kept.values())
    assert 0 < float((after - before).abs().max()) < 0.2 * float(before.abs().max())
