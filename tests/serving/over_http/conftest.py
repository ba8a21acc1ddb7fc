"""A server on a port of this machine, with the small models that are shipped and a tiny random Whisper."""

import io
import socket
import threading
import time
import wave

import httpx
import numpy as np
import pytest
import uvicorn
from tasks.tiny_whisper import word_whisper

from deed.serving.app import create_app
from deed.serving.models import Models
from deed.serving.scheduler import Scheduler
from deed.serving.served import ServedModel
from deed.serving.settings import Limits, ServeSettings
from deed.utils.shipped import CHECKPOINTS, shipped

RATE = 16_000


def noise(seconds, seed=0):
    """A wav file of noise."""
    samples = np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * 3000
    return wav(samples.astype(np.int16))


def wav(samples, rate=RATE):
    """A wav file of 16-bit samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


LIMITS = Limits(
    body_bytes=2_000_000,
    pixels=4_000_000,
    pages=3,
    audio_seconds=20,
    text_chars=5000,
    new_tokens=128,
    unpacked_bytes=10**6,
)
FOLDERS = {name: str(shipped(name)) for name in ("documents", "pictures", "pronunciation")}


@pytest.fixture(scope="session")
def loaded():
    """Models loaded once; other servers are made around the same ones."""
    models = Models(ServeSettings(models=tuple(FOLDERS.items()), limits=LIMITS, threads=1))
    models.load()
    whisper, processor = word_whisper()
    models.add(ServedModel("whisper-tiny", whisper, processor, Scheduler(whisper), LIMITS))
    yield models
    models.close()


class Served:
    """An application behind uvicorn in a thread."""

    def __init__(self, app):
        self.app, self.state = app, app.state.server
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=120)
        while True:  # the socket listens already: this waits for the first answer
            if self.http.get("/healthz").status_code == 200:
                break

    def close(self):
        self.http.close()
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="session")
def served(loaded):
    made = Served(create_app(loaded.settings, loaded))
    yield made
    made.close()


@pytest.fixture
def http(served):
    return served.http


@pytest.fixture(scope="session")
def invoice():
    return (CHECKPOINTS.parent / "data" / "samples" / "invoice.pdf").read_bytes()


def png(size=(64, 48), color="red"):
    """A picture file."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


def events(text):
    """Server-sent events as `(name, data)`."""
    import json

    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def eventually(holds, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)
