"""Which tasks a saved model is asked to do, and the held-out examples of each."""

import json
import pickle

import pytest

from data.picture_formats import coco_refs, write_refcoco
from deed.errors import DataError
from deed.tasks.held_out import asks_of, check_tasks, examples_of, is_for_ofa, strictest

SCENES = ["scenes-refer", "scenes-caption", "scenes-vqa"]


def folder_of(path, kind):
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    return path


@pytest.mark.parametrize(
    ("kind", "given", "split", "wanted"),
    [
        ("ofa", None, None, [*SCENES, "easyvqa"]),
        ("ofa", ["scenes"], "unseen", SCENES),
        ("ofa", ["easyvqa", "scenes", "refcoco"], "test", ["easyvqa", *SCENES, "refcoco"]),
        ("latr", None, "test", ["pages"]),
        ("latr", ["easyvqa", "pages"], None, ["easyvqa", "pages"]),
        ("t5", None, None, ["g2p"]),
        ("bart", ["scenes-vqa"], None, ["scenes-vqa"]),  # loading the model says that it is not an OFA
    ],
)
def test_tasks(tmp_path, kind, given, split, wanted):
    folder = folder_of(tmp_path, kind)
    tasks = check_tasks(given, folder, split)
    assert tasks == wanted and is_for_ofa(folder, tasks) == (kind in ("ofa", "bart"))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("ofa", ["textvqa"], "--task textvqa needs a LaTr"),
        ("latr", ["pages", "scenes-vqa"], "--task scenes-vqa needs an OFA; .* holds a LaTr"),
        ("latr", ["g2p"], "needs a small T5"),
        ("t5", ["g2p", "scenes"], "give it alone"),
        ("t5", ["answers"], "--task must be one of g2p, pages, docvqa"),
    ],
)
def test_what_is_refused(tmp_path, kind, given, message):
    with pytest.raises(DataError, match=message):
        check_tasks(given, folder_of(tmp_path, kind))


def test_no_folder_is_left_to_loading(tmp_path):
    assert check_tasks(None, tmp_path / "nowhere") == ["g2p"]
    (tmp_path / "config.json").write_text("[]")
    assert check_tasks(None, tmp_path) == ["g2p"]


def test_scenes_are_a_thousand_unless_said():
    ticks = []
    metric, found = examples_of("scenes-refer", None, None, "calibration", tick=ticks.append)
    first = next(found)
    assert metric == "acc_at_0.5" and first.id == "scenes/0/calibration/0/refer" and ticks == [1]
    _, found = examples_of("scenes-vqa", None, "unseen", "test", 3)
    assert [example.id for example in found] == [f"scenes/0/unseen/{i}/vqa" for i in range(3)]
    from deed.tasks import held_out

    assert held_out.MADE == 1000


def test_boxes_count_as_answers(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    metric, found = examples_of("refcoco", folder, None, "calibration")  # on disk: val
    assert metric == "acc_at_0.5" and [example.question for example in found] == ["left box 2", "the box 2"]
    assert (asks_of("refcoco"), asks_of("scenes-caption"), asks_of("easyvqa")) == ("refer", "caption", "vqa")


def test_the_strictest_threshold_is_kept():
    reports = [{"task": name, "threshold": value} for name, value in (("a", 0.9), ("b", 0.99), ("c", 0.5))]
    assert strictest(reports) == {**reports[1], "others": [reports[0], reports[2]]}
    assert strictest(reports[:1]) == reports[0]
