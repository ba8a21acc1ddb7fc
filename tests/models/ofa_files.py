"""OFA's files in their on-disk forms, small: BPE folders, and fairseq checkpoints with every part that real ones have."""

import argparse
import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from deed.models.ofa import OFAConfig, OFAForConditionalGeneration
from deed.models.ofa.names import to_original
from deed.models.ofa.tokenization_ofa import train_tokenizer

TEXTS = [
    " what does the image describe?",
    ' which region does the text " a red apple left of the dog " describe?',
    ' does the image describe " two people are outside "?',
    ' can image and text1 " a dog runs " imply text2 " it is outside "?',
    " what colour is the apple? yes no maybe red green two object: dog ball",
]


def small_tokenizer(n_bins=20, n_codes=0):
    return train_tokenizer(TEXTS * 3, 4 + 400 + 1 + n_codes + n_bins, n_bins, n_codes)


def write_bpe(folder, n_entries=400, seed=0):
    """`encoder.json`, `vocab.bpe` and `dict.txt` as in `utils/BPE`, the last filled up to `n_entries` as fairseq does.
    Returns text to ids in the original's two steps."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "encoder.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "vocab.bpe").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(model["vocab"]), generator=generator).tolist()
    entries = [*map(str, order), *(f"madeupword{i:04}" for i in range(n_entries - len(order)))]
    (folder / "dict.txt").write_text("".join(f"{entry} {1000 - i}\n" for i, entry in enumerate(entries)))
    dictionary = {entry: 4 + i for i, entry in enumerate(entries)}
    return lambda text: [dictionary[str(i)] for i in tokenizer.encode(text).ids]


def small_config(**changes):
    """Small in all but the picture stem, whose widths are the original's."""
    sizes = {
        "d_model": 16,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "max_position_embeddings": 64,
        "token_bucket_size": 8,
        "image_bucket_size": 6,
        "code_image_size": 32,
        "resnet_type": "resnet18",
        "vocab_size": 425,
    }
    return OFAConfig(**{**sizes, **changes})


def arguments(config, **changes):
    """What `train.py` leaves in a checkpoint about a model."""
    values = {
        "_name": "ofa_tiny",
        "arch": "ofa_tiny",
        "task": "caption",
        "encoder_embed_dim": config.d_model,
        "decoder_embed_dim": config.d_model,
        "encoder_ffn_embed_dim": config.encoder_ffn_dim,
        "decoder_ffn_embed_dim": config.decoder_ffn_dim,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.encoder_attention_heads,
        "decoder_attention_heads": config.decoder_attention_heads,
        "max_source_positions": config.max_position_embeddings,
        "max_target_positions": config.max_position_embeddings,
        "token_bucket_size": config.token_bucket_size,
        "image_bucket_size": config.image_bucket_size,
        "code_image_size": config.code_image_size,
        "resnet_type": config.resnet_type,
        "resnet_model_path": None,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
        "layernorm_embedding": True,
        "patch_layernorm_embedding": True,
        "code_layernorm_embedding": True,
        "add_type_embedding": True,
        "scale_attn": config.scale_attn,
        "scale_fc": config.scale_fc,
        "scale_heads": config.scale_heads,
        "scale_resids": config.scale_resids,
        "disable_entangle": True,
        "entangle_position_embedding": False,
        "no_scale_embedding": True,
        "attn_scale_factor": 2,
        "activation_fn": "gelu",
        "dropout": 0.1,
        "encoder_drop_path_rate": 0.2,
        "sync_bn": False,
        "freeze_resnet": False,
        "patch_image_size": 96,
        "max_image_size": 512,
        "num_bins": 20,
        "code_dict_size": 0,
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not ...}


def original_state(config, seed=0, dtype=torch.float16):
    """Random weights under the original's names with all its buffers, linear weights as views of one pool."""
    with torch.device("meta"):
        model = OFAForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(40_000, generator=generator).to(dtype)
    state = {}
    for i, (name, tensor) in enumerate(model.state_dict().items()):
        if not tensor.is_floating_point():
            state[name] = torch.tensor(i)
        elif tensor.ndim == 2 and tensor.numel() < 20_000:
            state[name] = pool[i * 7 : i * 7 + tensor.numel()].view(tensor.shape)
        else:  # of large ones only which is which matters
            state[name] = torch.full(tensor.shape, float(i % 997), dtype=dtype)
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state[name] = state["encoder.embed_tokens.weight"]
    return to_original(state, config)


def write_checkpoint(path, config, state, form="cfg", ema=None, **changes):
    """A file as fairseq saves it: `form` "cfg" (a Namespace inside), "dict" (nested dicts), or "args" (older)."""
    values = arguments(config, **changes)
    model = argparse.Namespace(**values)
    outer = {
        "args": model if form == "args" else None,
        "cfg": None if form == "args" else {"_name": None, "common": {"fp16": True}, "model": model, "task": {}},
        "model": state,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "AdjustLabelSmoothedCrossEntropyCriterion", "num_updates": 7}],
        "task_state": {},
        "extra_state": {"epoch": 1, **({} if ema is None else {"ema": ema})},
        "last_optimizer_state": {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}},
    }
    if form == "dict":
        names = ("patch_image_size", "max_image_size", "num_bins", "code_dict_size")
        outer["cfg"]["task"] = {name: values.pop(name) for name in names}
        outer["cfg"]["model"] = values
    torch.save(outer, path)
    return path
