"""Pictograms, and the scenes they are composed into."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest

from deed.data.synthetic import scenes
from deed.data.synthetic.scenes import compose, pictograms
from deed.errors import DataError


def ink(scene, things):
    """Where some of a scene's things are drawn, `[side, side]` bool: where the picture differs from the bare paper."""
    with_ink = dataclasses.replace(scene, things=tuple(things)).image
    bare = dataclasses.replace(scene, things=()).image
    return (np.asarray(with_ink) != np.asarray(bare)).any(axis=2)


def test_every_glyph_has_ink_to_its_edges_and_looks_like_no_other():
    small = {}
    for name in scenes.NAMES:
        for pixels, angle in ((22, 0), (27, -8), (45, 4)):
            mask = np.asarray(pictograms.mask(name, pixels, angle))
            assert pixels - 2 <= max(mask.shape) <= pixels
            assert (mask[0].any(), mask[-1].any(), mask[:, 0].any(), mask[:, -1].any()) == (True,) * 4
            assert not ((mask > 0) & (mask < 48)).any()
        small[name] = np.asarray(pictograms.mask(name, 24).resize((24, 24)), dtype=float) / 255
    names = list(small)
    nearest = min((abs(small[a] - small[b]).mean(), a, b) for i, a in enumerate(names) for b in names[:i])
    assert nearest[0] > 0.1, nearest


def test_colors_are_far_apart_and_stand_out_from_every_paper():
    colors = [np.array(rgb) for rgb in scenes.COLORS.values()]
    apart = [abs(a - b).sum() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(apart) > 80
    assert min(abs(color - np.array(tint)).sum() for color in colors for tint in compose._TINTS) > 150


def test_a_tenth_of_the_combinations_is_held_out():
    n_all = len(scenes.NAMES) * len(scenes.COLORS)
    assert (len(scenes.NAMES), len(scenes.COLORS), len(scenes.HELD_OUT)) == (60, 8, 48)
    assert n_all == len(scenes.HELD_OUT) + len(set(pictograms.KNOWN))
    for color in scenes.COLORS:
        assert sum(held == color for _, held in scenes.HELD_OUT) == 6
    # They are fixed: a new name or order would let trained models have seen them.
    assert {("anchor", "red"), ("dog", "pink"), ("heart", "green"), ("umbrella", "black")} <= scenes.HELD_OUT


@pytest.mark.parametrize("options", [{}, {"rotation": 0, "noise": 0, "side": 160}, {"n_things": (5, 5)}])
def test_boxes_are_exactly_where_the_ink_is(options):
    for seed in range(25):
        scene = scenes.scene(seed, **options)
        low, high = options.get("n_things", (2, 5))
        assert low <= len(scene.things) <= high
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            drawn = ink(scene, [thing])
            assert 0 < x0 < x1 < scene.side and 0 < y0 < y1 < scene.side
            rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
            assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == thing.box
            least, most = compose.SIZES[thing.size]
            assert round(least * scene.side) - 2 <= max(x1 - x0, y1 - y0) <= round(most * scene.side)
        assert (ink(scene, scene.things) == sum(ink(scene, [thing]) for thing in scene.things)).all()


def test_things_keep_clear_of_one_another():
    for seed in range(300):
        scene = scenes.scene(seed, n_things=(4, 5))
        for i, one in enumerate(scene.things):
            for other in scene.things[:i]:
                apart = (
                    one.box[2] < other.box[0], other.box[2] < one.box[0],
                    one.box[3] < other.box[1], other.box[3] < one.box[1],
                )  # fmt: skip
                assert any(apart)
                for a, b in zip(one.center, other.center, strict=True):
                    assert abs(a - b) >= compose.CLEAR * scene.side


def test_scenes_vary_and_things_have_kin():
    made = [scenes.scene(seed) for seed in range(600)]
    assert {len(scene.things) for scene in made} == {2, 3, 4, 5}
    things = [thing for scene in made for thing in scene.things]
    assert {thing.name for thing in things} == set(scenes.NAMES)
    assert {thing.color for thing in things} == set(scenes.COLORS)
    assert 0.4 < sum(thing.size == "large" for thing in things) / len(things) < 0.6
    assert all(len({thing.combination for thing in scene.things}) > 1 for scene in made)
    for attribute in ("name", "color"):
        shared = [len({getattr(thing, attribute) for thing in scene.things}) < len(scene.things) for scene in made]
        assert sum(shared) / len(made) > 0.5
    assert {thing.angle for thing in things} == {-8, -4, 0, 4, 8}
    assert {scene.background.noise > 0 for scene in made} == {True, False}
    upright = scenes.scene(3, rotation=3, noise=0)
    assert {thing.angle for thing in upright.things} == {0} and upright.background.noise == 0


def test_combinations_are_held_out_of_known_scenes_and_in_every_unseen_one():
    assert not any(scenes.scene(seed).held_out for seed in range(1500))
    unseen = [scenes.scene(seed, combinations="unseen") for seed in range(600)]
    assert all(scene.held_out for scene in unseen)
    assert {thing.combination for scene in unseen for thing in scene.held_out} == scenes.HELD_OUT
    assert any(len(scene.held_out) < len(scene.things) for scene in unseen)


def test_the_same_seed_gives_the_same_scene():
    assert scenes.scene(1) == scenes.scene(1)
    assert scenes.scene(1) != scenes.scene(2)
    scene = scenes.scene(5)
    picture = scene.image.tobytes()
    copy = pickle.loads(pickle.dumps(scene))
    assert copy == scene and "image" not in vars(copy) and copy.image.tobytes() == picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_things": (1, 3)}, "n_things must be two numbers from 2 to 5"),
        ({"n_things": (4, 3)}, "n_things must be two numbers from 2 to 5"),
        ({"side": 64}, "side must be at least 96 px, got 64"),
        ({"combinations": "all"}, "combinations must be 'known' or 'unseen', got 'all'"),
        ({"rotation": 45}, "rotation and noise must be 0 to 20, got 45"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(DataError, match=message):
        scenes.scene(0, **options)


def test_an_unknown_name_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(DataError, match=r"name must be one of anchor, .*, got 'dragon'"):
        pictograms.mask("dragon", 24)
    monkeypatch.setitem(sys.modules, "fonticon_mdi7", None)
    with pytest.raises(DataError, match="pip install fonticon-materialdesignicons7"):
        pictograms._font.__wrapped__()
