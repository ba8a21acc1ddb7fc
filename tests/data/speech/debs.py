"""Small Debian packages of recorded prompts, as asterisk-core-sounds-* are: made by dpkg-deb, of tones instead of voices."""

import gzip
import subprocess
import wave
from io import BytesIO

import numpy as np

RATE = 8000


def tone(seconds, pitch=300.0, rate=RATE):
    """A wav file's bytes."""
    t = np.arange(round(seconds * rate)) / rate
    samples = (np.sin(2 * np.pi * pitch * t) * 0.3 * 32767).astype("<i2")
    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


def make_deb(folder, name, files):
    """`NAME_1.0_all.deb` in `folder`, with files by their paths."""
    root = folder / f".{name}"
    control = root / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x.x>\nDescription: x\n")
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
    package = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", root, package], check=True, capture_output=True)
    return package


def prompts(folder, language="en", count=60, seconds=1.0, lines=(), extra=None):
    """The two packages of a voice: recordings in wav under the name of a g722 package, and texts."""
    sounds = f"usr/share/asterisk/sounds/{language}_XX_f_Nobody"
    texts = [f"; prompts in {language}", "", *(f"p{i}: Number {i} of {language}." for i in range(count)), *lines]
    recordings = {f"{sounds}/p{i}.wav": tone(seconds + i % 3, 200 + 10 * i) for i in range(count)}
    make_deb(folder, f"asterisk-core-sounds-{language}-g722", {**recordings, **(extra or {})})
    text = "\n".join(texts).encode()
    about = f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    make_deb(folder, f"asterisk-core-sounds-{language}", {about: text})
    return sounds
