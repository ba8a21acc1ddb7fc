"""The mastery curriculum rises when the loss says so, and goes on where a killed run stopped."""

from types import SimpleNamespace

from deed.training.curriculum import Mastery


def test_rises_only_when_mastered_and_not_before_it_has_seen_enough():
    mastery = Mastery(threshold=0.1, top=3, memory=0.5, patience=4)
    for step in range(3):
        mastery.update(0.01, step)
    assert int(mastery.level) == 1
    mastery.update(0.01, 3)
    assert int(mastery.level) == 2 and mastery.risen == [(2, 3)]
    for step in range(4, 30):
        mastery.update(0.5, step)
    assert int(mastery.level) == 2
    for step in range(30, 60):
        mastery.update(0.0, step)
    assert int(mastery.level) == 3, "the top is the top"
    assert [level for level, _ in mastery.risen] == [2, 3]


def test_one_good_batch_is_not_mastery():
    mastery = Mastery(threshold=0.1, patience=1)
    mastery.update(1.0, 0)
    mastery.update(0.0, 1)
    assert int(mastery.level) == 1


def test_is_kept_in_checkpoints(tmp_path):
    mastery = Mastery(threshold=0.1, patience=1)
    mastery.update(0.05, 7)
    mastery.update(0.3, 8)
    folder = tmp_path / "checkpoint-9"
    folder.mkdir()
    state = SimpleNamespace(global_step=9, is_world_process_zero=True)
    mastery.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    again = Mastery(threshold=0.1, patience=1)
    again.resume(folder)
    assert again.state() == mastery.state() and int(again.level) == 2
    fresh = Mastery()
    fresh.resume(None)
    fresh.resume(tmp_path / "checkpoint-10")
    assert int(fresh.level) == 1
