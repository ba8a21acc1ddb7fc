"""Recorded prompts out of Debian packages: what is read, what is left out, and that no sentence is in two splits."""

import numpy as np
import pytest

from data.speech.debs import make_deb, prompts, tone
from deed.data.speech.clips import load_clips, read_transcripts, same_sentence
from deed.data.speech.packages import fetch, find_package, package_names, read_package
from deed.errors import DataError
from deed.utils.audio import load_audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds")
    sounds = "usr/share/asterisk/sounds/en_XX_f_Nobody"
    extra = {
        f"{sounds}/beep.wav": tone(0.2),
        f"{sounds}/silence/1.wav": tone(1.0),
        f"{sounds}/letters/at.wav": tone(0.5),
        f"{sounds}/again.wav": tone(1.5),
        f"{sounds}/noted.wav": tone(1.5),
        f"{sounds}/broken.wav": b"RIFF and nothing else",
    }
    lines = ["beep: [this is a simple beep tone]", "letters/at: at [@]", "again: number 3, of EN!"]
    lines += ["noted: Press pound. (simple tone sound plays)", "broken: Broken."]
    prompts(path, "en", lines=lines, extra=extra)
    # another voice, without texts, whose prompts have some of the names
    sounds = "usr/share/asterisk/sounds/fr"
    make_deb(path, "asterisk-prompt-fr-armelle", {f"{sounds}/p{i}.gsm": b"\xd0" * 33 * 100 for i in range(20)})
    prompts(path, "fr", count=20)
    return path


def test_transcripts():
    text = "\ufeff; comment: no prompt\n\na: Hello.\nb/c: [ascending tones]\nd: at [@]\ne: say (once) this\nf:   \nno prompt"
    assert read_transcripts(text) == {"a": "Hello.", "b/c": None, "d": "at", "e": "", "f": None}


def test_a_sentence_without_its_looks():
    assert same_sentence(" Número  3, por favor!") == same_sentence("número 3 por favor") == "número 3 por favor"


def test_what_is_no_speech_is_left_out(folder):
    clips = {clip.name: clip for clip in load_clips(folder) if clip.language == "en"}
    assert len(clips) == 60 + 3
    assert not {"beep", "silence/1", "broken"} & set(clips)
    assert clips["letters/at"].text == "at"
    assert clips["noted"].text == ""  # a note that may have been spoken
    assert clips["p1"].text == "Number 1 of en." and clips["p1"].seconds == 2.0


def test_samples_at_whispers_rate(folder):
    clips = load_clips(folder)
    wav = next(clip for clip in clips if clip.suffix == ".wav")
    gsm = next(clip for clip in clips if clip.suffix == ".gsm")
    assert wav.samples().dtype == np.float32
    assert abs(len(wav.samples()) - wav.seconds * 16_000) < 200
    assert gsm.seconds == 2.0 and abs(len(gsm.samples()) - 32_000) < 200
    assert 0.25 < np.abs(wav.samples()).max() < 0.35


def test_headerless_sound_has_to_be_named():
    silence = b"\xfa" * 8000  # G.722, 64,000 bits a second
    assert abs(len(load_audio(silence, suffix=".g722")) - 16_000) < 100
    with pytest.raises(DataError, match="damaged or no sound file"):
        load_audio(silence)


def test_a_sentence_and_a_name_are_in_one_split(folder):
    clips = load_clips(folder)
    assert {clip.split for clip in clips} == {"train", "validation", "test"}
    by_name, by_text = {}, {}
    for clip in clips:
        by_name.setdefault((clip.language, clip.name), set()).add(clip.split)
        if clip.text:
            by_text.setdefault((clip.language, same_sentence(clip.text)), set()).add(clip.split)
    assert all(len(splits) == 1 for splits in [*by_name.values(), *by_text.values()])
    assert len({c.split for c in clips if c.name in ("p3", "again") and c.language == "en"}) == 1
    voices = {clip.speaker for clip in clips if clip.language == "fr"}
    assert len(voices) == 2  # two takes of p0 … p19, divided together


def test_the_order_and_the_splits_do_not_change(folder):
    first = [(clip.speaker, clip.name, clip.split) for clip in load_clips(folder)]
    assert first == [(clip.speaker, clip.name, clip.split) for clip in load_clips(folder)]


def test_a_voice_that_is_held_out(tmp_path):
    sounds = "usr/share/asterisk/sounds/es"
    make_deb(tmp_path, "asterisk-prompt-es-co", {f"{sounds}/p{i}.gsm": b"\xd0" * 3300 for i in range(20)})
    assert {clip.split for clip in load_clips(tmp_path)} == {"new_voice"}


def test_a_folder_without_packages(tmp_path):
    with pytest.raises(DataError, match="none of the packages"):
        load_clips(tmp_path)


def test_a_damaged_package(tmp_path):
    (tmp_path / "asterisk-prompt-es-co_1_all.deb").write_bytes(b"no package")
    with pytest.raises(DataError, match="damaged or no Debian package"):
        load_clips(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        list(read_package(tmp_path / "x.deb", (".wav",)))


def test_a_damaged_recording(folder):
    clip = load_clips(folder)[0]
    broken = type(clip)(clip.speaker, clip.language, clip.name, clip.text, clip.suffix, b"RIFF", clip.seconds)
    with pytest.raises(DataError, match=f"{clip.speaker}'s prompt {clip.name}"):
        broken.samples()


def test_packages_that_are_there_are_not_fetched(folder, tmp_path):
    assert fetch(["asterisk-core-sounds-en"], folder, client="no-such-client") == {}
    with pytest.raises(DataError, match="no-such-client"):
        fetch(["asterisk-core-sounds-en"], tmp_path / "new", client="no-such-client")
    failed = fetch(["asterisk-core-sounds-en"], tmp_path / "new", client="false")
    assert failed == {"asterisk-core-sounds-en": "nothing was downloaded"}


def test_names():
    assert len(package_names()) == len(set(package_names())) == 13


def test_the_newest_of_several(tmp_path):
    for version in ("1.0", "1.2"):
        (tmp_path / f"a_{version}_all.deb").touch()
    assert find_package("a", tmp_path).name == "a_1.2_all.deb"
    assert find_package("b", tmp_path) is None
