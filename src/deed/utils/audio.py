"""The one place that opens sound: mono float samples at a model's rate from a file of any kind (through PyAV, which brings its
own FFmpeg), or one clear error for what is missing, empty, broken or too long."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deed.errors import DataError

from .optional import need

INSTALL = 'pip install "deed-transformers[speech]"'
RATE = 16_000  # samples a second, of Whisper, Moonshine and most others
MAX_SECONDS = 6 * 3600.0
# Containers that hold their sound themselves. Playlists (HLS, DASH, concat) name files and addresses, which FFmpeg would open.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,g722,gsm,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,"
    "tta,voc,w64,wav,wv"
)
# Without a header, so that only their names tell what they are: FFmpeg's name, and bytes a second.
HEADERLESS = {
    ".g722": ("g722", 8000.0),
    ".gsm": ("gsm", 1650.0),
    ".alaw": ("alaw", 8000.0),
    ".ulaw": ("mulaw", 8000.0),
}

# Names of sound and video files end so, where a folder is searched for them.
SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".g722", ".gsm", ".mka",
            ".mp4", ".mkv", ".webm", ".mov", ".avi")  # fmt: skip


class TooLong(DataError):
    """A recording of more seconds than were allowed."""


def load_audio(source: Any, rate: int = RATE, max_seconds: float = MAX_SECONDS, suffix: str = "") -> np.ndarray:
    """Sound as `[samples]` float32 on -1..1, mono.

    Args:
        source: a path (wav, mp3, flac, ogg, m4a, the sound of a video …), the bytes of such a file, `[samples]` or
            `[channels, samples]` numbers at `rate`, or a mapping with `"array"` (or `"raw"`) and `"sampling_rate"`, as
            `datasets` and Transformers have it.
        rate: samples a second wanted.
        max_seconds: more is refused before it fills the memory.
        suffix: of bytes, how their file's name ends, where they do not say themselves what they are (see `HEADERLESS`).

    Raises:
        DataError: missing, empty, broken, without sound, or too long. Names the file.
        TypeError: something else.
    """
    if isinstance(source, Mapping):
        samples = source.get("array", source.get("raw"))
        if samples is None or "sampling_rate" not in source:
            raise DataError('sound as a mapping needs "array" (or "raw") and "sampling_rate"')
        return _resampled(_mono(samples), int(source["sampling_rate"]), rate)
    if isinstance(source, bytes | bytearray | memoryview):
        if not len(source):
            raise DataError("the sound is empty: no bytes")
        return _decoded(io.BytesIO(bytes(source)), "the sound", rate, max_seconds, suffix)
    if isinstance(source, str | os.PathLike):
        file = Path(source)
        if not file.is_file():
            raise DataError(f"{file}: {'is a folder, not a file' if file.is_dir() else 'no such file'}")
        if not file.stat().st_size:
            raise DataError(f"{file} is empty")
        return _decoded(str(file), str(file), rate, max_seconds, file.suffix.lower())
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        return _mono(source)
    raise TypeError(f"sound is a path, bytes, an array or a mapping, got {type(source).__name__}")


def _mono(samples: Any) -> np.ndarray:
    values = np.asarray(samples)
    if values.dtype == np.uint8:  # as in 8-bit wav files, silence is 128
        values = (values.astype(np.float32) - 128) / 128
    elif np.issubdtype(values.dtype, np.integer):
        values = values / -float(np.iinfo(values.dtype).min or -1)
    if values.ndim == 2:
        # [channels, samples], or the other way round where there are more rows than a recording has channels
        values = values.mean(0 if values.shape[0] <= values.shape[1] else 1)
    if values.ndim != 1 or not values.size:
        raise DataError(f"sound must be [samples] or [channels, samples] and not empty, got {list(values.shape)}")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("the sound holds numbers that are not finite")
    return values


def _resampled(samples: np.ndarray, given: int, rate: int) -> np.ndarray:
    if given == rate:
        return samples
    if given < 1:
        raise DataError(f"sampling_rate must be at least 1, got {given}")
    av = need("av", INSTALL)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = given
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in frames])


def _decoded(file: Any, name: str, rate: int, max_seconds: float, suffix: str = "") -> np.ndarray:
    av = need("av", INSTALL)
    # Channels are averaged here: FFmpeg's own mono of float samples is their sum times 0.7.
    resampler = av.AudioResampler(format="fltp", rate=rate)
    parts: list[np.ndarray] = []
    left = math.ceil(max_seconds * rate)
    try:
        form = HEADERLESS[suffix][0] if suffix in HEADERLESS else None
        allowed = FORMATS if form is None else form
        with av.open(file, mode="r", format=form, options={"format_whitelist": allowed}) as container:
            if not container.streams.audio:
                raise DataError(f"{name} has no sound in it")
            for frame in container.decode(container.streams.audio[0]):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().mean(0))
                    left -= parts[-1].size
                if left < 0:
                    raise TooLong(f"{name} is longer than {max_seconds / 3600:g} hours; cut it first")
            parts += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    except av.error.FFmpegError as error:
        if not parts:
            raise DataError(f"{name} is damaged or no sound file: {error.strerror}") from None
        # A file cut off at its end: what was there is read, as players do.
    if not sum(part.size for part in parts):
        raise DataError(f"{name} holds no sound: it has no samples")
    return np.concatenate(parts)
