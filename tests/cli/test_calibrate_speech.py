"""`deed calibrate --task speech`, in this process, with a tiny Whisper and packages of tones: exits of its own, exits saved
alone, and what is refused."""

import json

import pytest
import torch
import typer
from tasks.tiny_whisper import save_tiny_whisper
from typer.testing import CliRunner

import deed
from data.speech.debs import prompts
from deed.cli import calibrate
from deed.constants import NEVER_EXIT
from deed.modeling.exits_folder import ABOUT_FILE, read_about

BOUNDS = ("--task", "speech", "--risk", 0.4, "--confidence", 0.6)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of a plain tiny Whisper, of the same with exits, of these alone, and of recordings."""
    root = tmp_path_factory.mktemp("calibrated")
    plain, whole, alone, data = (root / name for name in ("plain", "whole", "alone", "data"))
    model, processor = save_tiny_whisper(plain)
    model = deed.get_deed_model(model, deed.DeedConfig(exit_layers=[1, 3], adapter="layer", threshold=0.5))
    model.save_exits(alone, dtype=torch.float16)
    model.save_pretrained(whole)
    processor.save_pretrained(whole)
    data.mkdir()
    prompts(data, "en", count=120)
    return plain, whole, alone, data


def run(*arguments):
    app = typer.Typer()
    calibrate.register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_recordings_are_what_is_counted(places):
    _, whole, _, data = places
    done = run(whole, *BOUNDS, "--data", data, "--threshold", 0.9999, "--threshold", 0.9, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["metric"] == "word_accuracy" and report["divided_by"] == 1
    assert report["examples"] >= 3  # recordings, joined of 12 prompts or so
    assert all(0 <= row["loss"] <= 1 for row in report["tested"])
    assert report["generate"]["language"] == "en"
    saved = json.loads((whole / "config.json").read_text())["deed_config"]
    assert saved["calibration"] == report and saved["threshold"] == report["threshold"]


def test_exits_saved_alone_are_updated_in_the_models_place(places):
    plain, _, alone, data = places
    before, config = (alone / "deed_exits.safetensors").read_bytes(), (plain / "config.json").read_bytes()
    base, _ = read_about(alone)
    done = run(plain, "--exits", alone, *BOUNDS, "--data", data, "--threshold", 0.9)
    assert done.exit_code == 0, done.output
    assert ABOUT_FILE in done.stdout.replace("\n", "")
    again, found = read_about(alone)
    assert again == base and found.calibration["metric"] == "word_accuracy"
    assert found.threshold == found.calibration["threshold"] in (0.9, NEVER_EXIT)
    assert (plain / "config.json").read_bytes() == config
    assert (alone / "deed_exits.safetensors").read_bytes() == before
    assert deed.load_exits(plain, alone).deed_config.threshold == found.threshold


def test_what_is_refused(places):
    plain, whole, alone, data = places
    for arguments, message in (
        ((plain, "--task", "speech"), "has no exits of its own to calibrate; give those"),
        ((plain, "--exits", plain, "--task", "speech"), "no folder with exits alone"),
        ((plain, "--exits", alone, "--answers"), "--answers needs a model that was saved with its exits"),
        ((whole, "--task", "speech", "--data", data, "--risk", 0.002), "needs at least 1497 examples"),
    ):
        config = (arguments[0] / "config.json").read_bytes()
        done = run(*arguments)
        assert done.exit_code and message in str(done.exception), (arguments, done.output, done.exception)
        assert (arguments[0] / "config.json").read_bytes() == config
