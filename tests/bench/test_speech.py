"""`deed bench speech` on a tiny random Whisper and one real recording; goals and scores by hand."""

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from test_whisper_ctranslate2 import whole
from typer.testing import CliRunner

import deed
from deed.bench import speech_catalogue, speech_clips, speech_turns
from deed.bench.speech import Settings, asked_exits, measure_speech
from deed.bench.speech_clips import Sound, batches_of, by_language, find_sounds
from deed.bench.speech_goals import goal_rows
from deed.bench.speech_scores import depths_of, tokens_changed, wer_change, wer_of, word_errors
from deed.bench.speech_subjects import Heard, Listener, faster_whisper, joined, stopwatch
from deed.bench.speech_turns import run_turns, takes
from deed.cli import app
from deed.cli.bench_speech import point_of
from deed.errors import DataError
from deed.models.whisper import read_ctranslate2_whisper
from deed.utils.audio import load_audio
from deed.utils.progress import SILENT_BAR

SAMPLES = Path(__file__).parents[1] / "samples"
CLIP = SAMPLES / "conf-waitforleader.g722"
RATE = 16_000


class Made:
    """A recording of so many seconds, of one value."""

    def __init__(self, seconds, value=0.1):
        self.seconds, self.value = seconds, value

    def samples(self):
        return np.full(int(self.seconds * RATE), self.value, np.float32)


def sound(name="a", language="en", text="yes no", seconds=1.0):
    return Sound(name, language, text, Made(seconds))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random Whisper that reads thirty seconds."""
    return whole(tmp_path_factory.mktemp("whisper"), seconds=30, num_mel_bins=80)


@pytest.fixture(scope="module")
def exits(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("exits")
    config = deed.DeedConfig(adapter="layer", exit_layers=[1], threshold=0.0)
    deed.get_deed_model(read_ctranslate2_whisper(folder), config).save_exits(place, dtype=torch.float16)
    return place


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The real recording, and it again and again for half a minute and more."""
    place = tmp_path_factory.mktemp("data")
    for i in range(4):
        for suffix in (".g722", ".txt"):
            shutil.copy(CLIP.with_suffix(suffix), place / f"short{i}{suffix}")
    samples = np.tile(load_audio(CLIP), 12)
    with wave.open(str(place / "long.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((32767 * samples).astype("<i2").tobytes())
    (place / "long.txt").write_text("The conference will begin when the leader arrives. " * 12)
    return place


@pytest.fixture(scope="module")
def result(folder, exits, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    told = ["bench", "speech", "--model", folder, "--exits", exits, "--data", data, "--batch", 1, "--batch", 2]
    told += ["--threshold", "never=2", "--threshold", "always=0", "--minutes", 0.01, "--threads", 1, "--output", out]
    done = CliRunner().invoke(app, [*map(str, told), "--subject", "deed fp32*", "--subject", "faster* fp32"])
    assert done.exit_code == 0, done.output
    return json.loads((out / "speech.json").read_text()), done.output, out


def test_the_miniature(result):
    report, output, out = result
    assert (
        report["kind"] == "speech" and report["versions"]["transformers"] and report["machine"]["torch_threads"] == 1
    )
    assert [w["workload"] for w in report["workloads"]] == ["short, batch 1", "short, batch 2", "long, batch 1"]
    assert report["model"]["adapter"] == "layer" and report["model"]["exit_layers"] == [1, 3]
    rows = {(r["workload"], r["subject"]): r for r in report["rows"] if r["available"]}
    for workload in report["workloads"]:
        assert workload["sound_s"] > 2 * workload["batch"] and workload["batches"] <= 2
        names = ("deed fp32 full", "deed fp32 exact", "deed fp32 early never")
        assert ((workload["workload"], names[1]) in rows) == (workload["workload"] == "short, batch 1")
        for name in names if workload["workload"] == "short, batch 1" else names[:1]:
            row = rows[workload["workload"], name]
            assert row["same_text_as_transformers"]["same"] == row["same_text_as_transformers"]["of"] > 0, name
            assert sum(row["share"].values()) == pytest.approx(1) and min(row["share"].values()) > 0
    quality = {(q["kind"], q["subject"]): q for q in report["quality"]}
    assert quality["short", "deed fp32 early never"]["tokens_changed"] == 0
    assert quality["short", "deed fp32 early never"]["depth"] == {"mean_depth": 3.0, "mean_layers": 3.0}
    assert quality["short", "deed fp32 early always"]["depth"] == {"mean_depth": 1.0, "mean_layers": 2.0}
    assert quality["long", "deed fp32 full"]["wer_change"]["points"] == 0
    assert {goal["met"] for goal in report["goals"] if "Transformers'" in goal["goal"]} == {True}
    assert "short, batch 2" in output and "Goals" in output and (out / "speech.png").is_file()


def test_a_peer_that_fails_is_in_the_record(result):
    rows = [r for r in result[0]["rows"] if r["subject"].startswith("faster-whisper")]
    assert len(rows) == 3 and not any(r["available"] for r in rows)  # this model is for 16 positions, and it wants 448
    assert all("positions" in r["reason"] or "not installed" in r["reason"] for r in rows)


def test_faster_whisper_alone_and_in_batches(tmp_path, data):
    pytest.importorskip("faster_whisper")
    folder = whole(tmp_path, seconds=30, num_mel_bins=80, max_target_positions=448)
    listener = faster_whisper(folder, "float32", 1)
    short, long = find_sounds(data, "en")
    alone, twice, more = listener.hear(short[:1]), listener.hear(short[:2]), listener.hear(long)
    assert alone.texts == twice.texts[:1] == twice.texts[1:] and len(more.texts) == 1
    for heard in (alone, twice, more):
        assert 0 < heard.features < heard.seconds and 0 < heard.encoder < heard.seconds and heard.decoder > 0


def test_without_exits_and_without_peers(folder, data, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(speech_catalogue.subjects, "faster_whisper", fails)
    subjects = ("deed fp32*", "deed int8 exact", "faster*")
    settings = Settings(
        str(folder), "none", str(data), batches=(1,), long=False, subjects=subjects, minutes=0.01, threads=1
    )
    report = measure_speech(settings)
    missing = {row["subject"]: row["reason"] for row in report["rows"] if not row["available"]}
    assert missing["faster-whisper int8"] == "RuntimeError: no such kernel"
    assert missing["deed fp32 early own"] == missing["deed int8 exact"] == "the model has no trained exits"
    assert not any("early" in goal["goal"] or "faster" in goal["goal"] for goal in report["goals"])


@pytest.mark.parametrize(
    "options, match",
    [
        ({"batches": (0,)}, "--batch"),
        ({"minutes": 0}, "--minutes"),
        ({"threads": 0}, "--threads"),
        ({"isa": "mmx"}, "--isa"),
    ],
)
def test_settings_that_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Settings(**options)


def test_thresholds_of_the_command():
    assert point_of("0.2=0.97") == ("0.2", 0.97)
    assert point_of("own=0.9,2") == ("own", [0.9, 2.0])
    for text in ("0.9", "a=b", "=1", "a=-1", "a="):
        with pytest.raises(ValueError, match="LABEL=NUMBER"):
            point_of(text)


def test_a_subject_that_there_is_not(folder, data):
    settings = Settings(str(folder), "none", str(data), subjects=("deed fp16*",))
    with pytest.raises(ValueError, match="fits none of transformers fp32"):
        measure_speech(settings)


def test_folders_without_recordings(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"no recordings|not a folder"):
            find_sounds(place, None)


def test_the_real_recording():
    short, long = find_sounds(SAMPLES, "en")
    assert [s.name for s in short] == [CLIP.name] and not long
    assert 2 < short[0].seconds < 4 and short[0].text.startswith("The conference")


def test_languages_take_turns():
    sounds = [sound(str(i), language) for i, language in enumerate("en en en fr fr".split())]
    assert [s.name for s in by_language(sounds)] == ["0", "3", "1", "4", "2"]
    assert [[s.name for s in batch] for batch in batches_of(sounds, 2)] == [["0", "1"], ["3", "4"]]
    assert [[s.name for s in batch] for batch in batches_of(sounds, 4)] == [["0", "1", "2"]]


def test_turns_rotate_end_in_time_and_go_on_without_who_fails(monkeypatch):
    order = []

    def listener(name, fails=False, **options):
        def hear(sounds):
            order.append(name)
            if fails:
                raise RuntimeError("broken")
            return Heard(["x"] * len(sounds), 1.0, 0.1, 0.2)

        return Listener(name, hear, **options)

    listeners = {"a": listener("a"), "b": listener("b", fails=True, optional=True), "c": listener("c", most=1)}
    clock = iter(range(100))
    monkeypatch.setattr(speech_turns.time, "perf_counter", lambda: next(clock))
    results = run_turns(listeners, [[sound()] for _ in range(9)], 3.5, SILENT_BAR.update)
    assert order[:3] == ["a", "b", "c"] and "b" not in order[3:] and order.count("c") == 1
    assert 1 <= len(results.inputs) < 9 and results.failed == {"b": "RuntimeError: broken"}
    late = run_turns({"a": listener("a")}, [[sound()] for _ in range(9)], 0.0, SILENT_BAR.update)
    assert len(late.inputs) == 1  # what came before took all the time
    with pytest.raises(RuntimeError):
        run_turns({"b": listener("b", fails=True)}, [[sound()]], 1.0, SILENT_BAR.update)


def test_who_takes_what():
    narrow = Listener("x", None, batches=1, language="en", most=2, long=False)
    assert takes(narrow, [sound()], 1)
    for sounds, done in (([sound()] * 2, 0), ([sound(language="fr")], 0), ([sound()], 2), ([sound(seconds=31)], 0)):
        assert not takes(narrow, sounds, done)


def test_word_errors_by_hand():
    said = sound(text="Yes, it's twenty past nine.")
    assert word_errors("yes it is 20 past 9", said) == (0, 6)
    assert word_errors("yes it was 20 past", said) == (2, 6)
    assert word_errors("what", sound(text="!")) == (1, 0)
    sounds = [sound(text="we will call you"), sound(text="soon")]
    assert wer_of(["we will call", "soon"], sounds) == pytest.approx(20)
    change = wer_change(["we will call", "soon"], ["we will call you", "soon"], sounds)
    assert change["points"] == pytest.approx(20) and change["low"] == 0 and change["high"] == pytest.approx(25)


def test_depths_and_tokens_by_hand():
    found = [Heard([""], 1, 0, 0, [[5, 6, 7, 8]], [[1, 3, 6, 6]])]
    assert depths_of(found, [], True) == {"mean_depth": 4.0, "mean_layers": 4.0}
    # an exit at 1 and one at 3: the first token asks one, the others both
    assert depths_of(found, [1, 3], True) == {"mean_depth": 4.0, "mean_layers": 4.0 + 7 / 4}
    assert depths_of(found, [1, 3], False) == {"mean_depth": 4.0, "mean_layers": 4.0}
    assert depths_of([Heard([""], 1, 0, 0)], [1], True) is None
    full = [Heard([""], 1, 0, 0, [[5, 6, 9, 8, 1]])]
    assert tokens_changed(found, full) == pytest.approx(2 / 5)
    assert tokens_changed([Heard([""], 1, 0, 0)], [Heard([""], 1, 0, 0)]) is None
    config = deed.DeedConfig(exit_layers=[1, 3, 6], threshold=[0.9, 2.0])
    assert asked_exits(config, None) == [1] and asked_exits(config, 0.5) == [1, 3] and asked_exits(config, 2.0) == []


def test_recordings_put_together_are_cut_where_they_were():
    sounds = [sound(seconds=n / RATE) for n in (16001, 7, 31999)]
    clips, starts = joined(sounds)
    cut = [{k: int(v * RATE) for k, v in clip.items()} for clip in clips]  # as faster-whisper does
    assert cut == [{"start": 0, "end": 16001}, {"start": 16001, "end": 16008}, {"start": 16008, "end": 48007}]
    assert starts == [0, 16001 / RATE, 16008 / RATE]


def test_a_stopwatch_leaves_things_as_they_were():
    class Thing:
        def work(self, x):
            return x + 1

    thing = Thing()
    thing.own = abs
    with stopwatch(thing, "work") as a, stopwatch(thing, "own") as b:
        assert thing.work(1) == 2 and thing.own(-1) == 1
    assert a.spent > 0 and b.spent > 0 and vars(thing) == {"own": abs}


def ratio(value):
    return {"median": value, "p25": value, "p75": value, "total": value}


def test_goals_by_hand():
    own, f_w = "full depth of its runtime", "faster-whisper int8"
    rows = [
        ("deed fp32 full", {}, {}, {"same_text_as_transformers": {"same": 3, "of": 4}}),
        ("deed int8 full", {f_w: ratio(1.1)}, {}, {}),
        ("deed int8 exact", {own: ratio(1.0)}, {own: ratio(1.2)}, {}),
        ("deed int8 early 0.2", {own: ratio(1.1)}, {own: ratio(1.4)}, {}),
        ("deed int8 early 0.5", {own: ratio(1.9)}, {own: ratio(1.9)}, {}),
    ]
    report = {"rows": [], "quality": []}
    for name, times, decoder, more in rows:
        at = {"workload": "short, batch 1", "subject": name, "available": True, "runtime": "deed int8"}
        report["rows"].append({**at, "times_faster_than": times, "decoder_times_faster_than": decoder, **more})
        wer = {"points": 0.1 if "0.2" in name else 0.4}
        quality = {
            "kind": "short",
            "subject": name,
            "against": "x",
            "wer_change": wer,
            "tokens_changed": 0.01,
            "layers": 6,
        }
        report["quality"].append({**quality, "depth": {"mean_layers": 4.1}} if "early" in name else quality)
    goals = {(g["goal"].split(",")[0].split(" /")[0], g["subject"]): g for g in goal_rows(report, ["short, batch 1"])}
    met = {key: goal["met"] for key, goal in goals.items()}
    assert met == {
        ("full depth fp32", "deed fp32 full"): False,
        ("full depth int8", "deed int8 full"): True,
        ("exact int8", "deed int8 exact"): False,
        ("early exit at WER +0.3 points at most", "deed int8 early 0.2"): True,
        ("depth", "deed int8 early 0.2"): True,
        ("depth", "deed int8 early 0.5"): True,
    }
    decoder = [g for g in goal_rows(report, ["short, batch 1"]) if "decoder" in g["goal"] and "early" in g["goal"]]
    assert [g["reached"]["median"] for g in decoder] == [1.4] and speech_clips.LONG > speech_clips.SHORT
