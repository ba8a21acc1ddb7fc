"""Tiny random models of T5's build, for the tests of families: float64, evaluation mode, seeded, ragged inputs."""

import torch
from transformers import (
    LongT5Config,
    LongT5ForConditionalGeneration,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pop2PianoConfig,
    Pop2PianoForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UdopConfig,
    UdopForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

VOCAB, ROWS, WIDTH = 40, 3, 32
SHAPE = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 6,  # as many as decoder layers at least: plain generate() builds its cache by their number
    "num_decoder_layers": 5,
    "decoder_start_token_id": 0,
}


def shaken(model, head=1.0):
    """Weights so large that exits disagree and confidence varies, norms and biases that are not 1 and 0; float64, evaluation.

    Args:
        head: factor on token embeddings and head.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 1.0 if "relative" in name else 2.0 / p[0].numel() ** 0.5)
                if any(part in name for part in ("shared", "lm_head", "embed_tokens", "proj_out")):
                    p.mul_(head)
            elif "norm" in name and name.endswith("weight"):
                # RMS norms of Gemma multiply by 1 + weight
                p.uniform_(0.5, 1.5).sub_(1.0 if "RMSNorm" in type(_parent(model, name)).__name__ else 0.0)
            else:
                p.normal_(0, 0.1)
    model.generation_config.forced_eos_token_id = None
    return model.to(torch.float64).eval()


def _parent(model, name):
    return model.get_submodule(name.rpartition(".")[0])


def keep(length, *kept):
    """`[rows, length]`, 1 for the first `kept` of each row."""
    return (torch.arange(length) < torch.tensor(kept)[:, None]).long()


def text(length=9, kept=(9, 5, 7), pad=0):
    """Token ids, padded at the end."""
    mask = keep(length, *kept)
    ids = torch.randint(3, VOCAB, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def madlad(seed=0):
    """MADLAD-400's configuration of T5: v1.1, a gated GELU, a head of its own that is not scaled."""
    torch.manual_seed(seed)
    config = T5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))  # 5.23 ties it at construction
    return shaken(model), text()


def umt5(seed=0):
    torch.manual_seed(seed)
    return shaken(UMT5ForConditionalGeneration(UMT5Config(**SHAPE)), 5.0), text()


def longt5(attention="local", seed=0):
    """Sources longer than its windows (`local_radius` 2 to each side, global blocks of 4)."""
    torch.manual_seed(seed)
    config = LongT5Config(**SHAPE, local_radius=2, global_block_size=4, encoder_attention_type=attention)
    return shaken(LongT5ForConditionalGeneration(config), 5.0), text(17, (17, 9, 12))


def longt5_transient_global(seed=0):
    return longt5("transient-global", seed)


def udop(seed=0):
    """Text with boxes and a picture of four patches: patches in which no word lies are appended to the source."""
    torch.manual_seed(seed)
    config = UdopConfig(**SHAPE, image_size=8, patch_size=4, max_2d_position_embeddings=64)
    inputs, generator = text(), torch.Generator().manual_seed(1)
    corner = torch.rand(*inputs["input_ids"].shape, 2, generator=generator) * 0.4
    corner[1] = corner[1] * 0.5  # the words of the second row lie in one patch
    inputs["bbox"] = torch.cat([corner, corner + 0.05], -1) * inputs["attention_mask"][..., None]
    inputs["pixel_values"] = torch.rand(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
    return shaken(UdopForConditionalGeneration(config), 5.0), inputs


def pix2struct(seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": WIDTH, "d_kv": 8, "d_ff": 48}
    config = Pix2StructConfig(
        text_config={**shape, "vocab_size": VOCAB, "num_heads": 4, "num_layers": 5},
        vision_config={
            **shape,
            "patch_embed_hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "seq_len": 16,
        },
    )
    mask = keep(6, 6, 3, 5)
    patches = torch.rand(ROWS, 6, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    patches[..., :2] = torch.arange(1, 7)[:, None]  # row and column of each patch
    model = shaken(Pix2StructForConditionalGeneration(config))
    return model, {"flattened_patches": patches * mask[..., None], "attention_mask": mask.float()}


def pop2piano(seed=0):
    torch.manual_seed(seed)
    config = Pop2PianoConfig(**SHAPE, composer_vocab_size=2, feed_forward_proj="gated-gelu")
    model = shaken(Pop2PianoForConditionalGeneration(config), 5.0)
    model.generation_config.composer_to_feature_token = {"composer1": 5, "composer2": 6}
    features = torch.rand(ROWS, 7, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, {"input_features": features, "attention_mask": keep(7, 7, 4, 6)}


BUILDERS = {
    "T5ForConditionalGeneration": madlad,
    "UMT5ForConditionalGeneration": umt5,
    "LongT5ForConditionalGeneration": longt5,
    "LongT5ForConditionalGeneration (transient-global)": longt5_transient_global,
    "UdopForConditionalGeneration": udop,
    "Pix2StructForConditionalGeneration": pix2struct,
    "Pop2PianoForConditionalGeneration": pop2piano,
}
