"""The loss-gated curriculum rises when the loss says so, and goes on where a killed run stopped."""

from types import SimpleNamespace

import pytest

from deed.training.curriculum import LossGatedCurriculum


def test_rises_only_below_the_threshold_and_not_before_it_has_seen_enough():
    curriculum = LossGatedCurriculum(threshold=0.1, top=3, momentum=0.5, patience=4)
    for step in range(3):
        curriculum.update(0.01, step)
    assert int(curriculum.level) == 1
    curriculum.update(0.01, 3)
    assert int(curriculum.level) == 2 and curriculum.risen == [(2, 3)]
    for step in range(4, 30):
        curriculum.update(0.5, step)
    assert int(curriculum.level) == 2
    for step in range(30, 60):
        curriculum.update(0.0, step)
    assert int(curriculum.level) == 3, "the top is the top"
    assert [level for level, _ in curriculum.risen] == [2, 3]


def test_one_good_batch_is_not_enough():
    curriculum = LossGatedCurriculum(threshold=0.1, patience=1)
    curriculum.update(1.0, 0)
    curriculum.update(0.0, 1)
    assert int(curriculum.level) == 1


def test_it_rises_in_the_end_whatever_the_loss():
    curriculum = LossGatedCurriculum(threshold=0.1, top=3, patience=2, longest=5)
    for step in range(12):
        curriculum.update(9.0, step)
    assert curriculum.risen == [(2, 4), (3, 9)]


def test_is_kept_in_checkpoints(tmp_path):
    curriculum = LossGatedCurriculum(threshold=0.1, patience=1)
    curriculum.update(0.05, 7)
    curriculum.update(0.3, 8)
    folder = tmp_path / "checkpoint-9"
    folder.mkdir()
    state = SimpleNamespace(global_step=9, is_world_process_zero=True)
    curriculum.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    again = LossGatedCurriculum(threshold=0.1, patience=1)
    again.resume(folder)
    assert again.state() == curriculum.state() and int(again.level) == 2
    fresh = LossGatedCurriculum()
    fresh.resume(None)
    fresh.resume(tmp_path / "checkpoint-10")
    assert int(fresh.level) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"level": "x", "running": 0, "seen": 0, "risen": []}'])
def test_a_damaged_one_is_named(tmp_path, text):
    (tmp_path / "curriculum.json").write_text(text)
    with pytest.raises(ValueError, match=r"curriculum\.json is damaged .*delete it to start at level 1"):
        LossGatedCurriculum().resume(tmp_path)
