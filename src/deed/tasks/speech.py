"""Transcribing recorded prompts of Debian's packages with a Whisper: `speech`, `speech-LANGUAGE`, and `speech-mixed`,
which trains on sentences that espeak-ng speaks, too.

Packages are fetched with Debian's own client where they are not there yet (`deed.data.speech.packages`). Clips are joined to 5
to 28 seconds; some come alone. Whisper is told the language, and to write no timestamps.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deed.constants import GREEDY
from deed.data.base import Example
from deed.data.speech.clips import HELD_OUT, SPLITS, Clip, load_clips
from deed.data.speech.joins import Recording, scored, training
from deed.data.speech.packages import fetch, package_names
from deed.data.speech.synthetic import TEXTS, speaking
from deed.errors import DataError
from deed.metrics.speech import normalized, word_accuracy_each, word_error_rate
from deed.utils.files import user_cache

from .protocol import Task, tokenizer_of

MULTILINGUAL = 51_865  # tokens and more: Whisper for many languages; one for English has no prompt that names one
LONGEST_ANSWER = 224  # tokens, half of what Whisper's decoder reads, as its authors have it
DRAWN = 64  # spoken sentences that are joined at once


class SpeechTask(Task):
    """Recordings to texts. Scored is the word accuracy, 1 - word error rate, at least 0; over all of them the word error rate.

    Training examples go on without end, in joins drawn anew, most with noise, a room or a telephone's band; some have no text,
    and so no answer: a model can learn from its own.
    """

    metric, unit = "word_accuracy", "recording"
    model_types = ("whisper",)
    calibration_split = "validation"  # a hundred recordings: too few to be divided

    def __init__(self, name: str = "speech") -> None:
        self.name = name
        self.only = name.partition("-")[2]  # a language, or "mixed"

    def examples(self, split: str, count: int | None = None, data: Path | None = None) -> Iterator[Example]:
        """Recordings, always the same and in the same order.

        Args:
            split: `train` (without end), `validation`, `test`, or `new_voice`: of a voice that is never trained on, in joins
                without texts, which can be compared but not scored.
            count: the first so many; None: all.
            data: a folder of `.deb` files, which is not added to; None: one in deed's cache, to which packages are fetched.

        Raises:
            DataError: no such split, no such folder or none of the packages in it, or packages cannot be fetched.
        """
        if split not in SPLITS:
            raise DataError(f"{self.name} has no split {split!r}; there are {', '.join(SPLITS)}")
        folder = user_cache() / "speech" if data is None else data
        if data is None:
            failed = fetch([*package_names(), *(TEXTS.values() if self.only == "mixed" else ())], folder)
            for package, reason in failed.items():
                raise DataError(f"{package} cannot be fetched: {reason}")
        elif not folder.is_dir():
            raise DataError(f"{folder} is no folder of Debian packages")
        clips = [clip for clip in load_clips(folder) if clip.split == split and self._wanted(clip)]
        if not clips:
            raise DataError(f"{folder} has no recordings of the {split} split for {self.name}")
        found: Iterable[Recording] = training(clips) if split == "train" else self._held_out(clips, split)
        if self.only == "mixed" and split == "train":
            found = _mixed(found, folder)
        return (self._example(one, i) for i, one in enumerate(itertools.islice(found, count)))

    def _wanted(self, clip: Clip) -> bool:
        return self.only in ("", "mixed", clip.language)

    def _held_out(self, clips: list[Clip], split: str) -> list[Recording]:
        if split == HELD_OUT:
            return list(itertools.islice(training(clips, changed=0.0, rounds=1), None))
        return [one for one in scored(clips) if normalized(one.text, one.language)]

    def _example(self, one: Recording, number: int) -> Example:
        extra = {"recording": one, "seconds": one.seconds}
        return Example("", [one.text] if one.text else [], [], None, f"{number}/{one.name}", one.language, extra)

    def opened(self, example: Example) -> Example:
        """The example with its sound: `samples` in `extra`."""
        return replace(example, extra={**example.extra, "samples": example.extra["recording"].samples()})

    def closed(self, example: Example) -> Example:
        """The example without its sound."""
        return replace(example, extra={k: v for k, v in example.extra.items() if k != "samples"})

    def encode(self, processor: Any, example: Example) -> dict[str, Any]:
        """Features of thirty seconds, and the decoder's prompt: the language, to transcribe, without timestamps.

        Args:
            processor: a Whisper's.
            example: opened.

        Raises:
            DataError: another language, of a model for English alone.
        """
        import torch

        extractor = processor.feature_extractor
        features = extractor(example.extra["samples"], sampling_rate=extractor.sampling_rate, return_tensors="pt")
        prompt = torch.tensor(prompt_of(tokenizer_of(processor), example.kind))
        return {"input_features": features.input_features[0], "decoder_input_ids": prompt}

    def labels(self, processor: Any, example: Example, rng: random.Random | None = None) -> list[int]:
        """The text's tokens, the decoder's prompt without its first token before them, and the end token.

        Args:
            processor: a Whisper's.
            example: with a text.
            rng: nothing is drawn: there is one text.

        Raises:
            DataError: it has no text.
        """
        if not example.answers:
            raise DataError(f"{example.id} has no text to learn: a model can only learn from its own answer to it")
        tokenizer = tokenizer_of(processor)
        text = tokenizer(f" {example.answers[0].strip()}", add_special_tokens=False).input_ids
        return [*prompt_of(tokenizer, example.kind)[1:], *text, tokenizer.eos_token_id]

    def collate(self, processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Encoded rows to a batch. Rows with `labels` are trained on: those begin with the decoder's prompt.

        Args:
            processor: a Whisper's.
            rows: of `encode`.
        """
        batch = super().collate(processor, rows)
        if "labels" in batch:
            del batch["decoder_input_ids"]
        return batch

    def generation_options(self, model: Any, processor: Any) -> dict[str, Any]:
        """Greedy, up to 224 tokens. Of a multilingual model also a language: the rows' own prompts go before it, but without
        one Whisper would have the encoder run once more to hear which it is."""
        positions = int(getattr(model.config, "max_target_positions", 2 * LONGEST_ANSWER))
        options = {**GREEDY, "max_new_tokens": min(LONGEST_ANSWER, positions - 4)}
        return {**options, "language": "en"} if is_multilingual(processor) else options

    def score(self, answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Word accuracy of each.

        Raises:
            DataError: an example without a text.
        """
        return word_accuracy_each(answers, *_references(examples))

    def other_scores(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        """The word error rate over all words."""
        return {"wer": word_error_rate(answers, *_references(examples))}

    def source(self, example: Example) -> str:
        """The prompts that were joined, of whichever voice."""
        return " ".join(sorted(clip.name for clip in example.extra["recording"].clips))


def is_multilingual(processor: Any) -> bool:
    """Whether a processor is that of a Whisper for many languages.

    Args:
        processor: a Whisper's.
    """
    return len(tokenizer_of(processor)) >= MULTILINGUAL


def prompt_of(tokenizer: Any, language: str) -> list[int]:
    """What the decoder is given: start, language, to transcribe, no timestamps; of a model for English alone start and no
    timestamps.

    Args:
        tokenizer: a Whisper's.
        language: its code.

    Raises:
        DataError: a language that the model does not know.
    """
    marks = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
    if not is_multilingual(tokenizer):
        if language != "en":
            raise DataError(f"this Whisper is for English alone, and a recording is in {language!r}: --task speech-en")
        marks = [marks[0], marks[3]]
    ids: list[int] = tokenizer.convert_tokens_to_ids(marks)
    unknown = [mark for mark, i in zip(marks, ids, strict=True) if i is None or i == tokenizer.unk_token_id]
    if unknown and tokenizer.convert_ids_to_tokens(tokenizer.unk_token_id) not in marks:
        raise DataError(f"this Whisper's tokenizer has no {unknown[0]}")
    return ids


def _references(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    for example in examples:
        if not example.answers:
            raise DataError(f"{example.id} has no text, so its transcription cannot be scored")
    return [example.answers[0] for example in examples], [example.kind for example in examples]


def _mixed(recorded: Iterable[Recording], folder: Path) -> Iterator[Recording]:
    """Every third recording is one of spoken sentences, joined and changed like the others."""
    artificial = _spoken(folder)
    for i, one in enumerate(recorded):
        yield one
        if i % 2:
            yield next(artificial)


def _spoken(folder: Path) -> Iterator[Recording]:
    clips = speaking(folder)
    for number in itertools.count():
        yield from training(list(itertools.islice(clips, DRAWN)), seed=number, rounds=1)
