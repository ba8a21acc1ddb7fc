"""A small OFA at work on scenes: what it is asked, how it is scored, and its calibration."""

import math

import pytest
import torch

from deed import DeedConfig, get_deed_model
from deed.data.synthetic import scenes
from deed.errors import DataError, DeedLoadError
from deed.models.ofa import small as small_ofa
from deed.tasks import scenes as scenes_run


@pytest.fixture(scope="module")
def processor():
    return small_ofa.build_processor(small_ofa.build_tokenizer(scenes.vocabulary_texts(30), 800))


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    plain = small_ofa.build_model(processor.tokenizer, 1, 3, 32, 32, (8, 8, 16, 16))
    return get_deed_model(plain, DeedConfig(threshold=2.0)).eval()


def right_ids(processor, task, example):
    """What a model that knows would generate."""
    if task == "refer":
        return [*processor.encode_box(example.extra["box"], example.image.size), processor.tokenizer.eos_token_id]
    return processor.encode_answers([example.answers[0].replace(",", "")])[0]


@pytest.mark.parametrize("task", scenes_run.TASKS)
def test_right_answers_score_best_and_others_do_not(processor, task):
    examples = scenes_run.examples_of(task, "validation", 6)
    right = [right_ids(processor, task, example) for example in examples]
    padded = [[*ids, *[processor.tokenizer.pad_token_id] * 3] for ids in right]
    scores = scenes_run.score_each(processor, task, examples, padded)
    nothing = scenes_run.score_each(processor, task, examples, [[2]] * 6)
    assert nothing == [0.0] * 6 and all(0 < x <= scenes_run.BEST[task] for x in scores)
    if task != "caption":  # there every reference is compared with, and they differ
        assert scores == [1.0] * 6
    report = scenes_run.score(processor, task, examples, [*right[:3], [2], [2], [2]])
    value = report[scenes_run.METRICS[task]]
    assert report["questions"] == 6 and 0 < value < sum(scores) / 6
    kinds = {example.kind for example in examples}
    assert set(report.get("by_kind", kinds)) == kinds


def test_answers_come_back_in_their_order_whatever_the_batches(model, processor):
    examples = scenes_run.examples_of("refer", "test", 5)
    rows = [scenes_run.encode(processor, "refer", example) for example in examples]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    ticks = []
    many, depth = scenes_run.answer(model, rows, 2.0, batch_size=2, tick=ticks.append, max_new_tokens=5)
    alone = [scenes_run.answer(model, [row], 2.0, max_new_tokens=5)[0][0] for row in rows]
    strip = processor.tokenizer.pad_token_id
    assert [[i for i in ids if i != strip] for ids in many] == [[i for i in ids if i != strip] for ids in alone]
    assert ticks == [2, 2, 1] and depth == 3.0
    assert scenes_run.answer(model, rows, 0.0, max_new_tokens=5)[1] == 1.0


def test_a_plain_model_has_no_depth(processor):
    plain = small_ofa.build_model(processor.tokenizer, 1, 1, 32, 32, (8, 8, 16, 16)).eval()
    examples = scenes_run.examples_of("vqa", "unseen", 2)
    rows = [scenes_run.encode(processor, "vqa", example) for example in examples]
    answers, depth = scenes_run.answer(plain, rows, max_new_tokens=3)
    assert len(answers) == 2 and math.isnan(depth)


def test_evaluation_is_of_every_task(model, processor):
    report = scenes_run.evaluate(model, processor, count=2, threshold=0.0)
    assert set(report) == set(scenes_run.TASKS)
    for task, row in report.items():
        assert row["questions"] == 2 and row["mean_depth"] == 1.0 and row[scenes_run.METRICS[task]] >= 0


def test_what_is_no_ofa_is_told(tmp_path, processor):
    with pytest.raises(DeedLoadError, match="cannot be loaded"):
        scenes_run.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(DeedLoadError, match="need an OFA"):
        scenes_run.load(tmp_path)
    with pytest.raises(DataError, match="task must be one of refer"):
        scenes_run.examples_of("reading", "test", 1)
    with pytest.raises(DataError, match="scenes are endless"):
        scenes_run.stream_of("vqa", "test", None)
