"""Who transcribes in `deed bench speech`: Transformers, faster-whisper and deed, all with the same settings.

Greedy (one beam, no sampling), the language told, no second try at a higher temperature, no voice detection, nothing
conditioned on what was said before. Up to thirty seconds no timestamps; longer recordings are cut by them, as Whisper's
authors do, so there all write them. Time counts from samples to text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deed.utils.timing import timed_encoder

from .shapes import NotAvailable
from .speech_clips import SHORT, Sound

GREEDY = {"do_sample": False, "num_beams": 1}
RATE = 16_000


@dataclass
class Heard:
    """A batch, transcribed.

    Attributes:
        texts: of each recording.
        seconds: from samples to texts; of them `features` for mel spectrograms, `encoder` in the encoder.
        tokens: generated, of each recording; empty where the runtime does not tell.
        depths: of each token; empty where there is none.
        drafts, accepted: of exact decoding: tokens drafted, and those that stood.
    """

    texts: list[str]
    seconds: float
    features: float
    encoder: float
    tokens: list[list[int]] = field(default_factory=list)
    depths: list[list[int]] = field(default_factory=list)
    drafts: int = 0
    accepted: int = 0

    @property
    def decoder(self) -> float:
        """Seconds of all else: the decoder, and what is around it."""
        return self.seconds - self.features - self.encoder


@dataclass
class Listener:
    """One way of transcribing.

    Attributes:
        runtime: what it shares with others that are compared at different depths, such as `"deed int8"`.
        hear: a batch of one language to what was heard.
        batches: largest batch.
        language: the only one that it can be measured on; None: any.
        most: batches that it is measured on at most, where it takes long; None: all.
        long: whether it takes recordings of more than thirty seconds.
        threshold: of exits; None: their own.
        optional: a failure of any kind is a finding about another library, not a bug here.
    """

    runtime: str
    hear: Callable[[Sequence[Sound]], Heard]
    batches: int = 1 << 20
    language: str | None = None
    most: int | None = None
    long: bool = True
    threshold: Any = None
    optional: bool = False


def is_long(sounds: Sequence[Sound]) -> bool:
    """Whether a batch goes the way of long recordings."""
    return any(sound.seconds > SHORT for sound in sounds)


# -- Transformers and deed ----------------------------------------------------------------------------------------------


def told(model: Any, language: str) -> dict[str, Any]:
    """Options of `generate()` that say what is spoken; a model for English alone is told nothing."""
    return {"language": language, "task": "transcribe"} if model.generation_config.is_multilingual else {}


def features_of(extractor: Any, samples: Sequence[np.ndarray], long: bool) -> Any:
    """Mel spectrograms, of thirty seconds or of the whole of a long recording, and a mask.

    Args:
        extractor: of the model.
        samples: of each recording.
        long: whether one of them is longer than thirty seconds.
    """
    given: dict[str, Any] = {"sampling_rate": RATE, "return_tensors": "pt", "return_attention_mask": True}
    return extractor(list(samples), **given, **({"truncation": False, "padding": "longest"} if long else {}))


def generated(
    model: Any,
    extractor: Any,
    sounds: Sequence[Sound],
    options: Mapping[str, Any],
    read: Callable[[Any], tuple[list[str], list[list[int]]]],
) -> tuple[Heard, Any]:
    """A batch transcribed by a model's `generate()`, and what that returned.

    Args:
        model: a Whisper, plain or deed's.
        extractor: of its features.
        sounds: of one language.
        options: of `generate()`, beside those that all share.
        read: texts and tokens of what `generate()` returned; its time counts.
    """
    samples, long = [sound.samples for sound in sounds], is_long(sounds)
    with torch.no_grad(), timed_encoder(model) as clock:
        start = time.perf_counter()
        inputs = features_of(extractor, samples, long)
        features = time.perf_counter() - start
        spoken = told(model, sounds[0].language)
        found = model.generate(**inputs, **GREEDY, **spoken, return_timestamps=long, **options)
        texts, tokens = read(found)
        return Heard(texts, time.perf_counter() - start, features, clock.take(), tokens), found


def transformers(model: Any, processor: Any, assistant: tuple[Any, Any] | None = None) -> Listener:
    """Transformers' own `generate()`.

    Args:
        model: the plain model.
        processor: its processor.
        assistant: a smaller model that drafts, and its tokenizer, where that is another: one recording at a time.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    options: dict[str, Any] = {}
    if assistant is not None:
        options = {"assistant_model": assistant[0], "tokenizer": tokenizer, "assistant_tokenizer": assistant[1]}

    def read(found: Any) -> tuple[list[str], list[list[int]]]:
        return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)], []

    def hear(sounds: Sequence[Sound]) -> Heard:
        return generated(model, extractor, sounds, options, read)[0]

    if assistant is None:
        return Listener("transformers fp32", hear)
    return Listener("transformers assisted", hear, batches=1, language="en", most=3, long=False, optional=True)


def deed(model: Any, processor: Any, precision: str, threshold: Any = None, exact: bool = False) -> Listener:
    """deed, as `deed.pipeline("transcribe")` asks it.

    Args:
        model: the deed model.
        processor: its processor.
        precision: `"fp32"` or `"int8"`, for its name.
        threshold: of exits, or of drafts; None: the model's own.
        exact: drafts are verified.
    """
    # Only segments tell of depths, since of a long recording there are several generations.
    options: dict[str, Any] = {"return_segments": True, "return_dict_in_generate": False}
    if exact:
        options["exact"] = True
    if threshold is not None:
        options["exit_threshold"] = threshold
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    pad = model.generation_config.pad_token_id

    def read(found: Any) -> tuple[list[str], list[list[int]]]:
        tokens = [[token for token in row if token != pad] for row in found["sequences"].tolist()]
        return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens], tokens

    def hear(sounds: Sequence[Sound]) -> Heard:
        heard, found = generated(model, extractor, sounds, options, read)
        heard.depths = [
            [depth for segment in segments if "exit_layers" in segment for depth in segment["exit_layers"].tolist()]
            for segments in found["segments"]
        ]
        return heard

    return Listener(f"deed {precision}", hear, threshold=threshold)


# -- faster-whisper -----------------------------------------------------------------------------------------------------


def faster_whisper(folder: Path, compute_type: str, threads: int) -> Listener:
    """faster-whisper on the same folder; batches by its own batched pipeline.

    Args:
        folder: of CTranslate2's format.
        compute_type: `"float32"` or `"int8"`.
        threads: of CTranslate2.

    Raises:
        NotAvailable: it is not installed.
    """
    try:
        from faster_whisper import BatchedInferencePipeline, WhisperModel
    except ImportError:
        raise NotAvailable("faster-whisper is not installed: pip install faster-whisper") from None

    model = WhisperModel(str(folder), device="cpu", compute_type=compute_type, cpu_threads=threads)
    batched = BatchedInferencePipeline(model)
    greedy = {"task": "transcribe", "beam_size": 1, "temperature": 0.0, "vad_filter": False}
    # What would have a window tried again, or left out as silence.
    rules = {"compression_ratio_threshold": None, "log_prob_threshold": None, "no_speech_threshold": None}

    def hear(sounds: Sequence[Sound]) -> Heard:
        code = sounds[0].language
        clips, start = joined(sounds)
        together = np.concatenate([sound.samples for sound in sounds])
        with stopwatch(model, "encode") as encoder, stopwatch(model, "feature_extractor") as features:
            began = time.perf_counter()
            if len(sounds) == 1:
                segments, _ = model.transcribe(
                    together,
                    language=code,
                    without_timestamps=not is_long(sounds),
                    condition_on_previous_text=False,
                    **greedy,
                    **rules,
                )
                texts = ["".join(segment.text for segment in segments).strip()]
            else:
                found, _ = batched.transcribe(
                    together,
                    language=code,
                    without_timestamps=True,
                    clip_timestamps=clips,
                    batch_size=len(sounds),
                    **greedy,
                )
                texts = [""] * len(sounds)
                for segment in found:
                    at = max(i for i, second in enumerate(start) if segment.start >= second - 1e-3)
                    texts[at] += segment.text
                texts = [text.strip() for text in texts]
            return Heard(texts, time.perf_counter() - began, features.spent, encoder.spent)

    return Listener(f"faster-whisper {'fp32' if compute_type == 'float32' else compute_type}", hear, optional=True)


def joined(sounds: Sequence[Sound]) -> tuple[list[dict[str, float]], list[float]]:
    """Where each recording is when they are put one after the other: as faster-whisper is told, and the starts in seconds."""
    clips, starts, at = [], [], 0
    for sound in sounds:
        end = at + len(sound.samples)
        starts.append(at / RATE)
        # Half a sample more: what is cut off of start times rate, to a whole number, is then the sample itself.
        clips.append({"start": (at + 0.5) / RATE, "end": (end + 0.5) / RATE})
        at = end
    return clips, starts


class Stopwatch:
    """Seconds spent in a function.

    Args:
        function: whose calls are timed.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.spent = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        start = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.spent += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


@contextmanager
def stopwatch(owner: Any, name: str) -> Iterator[Stopwatch]:
    """A stopwatch in the place of an object's function, until the block ends."""
    function = getattr(owner, name)
    own = name in vars(owner)
    watch = Stopwatch(function)
    setattr(owner, name, watch)
    try:
        yield watch
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)
