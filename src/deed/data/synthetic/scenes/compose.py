"""A scene: a few colored pictograms of two sizes at random places, with the exact box of each one's ink."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from deed.errors import DataError

from . import pictograms
from .pictograms import COLORS, HELD_OUT, KNOWN, NAMES

Box = tuple[int, int, int, int]

# The longer side as a share of the picture's; nothing lies between, so that a size is never in doubt.
SIZES = {"small": (0.17, 0.215), "large": (0.30, 0.37)}
# Centers of any two things differ at least so much (share of the picture's side) in x and in y: what is left of or
# above what is then never in doubt either.
CLEAR = 0.045
_GAP = 2  # px, between boxes and to the picture's edge
_TINTS = (
    *((255, 255, 255), (246, 246, 244), (232, 236, 240), (252, 246, 232), (234, 244, 252), (236, 248, 236)),
    *((252, 236, 238), (242, 236, 250)),
)
_ANGLE_STEP = 4  # degrees: masks are cached per angle
# What a further thing has in common with one already there: this makes distractors and pairs common.
_KIN = {"name": 0.34, "twin": 0.18, "color": 0.18, "nothing": 0.30}


class Thing(NamedTuple):
    """One pictogram in a scene.

    Attributes:
        name, color, size: words; sizes are `"small"` and `"large"`.
        box: `x0, y0, x1, y1`, px, of the ink; x1 and y1 are one past the last pixel.
        pixels, angle, rgb: how it is drawn: longer side, degrees, tint.
    """

    name: str
    color: str
    size: str
    box: Box
    pixels: int
    angle: int
    rgb: tuple[int, int, int]

    @property
    def center(self) -> tuple[float, float]:
        """x and y, px."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def combination(self) -> tuple[str, str]:
        """Name and color."""
        return self.name, self.color


class Background(NamedTuple):
    """Light paper: one tint, or a gradient from one to another in a direction (degrees), and noise (grey levels)."""

    start: tuple[int, int, int]
    end: tuple[int, int, int]
    direction: int
    noise: int
    seed: int


@dataclass(frozen=True)
class Scene:
    """A picture as it is drawn: all that is true of it, and nothing that is not in it.

    Attributes:
        side: px, of the square picture.
        things: in no particular order; no two boxes touch.
        background: what they lie on.
    """

    side: int
    things: tuple[Thing, ...]
    background: Background = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB, drawn when first asked for; always the same."""
        return draw(self)

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("side", "things", "background")}  # without the picture

    @property
    def held_out(self) -> tuple[Thing, ...]:
        """The things whose combination of name and color is never in a training scene."""
        return tuple(thing for thing in self.things if thing.combination in HELD_OUT)


def scene(
    seed: int | str,
    n_things: tuple[int, int] = (2, 5),
    side: int = 128,
    combinations: Literal["known", "unseen"] = "known",
    rotation: int = 8,
    noise: int = 7,
) -> Scene:
    """A random scene; the same arguments give the same one, in every process.

    Args:
        n_things: fewest and most.
        side: px.
        combinations: `"known"`: only such as training has; `"unseen"`: one thing at least is of the held-out
            combinations, others may be.
        rotation: most degrees to either side, in steps of 4; 0: all upright.
        noise: largest standard deviation of pixel noise, grey levels; 0: none.

    Raises:
        DataError: a number of things outside 2 to 5, a side under 96 px, or other values out of range.
    """
    low, high = n_things
    if not 2 <= low <= high <= 5:
        raise DataError(f"n_things must be two numbers from 2 to 5, the smaller first, got {n_things}")
    if side < 96:
        raise DataError(f"side must be at least 96 px, got {side}: small pictograms could not be told apart")
    if combinations not in ("known", "unseen"):
        raise DataError(f"combinations must be 'known' or 'unseen', got {combinations!r}")
    if not (0 <= rotation <= 20 and 0 <= noise <= 20):
        raise DataError(f"rotation and noise must be 0 to 20, got {rotation} and {noise}")
    rng = random.Random(f"scene/{seed}/{combinations}")
    pairs = _pairs(rng, rng.randint(low, high), combinations == "unseen")
    sizes = [rng.choice(("small", "large")) for _ in pairs]
    steps = rotation // _ANGLE_STEP
    angles = [_ANGLE_STEP * rng.randint(-steps, steps) for _ in pairs]
    pixels = [_pixels(rng, size, side) for size in sizes]
    while (boxes := _place(rng, pairs, pixels, angles, side)) is None:
        large = [i for i, size in enumerate(sizes) if size == "large"]
        if large:  # too full
            at = rng.choice(large)
            sizes[at], pixels[at] = "small", _pixels(rng, "small", side)
    things = tuple(
        Thing(name, color, sizes[i], boxes[i], pixels[i], angles[i], _jitter(rng, COLORS[color], 8))
        for i, (name, color) in enumerate(pairs)
    )
    return Scene(side, things, _background(rng, noise))


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB."""
    drawn = _paper(scene.background, scene.side)
    for thing in scene.things:
        drawn.paste(thing.rgb, thing.box, pictograms.mask(thing.name, thing.pixels, thing.angle))
    if scene.background.noise:
        random_values = np.random.default_rng(scene.background.seed)
        shape = (scene.side, scene.side, 3)
        # The sum of two uniform draws: near enough to normal, and several times faster.
        wide = round(1.23 * scene.background.noise)
        values = random_values.integers(-wide, wide + 1, (2, *shape), dtype=np.int8)
        noisy = np.asarray(drawn, dtype=np.int16) + values[0] + values[1]
        drawn = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return drawn


def _pairs(rng: random.Random, count: int, unseen: bool) -> list[tuple[str, str]]:
    """Names and colors, two different combinations at least; each further thing often has kin among those before."""
    pool = sorted(HELD_OUT) if unseen else KNOWN
    chosen = [rng.choice(pool)]
    while len(chosen) < count or len(set(chosen)) == 1:
        if len(chosen) == count:
            chosen.pop()
        name, color = rng.choice(chosen)
        kin = rng.choices(list(_KIN), list(_KIN.values()))[0]
        if kin == "twin":
            chosen.append((name, color))
            continue
        if kin == "nothing":
            chosen.append(rng.choice(sorted(HELD_OUT) if unseen and rng.random() < 0.3 else KNOWN))
            continue
        pair = (name if kin == "name" else rng.choice(NAMES), color if kin == "color" else rng.choice([*COLORS]))
        if unseen or pair not in HELD_OUT:
            chosen.append(pair)
    rng.shuffle(chosen)
    return chosen


def _pixels(rng: random.Random, size: str, side: int) -> int:
    low, high = SIZES[size]
    return rng.randint(round(low * side), round(high * side))


def _place(
    rng: random.Random, pairs: list[tuple[str, str]], pixels: list[int], angles: list[int], side: int
) -> list[Box] | None:
    """Boxes that keep clear of one another, or None where none were found."""
    masks = [
        pictograms.mask(name, high, angle).size for (name, _), high, angle in zip(pairs, pixels, angles, strict=True)
    ]
    order = sorted(
        range(len(pairs)), key=lambda i: -masks[i][0] * masks[i][1]
    )  # the largest first: it fits more often
    clear = 2 * CLEAR * side
    for _ in range(4):
        boxes: dict[int, Box] = {}
        for i in order:
            wide, high = masks[i]
            for _ in range(40):
                x0 = _GAP + int(rng.random() * (side - wide - 2 * _GAP + 1))
                y0 = _GAP + int(rng.random() * (side - high - 2 * _GAP + 1))
                x1, y1 = x0 + wide, y0 + high
                for a0, b0, a1, b1 in boxes.values():
                    if abs(x0 + x1 - a0 - a1) < clear or abs(y0 + y1 - b0 - b1) < clear:
                        break
                    if x0 < a1 + _GAP and a0 < x1 + _GAP and y0 < b1 + _GAP and b0 < y1 + _GAP:
                        break
                else:
                    boxes[i] = (x0, y0, x1, y1)
                    break
            else:
                break
        else:
            return [boxes[i] for i in range(len(pairs))]
    return None


def _jitter(rng: random.Random, rgb: tuple[int, int, int], most: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-most, most))) for value in rgb)
    return red, green, blue


def _background(rng: random.Random, noise: int) -> Background:
    """Plain, gradient and noisy paper, a third each; gradients may be noisy too."""
    form = rng.choice(("plain", "gradient", "noisy"))
    start = rng.choice(_TINTS)
    end = rng.choice(_TINTS) if form == "gradient" or (form == "noisy" and rng.random() < 0.3) else start
    level = rng.randint(min(2, noise), noise) if form == "noisy" and noise else 0
    return Background(start, end, rng.choice((0, 90, 45, 135)), level, rng.getrandbits(48))


def _paper(background: Background, side: int) -> Image.Image:
    if background.start == background.end:
        return Image.new("RGB", (side, side), background.start)
    ramp = np.linspace(0, 1, side)
    across, down = ramp[None, :], ramp[:, None]
    share = {0: across + 0 * down, 90: down + 0 * across, 45: (across + down) / 2, 135: (1 - across + down) / 2}
    start, end = (np.array(tint, dtype=np.float64) for tint in (background.start, background.end))
    return Image.fromarray((start + share[background.direction][..., None] * (end - start)).round().astype(np.uint8))
