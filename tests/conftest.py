"""Tiny random models for mechanics. Two threads at most, so that tests in parallel do not fight."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import deed.families.base as families
from deed import DeedConfig, get_deed_model
from deed.kernels import native
from deed.kernels.native import attention, runs
from deed.models import small_g2p

torch.set_num_threads(1)

VOCAB = 40
KINDS = ("t5_tied", "t5_untied_gated", "bart")


def plain_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float64, enc: int = 2, dec: int = 5):
    """A tiny model with weights large enough that its exits disagree and its confidence varies."""
    torch.manual_seed(seed)
    if kind == "bart":
        config = BartConfig(
            vocab_size=VOCAB,
            d_model=32,
            encoder_layers=enc,
            decoder_layers=dec,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
        model = BartForConditionalGeneration(config)
        model.final_logits_bias.copy_(torch.randn(1, VOCAB) * 0.3)
    else:
        untied = kind == "t5_untied_gated"
        config = T5Config(
            vocab_size=VOCAB,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_heads=4,
            num_layers=enc,
            num_decoder_layers=dec,
            feed_forward_proj="gated-gelu" if untied else "relu",
            tie_word_embeddings=not untied,
            scale_decoder_outputs=not untied,
            decoder_start_token_id=0,
        )
        model = T5ForConditionalGeneration(config)
        if untied:  # 5.23 ties at construction whatever the configuration says
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                # Post-norm layers change their input less, so that neighbouring exits can agree.
                p.normal_(0, 1.0 if "relative" in name else 0.15 if kind == "bart" else 0.35)
                if "shared" in name or "lm_head" in name or "embed_tokens" in name:
                    p.mul_({"t5_tied": 4.0, "bart": 3.0}.get(kind, 1.0))
            elif "norm" in name and name.endswith("weight"):
                p.uniform_(0.5, 1.5)
            else:
                p.normal_(0, 0.1)
    model.generation_config.forced_eos_token_id = None
    return model.to(dtype).eval()


def deed_model(kind: str, config: DeedConfig | None = None, seed: int = 0, **options):
    """The same with early exit, its adapters random so that every exit says something of its own."""
    model = get_deed_model(plain_model(kind, seed, **options), config)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def batch(rows: int = 4, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Encoder inputs with ragged padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for r in range(1, rows):
        mask[r, length - (r * 2) % length :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["padded", "packed"])
def packing(request, monkeypatch):
    """Ragged blocks both ways: tiny models would never pack theirs."""
    monkeypatch.setattr("deed.engine.state.SPAN", 0.0 if request.param == "packed" else float("inf"))
    return request.param


@pytest.fixture
def tape(monkeypatch):
    """What CUDA graphs record with (`recording.py`)."""
    from deed.engine import cuda_graphs as graphs
    from recording import Tape

    made = Tape()
    monkeypatch.setattr(graphs, "record", made.record)
    return made


def tiny_t5():
    tokenizer = small_g2p.build_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_heads=4,
        num_layers=6,
        num_decoder_layers=6,  # both as t5-small; plain generate() fails with fewer encoder than decoder layers
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def hub(monkeypatch):
    """A tiny random T5 and the g2p tokenizer in place of whatever is asked of the Hub; folders load as they are."""
    torch.manual_seed(0)
    for auto, stand_in in ((AutoModelForSeq2SeqLM, tiny_t5), (AutoTokenizer, small_g2p.build_tokenizer)):
        load = auto.from_pretrained

        def from_pretrained(name, *args, load=load, stand_in=stand_in, **kwargs):
            return load(name, *args, **kwargs) if Path(name).is_dir() else stand_in()

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)


@pytest.fixture
def own_families(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


# What `-m quick` runs: folders and files of tests that need no trained model and no other process.
QUICK = ("policies/", "kernels/", "metrics/", "exits/", "engine/test_staircase", "modeling/test_loss", "test_config")
SLOW = ("on_avx2", "restricts_fbgemm")


@pytest.fixture(params=native.SETS)
def each_set(request, monkeypatch):
    """Every instruction set of this processor in turn, as far as the environment allows."""
    best = native.instruction_set()
    if best is None or native.SETS.index(request.param) > native.SETS.index(best):
        pytest.skip("not of this processor, or not allowed")
    if not native.load().deed_has(native.SETS.index(request.param)):
        pytest.skip("not of this processor")
    for module in (attention, runs):
        monkeypatch.setattr(module, "instruction_set", lambda: request.param)


def pytest_collection_modifyitems(items):
    root = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(root).as_posix() if item.path.is_relative_to(root) else ""
        if place.startswith(QUICK) and not any(name in item.name for name in SLOW):
            item.add_marker(pytest.mark.quick)
