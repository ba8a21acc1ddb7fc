"""Speech to text: `deed.pipeline("transcribe")`, for Whisper with its own rules for long recordings, for others in pieces cut
where it is quiet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deed.utils.audio import load_audio

from .base import Generated, Pipeline, Row
from .words import to_words

SHORTEST = 0.1  # seconds: shorter pieces are filled up with silence, or convolutions have nothing to slide over
QUIET = 0.1  # seconds: the length of sound whose loudness says where to cut


class TranscriptionPipeline(Pipeline):
    """Recordings (files, bytes, arrays at the model's rate, mappings with `"array"` and `"sampling_rate"`) to text.

    Args:
        args: as for `Pipeline`.
        chunk_seconds: longest piece that a model without rules of its own for long recordings is given.
        kwargs: as for `Pipeline`; of Whisper's `generate()` also `language`, `return_timestamps` and the others. Its `task`
            (`"translate"`) is told with a call, since that is also the name of what `deed.pipeline` makes.
    """

    key = "text"
    what = "transcribing"

    def __init__(self, *args: Any, chunk_seconds: float = 28.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extractor = getattr(self.processor, "feature_extractor", self.processor)
        if not hasattr(self.extractor, "sampling_rate"):
            raise TypeError(
                f"transcribing needs a processor with a feature extractor, got {type(self.processor).__name__}; its folder "
                "has no preprocessor_config.json, or only the tokenizer was given"
            )
        self.rate = int(self.extractor.sampling_rate)
        if not chunk_seconds > 2 * QUIET:
            raise ValueError(f"chunk_seconds must be above {2 * QUIET}, got {chunk_seconds}")
        self.chunk = int(chunk_seconds * self.rate)
        self.is_whisper = self.model.config.model_type == "whisper"

    def pieces(self, item: Any, call: Mapping[str, Any]) -> list[Row]:
        """A recording as rows with the samples, `"input_ids"` standing in for its length."""
        samples = load_audio(item, self.rate)
        parts = [samples] if self.is_whisper else list(cut_at_quiet(samples, self.chunk, int(QUIET * self.rate)))
        return [{"samples": part, "input_ids": range(len(part))} for part in parts]

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Samples to features. Recordings of up to 30 seconds are padded to that by Whisper; where one is longer, all of the
        batch go the way of long recordings, with a mask."""
        samples = [row["samples"] for row in rows]
        options: dict[str, Any] = {"sampling_rate": self.rate, "return_tensors": "pt", "return_attention_mask": True}
        if self.is_whisper and max(map(len, samples)) > self.extractor.n_samples:
            options |= {"truncation": False, "padding": "longest"}
        elif not self.is_whisper:
            options |= {"padding": True}
            least = int(SHORTEST * self.rate)
            samples = [np.pad(part, (0, max(0, least - len(part)))) for part in samples]
        return dict(self.extractor(samples, **options))

    def generate_batch(self, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> list[Generated]:
        """By Whisper's own `generate()`, which returns tokens, and segments with their times where asked."""
        if not self.is_whisper:
            return super().generate_batch(inputs, options)
        asked = options.get("return_timestamps")
        if asked not in (None, False, True, "word"):
            raise ValueError(f'return_timestamps must be True, False or "word", got {asked!r}')
        inputs = self._on_device(inputs)
        long = inputs["input_features"].shape[-1] > self.extractor.nb_max_frames
        # Only segments tell which of the inner generations was kept, and so of depths.
        wanted = {**options, "return_timestamps": bool(asked) or long, "return_segments": True}
        if asked == "word":
            wanted["return_token_timestamps"] = True
        found = self.model.generate(**inputs, **{**wanted, "return_dict_in_generate": False})
        pad, rows = self.model.generation_config.pad_token_id, []
        for tokens, segments in zip(found["sequences"].tolist(), found["segments"], strict=True):
            kept = [token for token in tokens if token != pad]
            depths = [depth for segment in segments for depth in depths_of(segment)]
            rows.append(Generated(kept, depths, (asked, segments)))
        return rows

    def stream(self, item: Any, **call: Any) -> Iterator[str]:
        """As `Pipeline.stream`.

        Raises:
            ValueError: Whisper, which may take back what it has transcribed and try again at another temperature.
        """
        if self.is_whisper:
            raise ValueError(
                "Whisper transcribes again what came out badly, so it cannot be streamed; call the pipeline"
            )
        return super().stream(item, **call)

    def result(self, item: Any, found: Sequence[Generated], call: Mapping[str, Any]) -> dict[str, Any]:
        """`{"text"}`; of Whisper also `"language"`, and `"chunks"` (see `chunk_of`) where timestamps were asked for.

        Args:
            item, found, call: as for `Pipeline.result`.
        """
        result: dict[str, Any] = {self.key: " ".join(filter(None, (self.text(one.tokens) for one in found)))}
        if self.is_whisper:
            ((asked, segments),) = (one.more for one in found)
            result["language"] = self.language_of(segments)
            if asked:
                result["chunks"] = [self.chunk_of(segment, asked == "word") for segment in segments]
        return result

    def chunk_of(self, segment: Mapping[str, Any], timed: bool) -> dict[str, Any]:
        """A segment of Whisper's as what the caller gets: `"timestamp"` (from, to) in seconds, `"text"`, `"depth"`, and the
        `"words"` (see `words.to_words`) of it.

        Args:
            segment: as Whisper's `generate()` returns it.
            timed: whether words have their times.
        """
        tokens, depths = segment["tokens"].tolist(), depths_of(segment)
        start, end = (round(float(segment[of]), 2) for of in ("start", "end"))  # Whisper knows steps of 0.02
        ends = segment["token_timestamps"].tolist() if timed else None
        chunk = {
            "timestamp": (start, end),
            "text": self.text(tokens),
            "words": to_words(tokens, depths, ends, start, self._plain_text),
        }
        return {**chunk, "depth": sum(depths) / len(depths)} if depths else chunk

    def _plain_text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def language_of(self, segments: Sequence[Mapping[str, Any]]) -> str | None:
        """The language that Whisper was told or found out, as its code; English of a model for that alone; None where there
        is nothing but silence.

        Args:
            segments: of one recording.
        """
        if not getattr(self.model.generation_config, "is_multilingual", True):
            return "en"
        codes = {i: code for code, i in (getattr(self.model.generation_config, "lang_to_id", None) or {}).items()}
        for segment in segments:
            result = segment["result"]
            for token in (result if isinstance(result, torch.Tensor) else result["sequences"]).tolist():
                if token in codes:
                    return codes[token].strip("<|>")
        return None


def depths_of(segment: Mapping[str, Any]) -> list[int]:
    """The exit depths of a segment's tokens; none of beams, which do not tell."""
    depths = segment.get("exit_layers")
    return [] if depths is None else depths.tolist()


def cut_at_quiet(samples: np.ndarray, longest: int, window: int) -> Iterator[np.ndarray]:
    """Pieces of at most `longest` samples, each cut in the quietest place of its last third.

    Args:
        samples: `[samples]` float.
        longest: samples.
        window: over so many samples loudness is measured.
    """
    while len(samples) > longest:
        start = longest * 2 // 3
        loudness = np.convolve(np.square(samples[start:longest]), np.ones(window), "valid")
        at = start + int(loudness.argmin()) + window // 2
        yield samples[:at]
        samples = samples[at:]
    yield samples
