"""Tiny random OFA models and prompts for them."""

import torch

from conftest import VOCAB
from deed import get_deed_model
from deed.models.ofa import OFAConfig, OFAForConditionalGeneration

SMALL = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "max_position_embeddings": 64,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "token_bucket_size": 8,
    "image_bucket_size": 6,
    "code_image_size": 32,
    "orig_patch_image_size": 32,
    "stem_widths": [8, 8, 12, 16],
    "stem_depths": [1, 2, 1],
}


def plain_ofa(seed=0, dtype=torch.float64, enc=2, dec=5, **config):
    """Weights large enough that exits disagree, and that positions, pictures and factors of heads matter."""
    torch.manual_seed(seed)
    model = OFAForConditionalGeneration(OFAConfig(**{**SMALL, "encoder_layers": enc, "decoder_layers": dec, **config}))
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if not p.is_floating_point():
                continue
            if name.endswith(("running_var", "c_attn", "w_resid")) or ("norm" in name and name.endswith("weight")):
                p.uniform_(0.5, 1.5)
            elif "bn" in name or "_ln" in name or p.ndim == 1:
                p.normal_(1.0 if name.endswith("ln.weight") else 0.0, 0.2)
            elif "rel_pos" in name:
                p.normal_(0, 1.0)
            elif "embed_tokens" in name:
                p.normal_(0, 0.5)  # the head too: larger, and every exit would be sure
            elif p.ndim == 4:
                p.normal_(0, p[0].numel() ** -0.5 * 1.4)
            else:
                p.normal_(0, 0.35)
    return model.to(dtype).eval()


def ofa_model(config=None, seed=0, **options):
    """The same with early exit and random adapters."""
    model = get_deed_model(plain_ofa(seed, **options), config)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def ofa_batch(rows=4, length=9, seed=0, images=True, size=(48, 40), dtype=torch.float64):
    """Prompts with ragged padding, and pictures for all rows but the second, whose pixels are not numbers."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for r in range(1, rows):
        mask[r, length - (r * 2) % length :] = 0
    batch = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
    if images:
        pixels = torch.randn(rows, 3, *size, generator=generator, dtype=dtype)
        seen = torch.tensor([r != 1 for r in range(rows)])
        batch["patch_images"] = pixels.masked_fill(~seen[:, None, None, None], torch.nan)
        batch["patch_masks"] = seen
    return batch
