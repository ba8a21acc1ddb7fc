"""A server on a port of this machine, with the small models that are shipped and a tiny random Whisper."""

import io
import socket
import threading
import time
import wave

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from tokenizers import Tokenizer, decoders, models
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from deed import DeedConfig, get_deed_model
from deed.cli.serve import SHIPPED
from deed.cli.shared import CHECKPOINTS
from deed.serving.app import create_app
from deed.serving.models import Models
from deed.serving.scheduler import Scheduler
from deed.serving.served import ServedModel
from deed.serving.settings import Limits, ServeSettings

SPECIAL = ["<pad>", "</s>", "<start>", "<|en|>", "<|de|>", "<translate>", "<transcribe>", "<prev>", "<notimestamps>"]
TIMES = [f"<|{0.02 * i:.2f}|>" for i in range(101)]
VOCAB = [*SPECIAL[:2], *(f" w{i}" for i in range(30)), *SPECIAL[2:], *TIMES]
RATE = 16_000


class WhisperProcessor:
    """A feature extractor and a tokenizer, as a processor holds them."""

    def __init__(self):
        inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCAB)}, unk_token=" w0"))
        inner.decoder = decoders.Fuse()  # words bring their spaces
        self.feature_extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token=" w0",
            additional_special_tokens=[*SPECIAL[2:], *TIMES],
        )


def tiny_whisper():
    index = {token: i for i, token in enumerate(VOCAB)}
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = WhisperConfig(
        vocab_size=len(VOCAB),
        d_model=16,
        **{**sizes, "decoder_layers": 3, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        num_mel_bins=8,
        max_source_positions=100,
        max_target_positions=32,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": index["<start>"]},
        begin_suppress_tokens=None,
        suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3 if p.ndim > 1 else 0.1)
        model.model.decoder.embed_tokens.weight[index[TIMES[0]] :] *= 0.3  # words are likelier than times
    vars(model.generation_config).update(
        is_multilingual=True,
        lang_to_id={"<|en|>": index["<|en|>"], "<|de|>": index["<|de|>"]},
        task_to_id={"translate": index["<translate>"], "transcribe": index["<transcribe>"]},
        no_timestamps_token_id=index["<notimestamps>"],
        prev_sot_token_id=index["<prev>"],
        max_initial_timestamp_index=50,
        alignment_heads=[[1, 0], [2, 1]],
        max_length=20,
        suppress_tokens=[0, 1, *(index[token] for token in SPECIAL[2:])],  # it says words until it has to end
    )
    return get_deed_model(model, DeedConfig(threshold=0.5)), WhisperProcessor()


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
FOLDERS = {name: str(CHECKPOINTS / folder) for name, folder in SHIPPED.items()}


@pytest.fixture(scope="session")
def loaded():
    """Models loaded once; other servers are made around the same ones."""
    models = Models(ServeSettings(models=tuple(FOLDERS.items()), limits=LIMITS, threads=1))
    models.load()
    whisper, processor = tiny_whisper()
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
