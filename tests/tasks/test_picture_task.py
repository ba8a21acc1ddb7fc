"""An OFA on data sets: what it is asked and scored by, in pieces that fit in memory, and the rows of a calibration."""

import math
import pickle

import pytest
import torch

from data.picture_formats import (
    coco_refs,
    tsv_image,
    write_coco_captions,
    write_refcoco,
    write_snli_ve,
    write_tsv,
    write_vqav2,
)
from data.tiny_ofa import build_small_ofa, build_small_processor
from deed import FixedSchedule
from deed.constants import GREEDY
from deed.data.base import Example
from deed.data.readers import coco_captions, ofa_tsv, refcoco, snli_ve, vqav2
from deed.errors import DataError
from deed.tasks import picture_scores as ofa_scores
from deed.tasks import pictures as ofa_run
from deed.tasks import scenes as scenes_run

VQA_ROW = ["1", "9", "is it red?", "0.3|!+no&&1.0|!+yes", "box&&wall", tsv_image()]


@pytest.fixture(scope="module")
def processor():
    return build_small_processor()


@pytest.fixture(scope="module")
def model(processor):
    return build_small_ofa(processor)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Per task: what OFA is asked, the metric, opened examples."""
    path = tmp_path_factory.mktemp("data")
    read = {
        "refcoco": ("refer", "acc_at_0.5", refcoco.read(write_refcoco(path / "a", pickle.dumps(coco_refs())), "val")),
        "coco": ("caption", "cider_d", coco_captions.read(write_coco_captions(path / "b"), "val")),
        "vqav2": ("vqa", "vqa_accuracy", vqav2.read(write_vqav2(path / "c"), "val")),
        "snli_ve": ("snli_ve", "accuracy", snli_ve.read(write_snli_ve(path / "d"), "dev")),
        "tsv": ("vqa", "ofa_vqa_score", ofa_tsv.read(write_tsv(path / "v.tsv", [VQA_ROW]), "vqa")),
    }
    return {
        name: (asks, metric, [ofa_run.opened(example) for example in found])
        for name, (asks, metric, found) in read.items()
    }


def prompt(processor, asks, example):
    return processor.tokenizer.decode(ofa_run.encode(processor, asks, example)["input_ids"], skip_special_tokens=True)


def test_prompts_are_those_of_each_task(processor, data):
    asked = {name: prompt(processor, asks, examples[0]) for name, (asks, _, examples) in data.items()}
    assert asked == {
        "refcoco": ' which region does the text " left box 2 " describe?',
        "coco": " what does the image describe?",
        "vqav2": " how many 0s?",
        "snli_ve": ' can image and text1 " two women embrace. " imply text2 " the sisters hug 0 é. "?',
        "tsv": " is it red? object: box wall",
    }
    with pytest.raises(ValueError, match="asks must be one of refer, caption, vqa, snli_ve, got 'easyvqa'"):
        ofa_run.encode(processor, "easyvqa", data["tsv"][2][0])


@pytest.mark.parametrize("name", ["refcoco", "coco", "vqav2", "snli_ve", "tsv"])
def test_what_is_trained_on_scores_best(processor, data, name):
    asks, metric, examples = data[name]
    kept = [ofa_run.without_picture(example) for example in examples]
    right = [ofa_run.target(processor, asks, e, e.answers[0] if e.answers else "") for e in examples]
    assert all(ids[-1] == processor.tokenizer.eos_token_id for ids in right)
    scores = ofa_scores.score_each(processor, metric, kept, right)
    if metric == "cider_d":
        assert all(score > 0.5 for score in scores)
        assert ofa_scores.score(processor, metric, kept, right)["equals_reference"] == 1.0
    else:
        assert scores == [1.0] * len(examples)
    wrong = ofa_scores.score(processor, metric, kept, [[2]] * len(examples))
    assert wrong[metric] == 0 and wrong["questions"] == len(examples)


def test_boxes_are_in_the_pixels_of_the_picture_as_it_is(processor, data):
    _, _, examples = data["refcoco"]
    ids = ofa_run.target(processor, "refer", examples[0])
    box, side = examples[0].extra["box"], processor.image_size
    found = ofa_scores.box_of(processor, ids, ofa_run.without_picture(examples[0]))
    for value, wanted, size in zip(found, box, (200, 100) * 2, strict=True):
        assert value == pytest.approx(wanted, abs=size / side + 1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_pieces_give_what_the_whole_gives(model, processor, monkeypatch, plain):
    subject = build_small_ofa(processor, plain=True) if plain else model
    examples = scenes_run.examples_of("refer", "test", 5)
    ways = [ofa_run.FULL_DEPTH, {"exit_threshold": 0.0}, {"exit_policy": FixedSchedule([2, 1])}]
    monkeypatch.setattr(ofa_run, "CHUNK", 2)
    ticks = []
    kept, found = ofa_run.answer_all(subject, processor, "refer", iter(examples), ways, tick=ticks.append)
    assert [e.id for e in kept] == [e.id for e in examples] and all(e.image is None for e in kept)
    assert ticks == [2, 2, 2, 2, 2, 2, 1, 1, 1], "two, two and one, each in three ways"
    rows = [ofa_run.encode(processor, "refer", example) for example in examples]
    for (answers, depth), way in zip(found, ways, strict=True):
        threshold, policy = way.get("exit_threshold"), way.get("exit_policy")
        whole, mean = ofa_run.answer(subject, rows, threshold, policy=policy, max_length=6)
        assert [ids[:5] for ids in answers] == [ids[:5] for ids in whole]
        assert math.isnan(depth) and math.isnan(mean) if plain else depth == pytest.approx(mean)


def test_a_row_of_a_calibration_keeps_no_tensor_of_its_picture(processor, data):
    _, _, [example, *_] = data["refcoco"]
    row = ofa_run.Row(processor, "refer", example)
    assert set(row) == {"input_ids", "example", "patch_images"} and len(row) == 3
    first, again = row["patch_images"], row["patch_images"]
    assert first is not again and torch.equal(first, again)
    wanted = ofa_run.encode(processor, "refer", example)
    assert torch.equal(row["patch_images"], wanted["patch_images"])
    assert torch.equal(row["input_ids"], wanted["input_ids"])


@pytest.mark.parametrize("task", ["caption", "vqa"])
@pytest.mark.filterwarnings("ignore:full depth scores")
def test_calibration_is_on_scores_between_0_and_1(model, processor, task):
    lines, metric = [], scenes_run.METRICS[task]
    examples = scenes_run.stream_of(task, "calibration", 12)
    report = ofa_run.calibrate_examples(
        model, processor, task, metric, examples, 0.3, 0.9, lines.append, thresholds=(0.9,)
    )
    assert (report["metric"], report["divided_by"]) == (metric, {"caption": 10.0, "vqa": 1.0}[task])
    assert report["examples"] == 12 and model.deed_config.calibration is report
    # the same scores, by hand
    kept, [(answers, _)] = ofa_run.answer_all(
        model, processor, task, scenes_run.stream_of(task, "calibration", 12), batch_size=64
    )
    each = ofa_scores.score_each(processor, metric, kept, answers)
    assert report["full_depth_score"] == pytest.approx(sum(each) / 12 / ofa_scores.BEST[metric])


def test_pictures_that_cannot_be_opened(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"a\.jpg is no image that Pillow can read"):
        ofa_run.opened(Example("", [], image=tmp_path / "a.jpg"))
    with pytest.raises(DataError, match="example 'x' has no picture"):
        ofa_run.opened(Example("", [], id="x"))


def test_answers_come_from_the_closed_list(model, processor):
    closed = ofa_run.closed_list(processor, "snli_ve")
    assert closed.answers == ["yes", "no", "maybe"] and ofa_run.closed_list(processor, "vqa") is None
    options = ofa_run.options_for(model, processor, "snli_ve")
    first = {ids[0] for ids in closed.ids}
    assert set(options["prefix_allowed_tokens_fn"](0, torch.tensor([0]))) == first
    assert options["confidence_over"] == "allowed"
    assert ofa_run.options_for(model, processor, "refer") == {**GREEDY, "max_length": 6}
