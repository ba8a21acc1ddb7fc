"""What `deed serve` is told: models, address, keys and limits, checked once. Needs no PyTorch: the command and the watchdog
read it, and hand it to the worker process as JSON."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and all of them together. What is above is refused before it costs memory or time.

    Attributes:
        body_bytes: of a request.
        pixels: of a picture, and of a picture inside a PDF; told from headers, before anything is decoded.
        pages: of a PDF or TIFF.
        unpacked_bytes: what a `.pdf.gz` may hold.
        audio_seconds: of a recording.
        text_chars: of a text, or a question.
        texts: of one request (LibreTranslate's lists).
        new_tokens: of one answer (of each piece of a long input).
        deadline_s: until a request has to be answered, and the most it may ask for.
        queue: requests that may wait for a model; more get status 429.
        cache_bytes: keys and values of running rows.
        readers: files read at once (decoding of pictures, OCR, sound).
        reading_bytes: memory of the process that decodes one of them; `reading_s` seconds of a processor that it may take.
    """

    body_bytes: int = 25 * MIB
    pixels: int = 40_000_000
    pages: int = 100
    unpacked_bytes: int = 100 * MIB
    audio_seconds: float = 3600.0
    text_chars: int = 100_000
    texts: int = 64
    new_tokens: int = 1024
    deadline_s: float = 300.0
    queue: int = 256
    cache_bytes: int = 1 << 30
    readers: int = 2
    reading_bytes: int = 2048 * MIB
    reading_s: float = 30.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
                raise ValueError(f"limit {item.name} must be a number above 0, got {value!r}")


@dataclass(frozen=True)
class ServeSettings:
    """Everything a server is started with.

    Attributes:
        models: `(name, folder)`; the first is the default of its kind.
        host: address to listen on; `port` 0 picks a free one.
        keys: one of them must come with a request; none: nobody is asked.
        origins: of web pages elsewhere that may call; none: only the server's own page.
        device: where models are; None: the CPU.
        threads: of PyTorch; None: its own choice.
        int8: linear layers in int8 (`deed.quantize`).
        memory: bytes that models and their keys and values may take together; those that do not fit are loaded when they are
            asked for, and the one that was idle for longest makes room. None: all are loaded.
        exits: `(name, folder)` of exits saved alone, by the model's name, or `"none"`; a model without gets those that came
            with deed for its weights, where there are any.
        limits: see `Limits`.
        drain_s: how long running requests may take once the server is told to end.
        hang_s: how long a step, or the event loop, may stand still before the worker is started again.
        ocr: engine for pages without text of their own.
        drift: one request of so many is decoded once more at full depth (`deed.serving.drift`); 0: none.
        drift_rise: where answers differ too often, the threshold rises.
    """

    models: tuple[tuple[str, str], ...]
    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    device: str | None = None
    threads: int | None = None
    int8: bool = False
    memory: int | None = None
    exits: tuple[tuple[str, str], ...] = ()
    limits: Limits = Limits()
    drain_s: float = 30.0
    hang_s: float = 120.0
    ocr: str = "rapidocr"
    drift: int = 0
    drift_rise: bool = False

    def __post_init__(self) -> None:
        names = [name for name, _ in self.models]
        if not names:
            raise ValueError("a server needs a model")
        if len(set(names)) < len(names):
            raise ValueError(f"two models have the same name: {', '.join(names)}; name one with NAME=FOLDER")
        if unknown := [name for name, _ in self.exits if name not in names]:
            raise ValueError(f"exits are for the model {unknown[0]!r}, which is none of {', '.join(names)}")
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port must be 0 (any free one) to 65535, got {self.port}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"memory must be at least 1 byte, got {self.memory}")
        if self.drift < 0:
            raise ValueError(f"drift must be at least 0, got {self.drift}")
        for name in ("drain_s", "hang_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of seconds above 0, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, keys included: for the worker's pipe, never for a log."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ServeSettings:
        """The inverse of `to_dict`."""
        pairs = {n: tuple((str(a), str(b)) for a, b in values[n]) for n in ("models", "exits")}
        tuples = {name: tuple(values[name]) for name in ("keys", "origins")}
        return cls(**{**values, **tuples, **pairs, "limits": Limits(**values["limits"])})


def check_exposure(host: str, has_keys: bool, no_auth: bool) -> None:
    """Refuse to listen where others can reach the server and nobody is asked for a key.

    Args:
        host: to listen on.
        has_keys: whether requests need one.
        no_auth: the user says that this is meant.

    Raises:
        ValueError: open to the network without a key; or both a key and `--no-auth`.
    """
    if has_keys and no_auth:
        raise ValueError("--no-auth says that nobody is asked for a key, and a key was given; leave one of them out")
    if not has_keys and not no_auth and not is_loopback(host):
        raise ValueError(
            f"--host {host} can be reached by other machines: give --api-key-file (or the variable DEED_API_KEY), or say "
            "--no-auth where that is meant"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def choose_kernels_alike() -> None:
    """In a process that serves: multiply as every other such process does, unless `DEED_KERNELS` says otherwise. Where kernels
    are chosen by measured times, two replicas may choose differently, and answer differently where two tokens are as good as
    tied."""
    os.environ.setdefault("DEED_KERNELS", "fixed")
