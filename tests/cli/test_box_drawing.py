"""Boxes on pictures, pixel by pixel: where lines and labels are, that they can be read, and what is written to disk."""

import itertools

import pytest
from PIL import Image, ImageChops, ImageColor, ImageDraw

from deed.cli import box_drawing
from deed.cli.box_drawing import COLORS, Rect, best_place, broken, draw_boxes, load_font, save_picture, to_pixels

GRAY = (200, 200, 200)
RGB = [ImageColor.getrgb(color) for color in COLORS]


def blank(width=128, height=128):
    return Image.new("RGB", (width, height), GRAY)


def extent(picture, color):
    """The pixels of exactly one color: `x0, y0, x1, y1`."""
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, color))
    bands = [band.point(lambda value: 255 if value == 0 else 0) for band in difference.split()]
    return ImageChops.multiply(ImageChops.multiply(bands[0], bands[1]), bands[2]).getbbox()


def labels_drawn(monkeypatch, image, boxes, labels):
    """Where each label goes in a drawing."""
    places = []

    def place(*arguments):
        places.append(best_place(*arguments))
        return places[-1]

    monkeypatch.setattr(box_drawing, "best_place", place)
    picture = draw_boxes(image, boxes, labels)
    return picture, places


def test_a_small_picture_is_enlarged_and_its_box_with_it():
    image = blank()
    picture = draw_boxes(image, [(32, 48, 96, 112)], ["x"])
    assert picture.size == (512, 512) and image.size == (128, 128) and extent(image, GRAY) == (0, 0, 128, 128)
    # 3 px of line around 128..384 x 192..448, a white one on both sides, and nothing inside.
    white = (255, 255, 255)
    for line, start, end in (
        ([picture.getpixel((x, 300)) for x in range(512)], 128, 384),
        ([picture.getpixel((400, y)) for y in range(512)], 0, 0),
        ([picture.getpixel((300, y)) for y in range(512)], 192, 448),
    ):
        wanted = [GRAY] * 512
        if end:
            wanted[start - 4 : start + 1] = [white, *[RGB[0]] * 3, white]
            wanted[end - 1 : end + 4] = [white, *[RGB[0]] * 3, white]
        assert line == wanted


def test_a_large_picture_stays_as_large_and_its_lines_grow():
    picture = draw_boxes(blank(1700, 900), [(400, 300, 800, 600)], ["x"])
    assert picture.size == (1700, 900)
    row = [picture.getpixel((x, 450)) for x in range(1700)]
    assert [x for x, color in enumerate(row) if color == RGB[0]] == [*range(390, 400), *range(800, 810)]


@pytest.mark.parametrize("size", [(128, 64), (300, 500), (1, 1), (7, 900)])
def test_proportions_are_kept(size):
    picture = draw_boxes(blank(*size), [(0, 0, *size)], ["the whole picture"])
    assert max(picture.size) == max(512, *size)
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)


def test_other_modes_of_pictures_and_what_was_given_stays():
    image = Image.new("L", (600, 600), 90)
    before = image.tobytes()
    assert draw_boxes(image, [(10, 10, 300, 300)], ["x"]).mode == "RGB" and image.tobytes() == before


def test_boxes_out_of_order_outside_or_without_area():
    assert to_pixels((96, 112, 32, 48), (128, 128), (512, 512)) == (128, 192, 384, 448)
    assert to_pixels((-9, 100, 40, 400), (128, 128), (512, 512)) == (0, 400, 160, 512)
    assert to_pixels((128, 128, 128, 128), (128, 128), (512, 512)) == (511, 511, 512, 512)
    for box in ((-50, -50, -10, -10), (500, 500, 900, 900), (64, 64, 64, 64)):
        assert extent(draw_boxes(blank(), [box], ["x"]), RGB[0]), box


def test_a_box_along_the_edge_keeps_all_its_lines():
    picture = draw_boxes(blank(), [(0, 0, 128, 128)], [""])
    for at in (1, 510):
        assert picture.getpixel((at, 256)) == picture.getpixel((256, at)) == RGB[0]
    assert picture.getpixel((20, 20)) == GRAY, "no label for an empty one"


def test_two_texts_with_the_same_box_show_both_colors(monkeypatch):
    picture, _ = labels_drawn(monkeypatch, blank(), [(40, 60, 80, 90)] * 2, ["", ""])
    row = [picture.getpixel((x, 300)) for x in range(512)]
    assert row.count(RGB[0]) == row.count(RGB[1]) == 6


def test_each_label_has_its_color_and_letters_and_lies_above_its_box(monkeypatch):
    boxes = [(10, 40, 50, 70), (70, 40, 110, 70)]
    picture, places = labels_drawn(monkeypatch, blank(), boxes, ["the apple", "the dog"])
    for place, box, color in zip(places, boxes, RGB, strict=False):
        part = picture.crop(place)
        assert place.y1 == 4 * box[1] - 4 and place.x0 == 4 * box[0] - 4
        assert extent(part, color) == (0, 0, *part.size) and extent(part, (255, 255, 255)) is not None
        inked = part.crop((1, 1, part.width - 1, part.height - 1))
        assert extent(inked, (255, 255, 255)) is not None
        edges = [part.crop((0, 0, part.width, 1)), part.crop((0, part.height - 1, part.width, part.height))]
        assert all(edge.getcolors() == [(part.width, color)] for edge in edges), "letters stay inside"


@pytest.mark.parametrize("size", [(128, 128), (900, 120), (120, 700)])
def test_labels_stay_inside_and_apart(monkeypatch, size):
    width, height = size
    boxes = [
        (x * width, y * height, x * width + width / 5, y * height + height / 5)
        for x, y in ((0, 0), (0.8, 0), (0, 0.8), (0.8, 0.8), (0.4, 0.4), (0.42, 0.42))
    ]
    picture, places = labels_drawn(monkeypatch, blank(*size), boxes, [f"number {i}" for i in range(6)])
    assert len(places) == 6
    for place in places:
        assert place.x0 >= 0 and place.y0 >= 0 and place.x1 <= picture.width and place.y1 <= picture.height
    assert all(one.shared(other) == 0 for one, other in itertools.combinations(places, 2))


def test_many_labels_at_one_place_are_spread_around_it(monkeypatch):
    boxes = [(20 + 8 * i, 50, 28 + 8 * i, 60) for i in range(10)]
    _, places = labels_drawn(monkeypatch, blank(), boxes, [f"expression number {i} of ten" for i in range(10)])
    assert all(one.shared(other) == 0 for one, other in itertools.combinations(places, 2))
    boxed = Rect(80, 200, 432, 240)
    assert all(place.shared(boxed) == 0 for place in places), "nor do they hide what the boxes show"


def test_where_there_is_no_room_labels_lie_over_one_another_rather_than_outside(monkeypatch):
    boxes = [(0, 0, 500, 24)] * 3
    picture, places = labels_drawn(monkeypatch, blank(512, 24), boxes, ["a label that takes the whole width"] * 3)
    assert all(Rect(0, 0, *picture.size).shared(p) == (p.x1 - p.x0) * (p.y1 - p.y0) > 0 for p in places)


def test_long_labels_are_broken_and_cut():
    font = load_font(16)
    assert broken("the red apple", font, (512, 512)) == ["the red apple"]
    text = "the small orange elephant to the left of the large purple pineapple"
    lines = broken(text, font, (512, 512))
    assert len(lines) > 1 and " ".join(lines) == text
    assert all(font.getlength(line) <= 256 for line in lines)
    cut = broken("word " * 300, font, (512, 512))
    assert len(cut) == 3 and cut[-1].endswith("word…") and all(font.getlength(line) <= 256 for line in cut)
    whole = broken("x" * 60, font, (512, 512))
    assert "".join(whole) == "x" * 60 and len(whole) > 1
    assert broken("two\n lines\t", font, (512, 512)) == ["two lines"]
    assert broken("the red apple", font, (12, 512)) == [] == broken("the red apple", font, (512, 12))
    assert broken("  ", font, (512, 512)) == []


def test_letters_can_be_read_on_every_color():
    def luminance(rgb):
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert all(1.05 / (luminance(rgb) + 0.05) >= 4.5 for rgb in RGB), "WCAG's contrast for text"
    assert all(max(abs(a - b) for a, b in zip(x, y, strict=True)) > 40 for x, y in itertools.combinations(RGB, 2))


def test_without_matplotlib_there_is_pillows_own_font(monkeypatch):
    from deed.data.synthetic.pages import fonts
    from deed.errors import DataError

    def missing(*_):
        raise DataError("not installed")

    monkeypatch.setattr(fonts, "load_font", missing)
    picture = draw_boxes(blank(), [(32, 48, 96, 112)], ["the apple"])
    assert extent(picture.crop((120, 160, 250, 190)), (255, 255, 255)) is not None


def test_a_label_for_each_box():
    with pytest.raises(ValueError, match="2 boxes, but 1 labels"):
        draw_boxes(blank(), [(0, 0, 1, 1)] * 2, ["one"])


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg"])
def test_written_whole(tmp_path, name):
    save_picture(blank(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with Image.open(tmp_path / name) as image:
        assert image.size == (128, 128) and image.format == ("PNG" if name.endswith("png") else "JPEG")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def half(self, target, format):
        target.write_bytes(b"hal")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_picture(blank(), path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_drawing_draws_over_nothing_but_lines_and_labels(monkeypatch):
    image = blank(600, 600)
    ImageDraw.Draw(image).rectangle((250, 250, 349, 349), fill=(1, 2, 3))
    picture, (place,) = labels_drawn(monkeypatch, image, [(250, 250, 350, 350)], ["square"])
    changed = ImageChops.difference(picture, image).convert("L").point(lambda value: 255 if value else 0)
    changed.paste(0, tuple(place))
    line = 4 + 2  # px, and white on both sides
    assert changed.getbbox() == (250 - line + 1, 250 - line + 1, 350 + line - 1, 350 + line - 1)
    assert extent(picture, (1, 2, 3)) == (251, 251, 349, 349)
