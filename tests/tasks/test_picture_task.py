"""An OFA on data sets: what it is asked and scored by, in pieces that fit in memory, and the rows of a calibration."""

import math
import pickle
import random

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
from deed.tasks import answering, pictures
from deed.tasks.answering import FULL_DEPTH, answer_examples, answer_rows, calibrate_task, evaluate_task, score_answers
from deed.tasks.image_task import opened
from deed.tasks.pictures import PictureTask, box_of, closed_list, target

TASKS = ("scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa")
VQA_ROW = ["1", "9", "is it red?", "0.3|!+no&&1.0|!+yes", "box&&wall", tsv_image()]


@pytest.fixture(scope="module")
def processor():
    return build_small_processor()


@pytest.fixture(scope="module")
def model(processor):
    return build_small_ofa(processor)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Per data set its task and opened examples."""
    path = tmp_path_factory.mktemp("data")
    read = {
        "refcoco": ("refcoco", refcoco.read(write_refcoco(path / "a", pickle.dumps(coco_refs())), "val")),
        "coco": ("coco_captions", coco_captions.read(write_coco_captions(path / "b"), "val")),
        "vqav2": ("vqav2", vqav2.read(write_vqav2(path / "c"), "val")),
        "snli_ve": ("snli_ve", snli_ve.read(write_snli_ve(path / "d"), "dev")),
        "tsv": ("ofa_tsv_vqa", ofa_tsv.read(write_tsv(path / "v.tsv", [VQA_ROW]), "vqa")),
    }
    return {key: (PictureTask(name), [opened(example) for example in found]) for key, (name, found) in read.items()}


def prompt(processor, task, example):
    return processor.tokenizer.decode(task.encode(processor, example)["input_ids"], skip_special_tokens=True)


def test_prompts_are_those_of_each_task(processor, data):
    asked = {name: prompt(processor, task, examples[0]) for name, (task, examples) in data.items()}
    assert asked == {
        "refcoco": ' which region does the text " left box 2 " describe?',
        "coco": " what does the image describe?",
        "vqav2": " how many 0s?",
        "snli_ve": ' can image and text1 " two women embrace. " imply text2 " the sisters hug 0 é. "?',
        "tsv": " is it red? object: box wall",
    }
    with pytest.raises(ValueError, match="asks must be one of refer, caption, vqa, snli_ve, got 'easyvqa'"):
        pictures.encode(processor, "easyvqa", data["tsv"][1][0])


@pytest.mark.parametrize("name", ["refcoco", "coco", "vqav2", "snli_ve", "tsv"])
def test_what_is_trained_on_scores_best(processor, data, name):
    task, examples = data[name]
    kept = [task.closed(example) for example in examples]
    assert all(example.image is None for example in kept)
    right = [task.labels(processor, example) for example in examples]
    assert all(ids[-1] == processor.tokenizer.eos_token_id for ids in right)
    answers = [task.answer(processor, ids, example) for ids, example in zip(right, kept, strict=True)]
    scores = task.score(answers, kept)
    if task.metric == "cider_d":
        assert all(score > 0.5 for score in scores) and task.best == 10
        assert score_answers(task, answers, kept)["equals_reference"] == 1.0
    else:
        assert scores == [1.0] * len(examples)
    assert all(task.right(*one) for one in zip(answers, kept, scores, strict=True))
    judge, padded = task.calibration_score(processor, kept), [[*ids, 1, 1] for ids in right]
    judged = [judge(ids, {"example": e}) for ids, e in zip(padded, kept, strict=True)]
    assert judged == pytest.approx([score / task.best for score in scores]), "words weighed by all the references"
    nothing = [task.answer(processor, [2], example) for example in kept]
    wrong = score_answers(task, nothing, kept)
    assert wrong[task.metric] == 0 and wrong["questions"] == len(examples)
    assert not any(task.right(*one) for one in zip(nothing, kept, [0.0] * len(kept), strict=True))


def test_one_of_several_answers_is_trained_on_and_of_sure_ones_the_surest(processor, data):
    task, examples = data["coco"]
    example = next(e for e in examples if len(set(e.answers)) > 1)
    drawn = {tuple(task.labels(processor, example, random.Random(i))) for i in range(40)}
    assert len(drawn) == len(set(example.answers))
    task, (example, *_) = data["tsv"]
    assert len(example.answers) == 2
    drawn = {tuple(task.labels(processor, example, random.Random(i))) for i in range(20)}
    assert drawn == {tuple(processor.encode_answers(["yes"])[0])}


def test_where_there_are_few_answers_the_loss_is_among_them(processor, data):
    task, examples = data["snli_ve"]
    rows = [{**task.encode(processor, e), "labels": task.labels(processor, e)} for e in examples[:2]]
    batch = task.collate(processor, rows)
    assert batch["labels"].shape[0] == 2 and "allowed_tokens" in batch
    task, examples = data["refcoco"]
    rows = [{**task.encode(processor, e), "labels": task.labels(processor, e)} for e in examples[:2]]
    assert set(task.collate(processor, rows)) == {"input_ids", "attention_mask", "patch_images", "labels"}


def test_boxes_are_in_the_pixels_of_the_picture_as_it_is(processor, data):
    task, examples = data["refcoco"]
    ids = target(processor, "refer", examples[0])
    box, side = examples[0].extra["box"], processor.image_size
    found = box_of(processor, ids, task.closed(examples[0]))
    for value, wanted, size in zip(found, box, (200, 100) * 2, strict=True):
        assert value == pytest.approx(wanted, abs=size / side + 1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_scenes_and_easy_vqa_right_answers_score_best(processor, task):
    task = PictureTask(task)
    examples = [task.opened(example) for example in task.examples("validation", 6)]
    right = [task.answer(processor, task.labels(processor, e), e) for e in examples]
    scores = task.score(right, examples)
    assert all(0 < x <= task.best for x in scores)
    if task.asks != "caption":  # there every reference is compared with, and they differ
        assert scores == [1.0] * 6
    nothing = [task.answer(processor, [2], e) for e in examples]
    report = score_answers(task, [*right[:3], *nothing[3:]], examples)
    assert report["questions"] == 6 and 0 < report[task.metric] < sum(scores) / 6
    kinds = {example.kind for example in examples}
    assert set(report.get("by_kind", kinds)) == kinds


def test_answers_come_back_in_their_order_whatever_the_batches(model, processor):
    task = PictureTask("scenes-refer")
    rows = [task.encode(processor, task.opened(example)) for example in task.examples("test", 5)]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    ticks = []
    many = answer_rows(task, model, processor, rows, 2, ticks.append, exit_threshold=2.0)
    alone = [answer_rows(task, model, processor, [row], exit_threshold=2.0).tokens[0] for row in rows]
    assert many.tokens == alone and ticks == [2, 2, 1] and many.mean_depth == 3.0
    assert answer_rows(task, model, processor, rows, exit_threshold=0.0).mean_depth == 1.0


@pytest.mark.parametrize("plain", [False, True])
def test_pieces_give_what_the_whole_gives(model, processor, monkeypatch, plain):
    subject = build_small_ofa(processor, plain=True) if plain else model
    task = PictureTask("scenes-refer")
    examples = list(task.examples("test", 5))
    ways = [FULL_DEPTH, {"exit_threshold": 0.0}, {"exit_policy": FixedSchedule([2, 1])}]
    monkeypatch.setattr(answering, "CHUNK", 2)
    ticks = []
    kept, found = answer_examples(task, subject, processor, iter(examples), ways, tick=ticks.append)
    assert [e.id for e in kept] == [e.id for e in examples] and all(e.image is None for e in kept)
    assert ticks == [2, 2, 2, 2, 2, 2, 1, 1, 1], "two, two and one, each in three ways"
    rows = [task.encode(processor, task.opened(example)) for example in examples]
    for (answers, depth), way in zip(found, ways, strict=True):
        whole = answer_rows(task, subject, processor, rows, **way)
        assert answers == [task.answer(processor, ids, e) for ids, e in zip(whole.tokens, kept, strict=True)]
        assert math.isnan(depth) and math.isnan(whole.mean_depth) if plain else depth == whole.mean_depth


def test_a_plain_model_is_scored_once(processor):
    plain = build_small_ofa(processor, plain=True)
    task = PictureTask("scenes-vqa")
    used, [row] = evaluate_task(task, plain, processor, task.examples("unseen", 2), (2.0, 0.5))
    assert used == 2 and row["threshold"] == 2.0 and row["mean_depth"] is None
    assert evaluate_task(task, plain, processor, iter(())) == (0, [])


def test_a_row_of_a_calibration_keeps_no_tensor_of_its_picture(processor, data):
    task, [example, *_] = data["refcoco"]
    row = task.row(processor, example)
    assert set(row) == {"input_ids", "example", "patch_images", "task"} and len(row) == 4 and row["task"] is task
    first, again = row["patch_images"], row["patch_images"]
    assert first is not again and torch.equal(first, again)
    wanted = task.encode(processor, example)
    assert torch.equal(row["patch_images"], wanted["patch_images"])
    assert torch.equal(row["input_ids"], wanted["input_ids"])


@pytest.mark.parametrize("name", ["scenes-caption", "scenes-vqa"])
@pytest.mark.filterwarnings("ignore:full depth scores")
def test_calibration_is_on_scores_between_0_and_1(model, processor, name):
    task, lines = PictureTask(name), []
    examples = list(task.examples("calibration", 12))
    report = calibrate_task(task, model, processor, examples, 0.3, 0.9, (0.9,), lines.append)
    assert (report["metric"], report["divided_by"]) == (task.metric, {"scenes-caption": 10.0}.get(name, 1.0))
    assert report["examples"] == 12 and model.deed_config.calibration is report and lines
    # the same scores, by hand
    kept, [(answers, _)] = answer_examples(task, model, processor, examples, batch_size=64)
    assert report["full_depth_score"] == pytest.approx(sum(task.score(answers, kept)) / 12 / task.best)


def test_pictures_that_cannot_be_opened(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"a\.jpg is no image that Pillow can read"):
        opened(Example("", [], image=tmp_path / "a.jpg"))
    with pytest.raises(DataError, match="example 'x' has no picture"):
        opened(Example("", [], id="x"))


def test_answers_come_from_the_closed_list(model, processor):
    closed = closed_list(processor, "snli_ve")
    assert closed.answers == ["yes", "no", "maybe"] and closed_list(processor, "vqa") is None
    options = PictureTask("snli_ve").generation_options(model, processor)
    first = {ids[0] for ids in closed.ids}
    assert set(options["prefix_allowed_tokens_fn"](0, torch.tensor([0]))) == first
    assert options["confidence_over"] == "allowed"
    assert PictureTask("refcoco").generation_options(model, processor) == {**GREEDY, "max_length": 6}
