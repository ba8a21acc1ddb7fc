"""Tiny random LaTr++ models and pages for them."""

import torch

from conftest import VOCAB
from deed import get_deed_model
from deed.models.latr import LatrConfig, LatrForConditionalGeneration

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}


def plain_latr(seed=0, dtype=torch.float64, enc=2, dec=5, vision=VISION, **config):
    """Weights large enough that exits disagree, that boxes and patches matter, and that confidence varies."""
    torch.manual_seed(seed)
    values = {
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_heads": 4,
        "num_layers": enc,
        "num_decoder_layers": dec,
        "decoder_start_token_id": 0,
        "vision_config": vision,
        "box_scale": 0.5,
    }
    model = LatrForConditionalGeneration(LatrConfig(**{**values, **config}))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "box_embeddings" not in name:
                p.normal_(0, 1.0 if "relative" in name else 0.35)
                if "shared" in name:
                    p.mul_(4.0)
    return model.to(dtype).eval()


def latr_model(config=None, seed=0, **options):
    """The same with early exit and random adapters."""
    model = get_deed_model(plain_latr(seed, **options), config)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def page_batch(rows=4, length=9, seed=0, images=True):
    """Questions with ragged padding, boxes, and pictures for all rows but the second."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for r in range(1, rows):
        mask[r, length - (r * 2) % length :] = 0
    corner = torch.randint(0, 900, (rows, length, 2), generator=generator)
    size = torch.randint(0, 100, (rows, length, 2), generator=generator)
    batch = {
        "input_ids": ids.masked_fill(mask == 0, 0),
        "attention_mask": mask,
        "bbox": torch.cat([corner, corner + size], -1),
    }
    if images:
        batch["pixel_values"] = torch.randn(rows, 3, 16, 16, generator=generator, dtype=torch.float64)
        batch["pixel_mask"] = torch.tensor([int(r != 1) for r in range(rows)])
    return batch
