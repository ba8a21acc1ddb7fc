"""Draws a page: tinted paper, ruled lines, text, then what a scanner adds: a little skew, blur and noise."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .draft import Page
from .fonts import load_font

SKEW = 1.2  # degrees at most, either way


def render(page: Page, rng: random.Random) -> Image.Image:
    """The page as an RGB picture of its own size.

    Args:
        rng: of the paper and the scan; the page itself is fixed.
    """
    white = rng.randint(240, 255)
    paper = (white, white - rng.randint(0, 4), white - rng.randint(0, 12))
    image = Image.new("RGB", (page.width, page.height), paper)
    draw = ImageDraw.Draw(image)
    for rule in page.rules:
        corners = (rule.x0, rule.y0, rule.x1, rule.y1)
        if rule.x0 == rule.x1 or rule.y0 == rule.y1:
            draw.line(corners, fill=(rule.gray,) * 3, width=1)
        else:
            fill = None if rule.fill is None else (rule.fill,) * 3
            draw.rectangle(corners, outline=(rule.gray,) * 3, fill=fill, width=1)
    for text in page.texts:
        font = load_font(text.font, text.size)
        draw.text((text.x, text.y), text.text, fill=(text.gray,) * 3, font=font, anchor="ls")
    skew = max(-SKEW, min(SKEW, rng.gauss(0, 0.5)))
    image = image.rotate(skew, Image.Resampling.BICUBIC, fillcolor=paper)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 5), (page.height, page.width, 1))
    noisy = np.asarray(image, np.float32) + grain.astype(np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
