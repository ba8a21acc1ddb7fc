"""Exits saved alone, on models that are served: named, left out, or those that came with deed."""

import pytest
import torch
from test_whisper_ctranslate2 import whole

import deed
from deed.cli.serve import exits_of
from deed.modeling.exits_folder import shipped_exits
from deed.models.whisper import read_ctranslate2_whisper
from deed.serving.folders import served_folder
from deed.serving.models import Models
from deed.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "whisper"
    folder.mkdir()
    return whole(folder)


@pytest.fixture(scope="module")
def exits(whisper):
    place = whisper.parent / "shipped" / "whisper"
    deed.get_deed_model(read_ctranslate2_whisper(whisper), deed.DeedConfig(threshold=0.25)).save_exits(
        place, dtype=torch.float16
    )
    return place


def served(folder, exits=()):
    found = Models(ServeSettings(models=(("speech", str(folder)),), exits=exits))
    try:
        found.load()
        [one] = found.all()
        return one.has_exits, one.model.deed_config.threshold
    finally:
        found.close()


def test_which_exits_a_served_model_gets(whisper, exits, monkeypatch):
    assert served(whisper) == (False, 0.9)
    assert served(whisper, (("speech", str(exits)),)) == (True, 0.25)
    monkeypatch.setattr(shipped_exits, "__defaults__", (exits.parent,))
    assert served(whisper) == (True, 0.25)
    assert served(whisper, (("speech", "none"),)) == (False, 0.9)


def test_a_ctranslate2_whisper_is_served_as_speech(whisper):
    assert served_folder("speech", str(whisper)).tasks == ("transcribe",)


def test_the_option(exits, tmp_path):
    assert exits_of(f"speech={exits}") == ("speech", str(exits))
    assert exits_of("speech=none") == ("speech", "none")
    for text in (str(exits), f"speech={tmp_path / 'nowhere'}"):
        with pytest.raises(ValueError, match="must be NAME=FOLDER or NAME=none"):
            exits_of(text)
    settings = ServeSettings(models=(("speech", "x"),), exits=(("speech", "none"),))
    assert ServeSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(ValueError, match="exits are for the model 'other', which is none of speech"):
        ServeSettings(models=(("speech", "x"),), exits=(("other", "none"),))
