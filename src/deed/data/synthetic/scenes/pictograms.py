"""The pictograms of scenes: everyday things as glyphs of Material Design Icons, and the colors they are tinted with.

The font and its table of names come with the PyPI package `fonticon-materialdesignicons7` (font and icons Apache 2.0,
code MIT); nothing is downloaded when scenes are made.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from deed.errors import DataError

_MASTER = 192  # px, at which a glyph is drawn once; every smaller mask is scaled down from it
_FAINT = 48  # of 255: fainter edge pixels are dropped, so that what bounds a box can be seen


class Kind(NamedTuple):
    """A thing that can stand in a scene: its glyph in the font's table, and more than one of it."""

    glyph: str
    plural: str


def _kinds(text: str) -> dict[str, Kind]:
    """From lines `name`, `name = glyph` or `name / plural = glyph`."""
    kinds = {}
    for line in text.strip().splitlines():
        names, _, glyph = (part.strip() for part in line.partition("="))
        name, _, plural = (part.strip() for part in names.partition("/"))
        kinds[name] = Kind(glyph or name, plural or f"{name}s")
    return kinds


# Chosen to be told apart at 22 px. No name is also a kind of another ("tulip" and "flower"), so each fits one glyph only.
KINDS = _kinds("""
    anchor
    apple = food_apple
    balloon = airballoon
    bell
    bicycle
    bird
    boat = sail_boat
    book
    burger = hamburger
    bus / buses
    butterfly / butterflies
    cactus / cacti
    cake
    camera
    car
    castle
    cat
    clock
    cloud
    cow
    crown
    cup = coffee
    dog
    duck
    elephant
    fish / fish
    flower
    ghost
    gift
    guitar = guitar_acoustic
    hammer
    heart
    horse
    house = home
    ice cream = ice_cream
    key
    lamp
    leaf / leaves
    lock
    moon = moon_waning_crescent
    mushroom
    owl
    penguin
    pineapple = fruit_pineapple
    pizza
    plane = airplane
    rabbit
    robot
    rocket
    sheep / sheep
    shirt = tshirt_crew
    shoe = shoe_sneaker
    snail
    spider
    star
    sun = white_balance_sunny
    teddy bear = teddy_bear
    tree
    truck
    umbrella
""")
NAMES = tuple(KINDS)

COLORS = {
    "red": (214, 32, 38),
    "orange": (247, 132, 20),
    "yellow": (232, 194, 0),
    "green": (34, 148, 62),
    "blue": (36, 92, 222),
    "purple": (126, 44, 168),
    "pink": (246, 112, 178),
    "black": (28, 28, 30),
}

# Every tenth combination of a name and a color, each color with as many names: never in a training scene.
HELD_OUT = frozenset(
    (name, color) for i, name in enumerate(NAMES) for j, color in enumerate(COLORS) if (i + 3 * j) % 10 == 0
)
KNOWN = tuple((name, color) for name in NAMES for color in COLORS if (name, color) not in HELD_OUT)


@cache
def mask(name: str, pixels: int, angle: int = 0) -> Image.Image:
    """A thing's ink as coverage 0..255 (mode L), cropped to it: the first and last row and column each have some.

    Args:
        pixels: the longer side, before faint edges are dropped (at most one pixel at each side).
        angle: degrees, counter-clockwise.

    Raises:
        DataError: an unknown name, or the font's package is not installed.
    """
    drawn = _master(name)
    if angle:
        drawn = drawn.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        drawn = drawn.crop(drawn.getbbox())
    scale = pixels / max(drawn.size)
    wide, high = (max(1, round(side * scale)) for side in drawn.size)
    small = drawn.resize((wide, high), Image.Resampling.BOX).point([0] * _FAINT + [*range(_FAINT, 256)])
    return small.crop(small.getbbox())


@cache
def _master(name: str) -> Image.Image:
    if name not in KINDS:
        raise DataError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    font, table = _font()
    char = getattr(table, KINDS[name].glyph)[-1]
    drawn = Image.new("L", (2 * _MASTER, 2 * _MASTER))
    ImageDraw.Draw(drawn).text((_MASTER, _MASTER), char, fill=255, font=font, anchor="mm")
    return drawn.crop(drawn.getbbox())


@cache
def _font() -> tuple[ImageFont.FreeTypeFont, type]:
    try:
        from fonticon_mdi7 import MDI7
    except ImportError:
        raise DataError(
            "scenes are drawn with fonticon-materialdesignicons7, which is not installed: "
            "pip install fonticon-materialdesignicons7"
        ) from None
    path: str = MDI7.__font_file__
    return ImageFont.truetype(path, _MASTER, layout_engine=ImageFont.Layout.BASIC), MDI7
