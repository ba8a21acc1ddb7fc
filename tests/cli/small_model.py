"""A tiny random LaTr++ in a folder, and a small page for it."""

import torch

from deed import DeedConfig, get_deed_model
from deed.data.synthetic import pages
from deed.models.latr import small as small_latr


def save_small_model(folder, max_length=512, threshold=0.9):
    """Two decoder layers; answers end after a dozen tokens, whatever they are."""
    torch.manual_seed(0)
    tokenizer = small_latr.build_tokenizer([*pages.vocabulary_words(), "question", "context"], pages.KEYS)
    processor = small_latr.build_processor(tokenizer, max_length)
    model = small_latr.build_model(
        tokenizer, encoder_layers=1, decoder_layers=2, d_model=32, d_ff=32, vision_layers=1, patch=16
    )
    get_deed_model(model, DeedConfig(threshold=threshold))
    model.generation_config.max_length = 13
    special = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}
    model.generation_config.suppress_tokens = sorted(special)  # so that answers have text to show
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def draw_page(lines=("INVOICE 4711", "Date: 2024-05-17", "Grand total: 82.50")):
    """Black on white, large enough for OCR to be quick and sure."""
    from PIL import Image, ImageDraw, ImageFont

    from deed.data.synthetic.pages.fonts import font_path

    image = Image.new("RGB", (460, 60 + 60 * len(lines)), "white")
    font = ImageFont.truetype(str(font_path("dejavu")), 32)
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((30, 30 + 60 * i), line, "black", font)
    return image
