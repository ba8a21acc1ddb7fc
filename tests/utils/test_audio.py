"""Sound files of every kind that people have, written here by PyAV; and what is no sound."""

import av
import numpy as np
import pytest

from deed.errors import DataError
from deed.utils.audio import load_audio

SECONDS, RATE = 0.5, 22_050


def tone(rate=RATE, seconds=SECONDS, channels=1):
    t = np.arange(int(rate * seconds)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * 440 * t)[None].astype(np.float32), channels, 0)


def write(path, codec, channels=1, rate=44_100, seconds=SECONDS):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        frame = av.AudioFrame.from_ndarray(tone(rate, seconds, channels), format="fltp", layout=stream.layout.name)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, stream.layout.name, rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


KINDS = [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.m4a", "aac")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_every_kind_is_the_same_tone(tmp_path, name, codec):
    rate = 48_000 if codec == "libopus" else 44_100
    samples = load_audio(write(tmp_path / name, codec, channels=2, rate=rate))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(SECONDS * 16_000, abs=1600)  # lossy formats pad
    middle = samples[2000:6000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 16_000 / len(middle) == pytest.approx(440, abs=5)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.1)


def test_bytes_arrays_and_mappings(tmp_path):
    path = write(tmp_path / "a.wav", "pcm_s16le", rate=16_000)
    samples = load_audio(path)
    assert np.array_equal(load_audio(path.read_bytes()), samples)
    assert np.array_equal(load_audio(samples), samples)
    assert np.allclose(load_audio(np.stack([samples, samples])), samples)
    assert np.allclose(load_audio({"array": samples, "sampling_rate": 16_000}), samples)
    assert np.allclose(load_audio((samples * 32768).round().astype(np.int16)), samples, atol=1e-4)
    stereo = np.stack([samples, samples])
    for whole in ((stereo * 32768).round().astype(np.int16), ((stereo * 128) + 128).round().astype(np.uint8).T):
        assert np.allclose(load_audio(whole), samples, atol=0.01)
    half = load_audio({"raw": tone()[0], "sampling_rate": RATE})
    assert len(half) == pytest.approx(SECONDS * 16_000, abs=200)


def test_what_is_no_sound(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("not a sound " * 200)
    cases = {
        "no such file": tmp_path / "none.wav",
        "is a folder": tmp_path,
        "is empty": tmp_path / "empty.wav",
        "damaged or no sound": tmp_path / "text.mp3",
        "no bytes": b"",
        'needs "array"': {"sampling_rate": 3},
        "not finite": np.array([0.0, np.nan]),
        "not empty": np.zeros((0,)),
        "sampling_rate must be": {"array": [0.0], "sampling_rate": 0},
    }
    for message, source in cases.items():
        with pytest.raises(DataError, match=message):
            load_audio(source)
    with pytest.raises(TypeError, match="got int"):
        load_audio(3)


def test_too_long(tmp_path):
    with pytest.raises(DataError, match="longer than"):
        load_audio(write(tmp_path / "a.wav", "pcm_s16le"), max_seconds=0.1)


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    whole = write(tmp_path / "a.mp3", "libmp3lame", seconds=4).read_bytes()
    part = load_audio(whole[: len(whole) // 2])
    assert 16_000 < len(part) < 3 * 16_000


def test_pictures_without_sound(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(DataError, match="no sound in it"):
        load_audio(tmp_path / "v.mp4")
