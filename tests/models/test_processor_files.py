"""Saved processors: a setting from anywhere gives a processor that works or one clear error."""

import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ofa_files import small_tokenizer
from transformers import AutoProcessor

from deed import DeedLoadError
from deed.models.latr import LatrConfig, LatrProcessor
from deed.models.latr import small as small_latr
from deed.models.ofa import OFAConfig, OFAProcessor, build_image_processor

PICTURE = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)


@pytest.fixture(scope="module", params=["latr", "ofa"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processors") / request.param
    if request.param == "latr":
        small_latr.build_processor(small_latr.build_tokenizer(["total"])).save_pretrained(folder)
        LatrConfig(vision_config=None).save_pretrained(folder)
    else:
        OFAProcessor(build_image_processor(32), small_tokenizer()).save_pretrained(folder)
        OFAConfig().save_pretrained(folder)
    return folder


def settings_of(folder):
    return json.loads((folder / "processor_config.json").read_text())


def kind_of(folder):
    return LatrProcessor if folder.name == "latr" else OFAProcessor


def copied(saved, tmp_path, **changes):
    folder = shutil.copytree(saved, tmp_path / saved.name, dirs_exist_ok=True)
    values = settings_of(folder)
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        (values[place] if place else values)[key] = value
    (folder / "processor_config.json").write_text(json.dumps(values))
    return folder


def test_the_untouched_folder_loads_both_ways(saved):
    for loader in (kind_of(saved), AutoProcessor):
        assert type(loader.from_pretrained(saved)) is kind_of(saved)


NEVER = {
    "latr": [{"max_length": x} for x in (0, 1, -5, True, 2.5, "9", None, [9], 10**400, math.nan)],
    "ofa": [{"max_target_length": x} for x in (0, -5, True, 2.5, "9", None, [9], 10**400, math.nan)],
}
NEVER["latr"] += [{"sees": x} for x in (0, 1, "true", None, [])]
NEVER["ofa"] += [{"max_image_size": x} for x in (0, -5, True, 2.5, "9", [9], 10**400, math.nan)]
BOTH = [
    {"image_processor__size": x}
    for x in ({"height": 0, "width": 9}, {"height": 9}, {"height": True, "width": 9}, {"height": 10**400, "width": 9})
]
BOTH += [{"image_processor__image_mean": x} for x in ([1, 2], "x", [math.nan] * 3, [[1, 2, 3]], [True] * 3)]
BOTH += [{"image_processor__image_std": x} for x in ([0, 1, 1], [-1, 1, 1], [10**400] * 3, {})]
BOTH += [{"image_processor__rescale_factor": x} for x in (0, -1, math.inf, "x", True)]
BOTH += [{"image_processor__resample": x} for x in (7, -1, True, "x", [3], 10**400)]
BOTH += [{"image_processor__do_resize": x} for x in (1, "yes", [])] + [{"image_processor": x} for x in (5, [], None)]


@pytest.mark.parametrize("at", range(max(map(len, NEVER.values())) + len(BOTH)))
def test_settings_that_no_processor_can_have(saved, tmp_path, at):
    changes = [*NEVER[saved.name], *BOTH]
    if at >= len(changes):
        pytest.skip("the other processor has more settings")
    folder = copied(saved, tmp_path, **changes[at])
    name = next(iter(changes[at])).rpartition("__")[2]
    with pytest.raises(DeedLoadError, match=rf"the {kind_of(saved).__name__} in .*{name}"):
        kind_of(saved).from_pretrained(folder)


def test_settings_that_are_not_known_are_named(saved, tmp_path):
    with pytest.warns(UserWarning, match=r"does not have, \['unheard_of'\], are ignored"):
        kind_of(saved).from_pretrained(copied(saved, tmp_path, unheard_of=1))


SCALARS = st.none() | st.booleans() | st.integers(-3, 70) | st.sampled_from([10**400, 2**40]) | st.floats() | st.text()
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), value=JUNK)
def test_any_setting_gives_a_processor_that_works_or_one_error(saved, tmp_path, data, value):
    values = settings_of(saved)
    names = [*values, *(f"image_processor__{name}" for name in values["image_processor"]), "other"]
    name = data.draw(st.sampled_from(sorted(names)))
    folder = copied(saved, tmp_path, **{name: value})
    try:
        processor = kind_of(saved).from_pretrained(folder)
    except DeedLoadError as error:
        assert str(folder) in str(error)
        return
    sees = getattr(processor, "sees", True)  # false is a setting of LaTr++ that works, without pictures
    batch = processor(PICTURE if sees else None, "what is it?")
    assert batch["input_ids"].shape[0] == 1
    if not sees:
        return
    pixels = batch["pixel_values" if saved.name == "latr" else "patch_images"]
    assert pixels.shape[:2] == (1, 3) and pixels.isfinite().all()


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[]", "{", '"x"'])
def test_files_that_are_damaged(saved, tmp_path, file, text):
    folder = copied(saved, tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(DeedLoadError, match="cannot be loaded"):
        kind_of(saved).from_pretrained(folder)


def test_a_folder_that_is_not_there(tmp_path):
    for kind in (LatrProcessor, OFAProcessor):
        with pytest.raises(DeedLoadError, match="not a folder"):
            kind.from_pretrained(tmp_path / "nowhere")
