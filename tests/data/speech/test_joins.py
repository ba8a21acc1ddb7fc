"""Clips joined: nothing twice, lengths within bounds, the same again from the same seed; and what training changes."""

import itertools
import random

import numpy as np
import pytest

from data.speech.debs import tone
from deed.data.speech.augment import augmented, in_a_room, seeded
from deed.data.speech.clips import Clip
from deed.data.speech.joins import LONGEST, Recording, joined, long_recordings, scored, training


def clips(count=40, voices=2):
    rng = random.Random(1)
    found = []
    for i in range(count):
        seconds = round(rng.uniform(0.5, 6.0), 1)
        voice = f"v{i % voices}"
        text = f"Sentence {i}." if i % 5 else ""
        found.append(Clip(voice, "en", f"p{i}", text, ".wav", tone(seconds), seconds))
    return found


def names(recordings):
    return [clip.name for one in recordings for clip in one.clips]


def test_every_clip_once_and_no_longer_than_that():
    given = [clip for clip in clips() if clip.speaker == "v0"]
    found = list(joined(given, random.Random(0)))
    assert sorted(names(found)) == sorted(clip.name for clip in given)
    assert all(one.seconds <= LONGEST for one in found)
    assert all(one.seconds >= 5.0 for one in found[:-1])
    assert len({round(one.seconds) for one in found}) > 2
    too_long = Clip("v0", "en", "long", "Long.", ".wav", b"", LONGEST + 1)
    assert "long" not in names(joined([*given, too_long], random.Random(0)))


def test_a_recording_is_as_long_as_it_says():
    one = next(iter(joined([c for c in clips() if c.speaker == "v0"], random.Random(0))))
    assert len(one.clips) > 1 and len(one.pauses) == len(one.clips) - 1
    samples = one.samples()
    assert samples.dtype == np.float32 and abs(len(samples) / 16_000 - one.seconds) < 0.1
    gap = samples[round(one.clips[0].seconds * 16_000) + 200 :][: round(one.pauses[0] * 16_000) - 400]
    assert not gap.any()


def test_texts_and_names():
    a, b, c = clips(7)[1:3] + clips(7)[5:6]
    assert Recording((a, b), (0.5,)).text == "Sentence 1. Sentence 2."
    assert Recording((a, c), (0.5,)).text == ""  # nobody knows all of what is said
    assert Recording((a,)).name == "v1/p1" and Recording((a, b), (0.5,)).name == "v1/p1+1"


def test_training_goes_through_everything_in_each_round_and_never_alike():
    given = clips()
    rounds = [list(training(given, seed, rounds=1)) for seed in (3, 3, 4)]
    assert rounds[0] == rounds[1] != rounds[2]
    assert set(names(rounds[0])) == {clip.name for clip in given}
    changed = [one.change is not None for one in training(given, 3, rounds=10)]
    assert 0.4 < sum(changed) / len(changed) < 0.8
    assert not any(one.change is not None for one in training(given, 3, changed=0.0, rounds=2))
    assert len(list(itertools.islice(training(given), 500))) == 500  # without end
    assert all(len({clip.speaker for clip in one.clips}) == 1 for one in rounds[0])


def test_what_is_scored_is_always_the_same_and_has_texts():
    given = clips(60)
    found = scored(given)
    assert found == scored(given)
    assert all(one.text and one.change is None for one in found)
    several = [one for one in found if len(one.clips) > 1]
    assert sorted(names(several)) == sorted(set(names(several)))


def test_long_recordings():
    found = long_recordings(clips(200), seconds=60.0)
    assert all(one.seconds <= 60.0 for one in found) and sum(one.seconds > 50 for one in found) >= len(found) - 2
    assert len(names(found)) == len(set(names(found)))


@pytest.fixture(scope="module")
def samples():
    t = np.arange(32_000) / 16_000
    return (0.3 * np.sin(2 * np.pi * 440 * t) * (np.sin(2 * np.pi * 2 * t) > 0)).astype(np.float32)


def test_changes_are_the_same_again_and_leave_others_numbers_alone(samples):
    state = np.random.get_state()[1].copy()
    first = [augmented(samples, seed) for seed in range(12)]
    assert (np.random.get_state()[1] == state).all()
    random.random(), np.random.random()
    for seed, one in enumerate(first):
        assert np.array_equal(one, augmented(samples, seed))
        assert one.dtype == np.float32 and np.abs(one).max() <= 1 and np.isfinite(one).all()
        assert 0.88 <= len(one) / len(samples) <= 1.12
    assert sum(len(one) != len(samples) for one in first) > 2  # another speed
    assert sum(one.shape == samples.shape and np.allclose(one, samples) for one in first) < 3


def test_a_room_is_heard_after_the_sound(samples):
    wet = in_a_room(samples, np.random.default_rng(0))
    quiet = np.flatnonzero(np.convolve(np.abs(samples), np.ones(400), "same") == 0)
    assert len(wet) == len(samples) and np.square(wet[quiet]).mean() > 100 * np.square(samples[quiet]).mean()


def test_seeded():
    np.random.seed(5)
    wanted = np.random.random(3)
    np.random.seed(5)
    with seeded(7):
        inside = np.random.random(2), random.random()
    assert np.array_equal(np.random.random(3), wanted)
    with seeded(7):
        assert np.array_equal(np.random.random(2), inside[0]) and random.random() == inside[1]
