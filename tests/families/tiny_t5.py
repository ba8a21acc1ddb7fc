"""Tiny models of T5's build for `tiny.TINY`.

Encoders are deeper than decoders: plain `generate()` makes T5's cache of as many layers as the encoder has.
"""

import torch
import transformers as hf

from tiny import EOS, LAYERS, PAD, VOCAB, WIDTH, add, text

NAMES = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": LAYERS + 1,
    "num_decoder_layers": LAYERS,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": PAD,
}


def of_t5(config, model, **options):
    """A class whose configuration has T5's names."""
    return lambda: model(config(**{**NAMES, **options}))


def untied():
    """MADLAD-400's configuration of T5: v1.1, a gated GELU, a head of its own that is not scaled."""
    made = of_t5(
        hf.T5Config, hf.T5ForConditionalGeneration, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )()
    made.lm_head.weight = torch.nn.Parameter(torch.empty_like(made.lm_head.weight))  # 5.23 ties it at construction
    return made


add("T5ForConditionalGeneration", of_t5(hf.T5Config, hf.T5ForConditionalGeneration))
add("T5ForConditionalGeneration-MADLAD", untied)
add("MT5ForConditionalGeneration", of_t5(hf.MT5Config, hf.MT5ForConditionalGeneration))
add("UMT5ForConditionalGeneration", of_t5(hf.UMT5Config, hf.UMT5ForConditionalGeneration))


def long_text(rows):
    """Longer than LongT5's windows."""
    return text(rows, 17)


for kind in ("local", "transient-global"):
    options = {"local_radius": 2, "global_block_size": 4, "encoder_attention_type": kind}
    make = of_t5(hf.LongT5Config, hf.LongT5ForConditionalGeneration, **options)
    add(f"LongT5ForConditionalGeneration-{kind}", make, long_text)


def page(rows):
    """Words in boxes on a page of four patches; those in which no word lies are appended to the source."""
    found, generator = text(rows), torch.Generator().manual_seed(rows)
    corner = torch.rand(*found["input_ids"].shape, 2, generator=generator) * 0.9
    corner[1::2] *= 0.5
    boxes = torch.cat([corner, corner + 0.05], -1) * found["attention_mask"][..., None]
    pixels = torch.rand(rows, 3, 8, 8, generator=generator, dtype=torch.float64)
    return {**found, "bbox": boxes, "pixel_values": pixels}


udop = {"image_size": 8, "patch_size": 4, "max_2d_position_embeddings": 64}
add("UdopForConditionalGeneration", of_t5(hf.UdopConfig, hf.UdopForConditionalGeneration, **udop), page)


def pix2struct():
    shape = {"hidden_size": WIDTH, "d_kv": 8, "d_ff": 48}
    tokens = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
    vision = {"patch_embed_hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "seq_len": 16}
    config = hf.Pix2StructConfig(
        text_config={**shape, **tokens, "vocab_size": VOCAB, "num_heads": 4, "num_layers": LAYERS},
        vision_config={**shape, **vision},
    )
    return hf.Pix2StructForConditionalGeneration(config)


def patches(rows, length=6):
    """Row, column and pixels of patches, fewer from row to row."""
    mask = ragged(rows, length)
    found = torch.rand(rows, length, 14, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    found[..., :2] = torch.arange(1, length + 1)[:, None]
    return {"flattened_patches": found * mask[..., None], "attention_mask": mask.double()}


def ragged(rows, length, step=2):
    """`[rows, length]`, 1 keeps; each row `step` fewer than the one before."""
    return (torch.arange(length) < length - torch.arange(rows)[:, None] * step % length).long()


add("Pix2StructForConditionalGeneration", pix2struct, patches)


def pop2piano():
    made = of_t5(hf.Pop2PianoConfig, hf.Pop2PianoForConditionalGeneration, composer_vocab_size=2)()
    made.generation_config.composer_to_feature_token = {"composer1": 5, "composer2": 6}
    made.generation_config._from_model_config = False  # or it is not read again from a saved folder
    return made


def spectrum(rows, length=7, width=WIDTH):
    """Frames of a spectrogram, fewer from row to row."""
    mask = ragged(rows, length)
    frames = torch.rand(rows, length, width, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    return {"input_features": frames * mask[..., None], "attention_mask": mask}


# Its generate() writes what it is given into the model's own generation_config: say what earlier calls said otherwise.
add("Pop2PianoForConditionalGeneration", pop2piano, spectrum, num_beams=1, do_sample=False)
