"""How well recordings were transcribed: word errors, what changed against another's words, and how far by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deed.metrics.speech import normalized

from .speech_clips import Sound
from .speech_subjects import Heard

DRAWS = 2000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # per cent


def word_errors(text: str, sound: Sound) -> tuple[int, int]:
    """Words substituted, left out and added in a transcription, and words that were said; both normalized as Whisper's
    authors do.

    Args:
        text: as it was transcribed.
        sound: the recording.
    """
    import jiwer

    said, heard = normalized(sound.text, sound.language), normalized(text, sound.language)
    if not said:
        return len(heard.split()), 0
    found = jiwer.process_words(said, heard)
    errors = found.substitutions + found.deletions + found.insertions
    return errors, found.hits + found.substitutions + found.deletions


def wer_of(texts: Sequence[str], sounds: Sequence[Sound]) -> float:
    """Word error rate in per cent."""
    counts = np.array([word_errors(text, sound) for text, sound in zip(texts, sounds, strict=True)])
    return float(100 * counts[:, 0].sum() / max(1, counts[:, 1].sum()))


def wer_change(texts: Sequence[str], others: Sequence[str], sounds: Sequence[Sound]) -> dict[str, float]:
    """By how many points the word error rate of `texts` is above that of `others`, and the interval of 95 % that a bootstrap
    over recordings gives.

    Args:
        texts, others: transcriptions of the same recordings.
        sounds: the recordings.
    """
    ours = np.array([word_errors(text, sound) for text, sound in zip(texts, sounds, strict=True)])
    theirs = np.array([word_errors(text, sound) for text, sound in zip(others, sounds, strict=True)])
    more, words = ours[:, 0] - theirs[:, 0], ours[:, 1]
    drawn = np.random.default_rng(0).integers(0, len(sounds), (DRAWS, len(sounds)))
    changes = 100 * more[drawn].sum(1) / np.maximum(1, words[drawn].sum(1))
    low, high = np.percentile(changes, INTERVAL)
    return {"points": float(100 * more.sum() / max(1, words.sum())), "low": float(low), "high": float(high)}


def tokens_changed(found: Sequence[Heard], full: Sequence[Heard]) -> float | None:
    """Tokens put in, left out or replaced against full depth's answers, over the tokens of those; free-running, so what a
    changed token does to the rest counts. None where tokens are not told.

    Args:
        found, full: of the same batches.
    """
    from rapidfuzz.distance import Levenshtein

    pairs = [(a, b) for x, y in zip(found, full, strict=True) for a, b in zip(x.tokens, y.tokens, strict=True)]
    total = sum(len(b) for _, b in pairs)
    return sum(Levenshtein.distance(a, b) for a, b in pairs) / total if total else None


def depths_of(found: Sequence[Heard], exits: Sequence[int], own_layers: bool) -> dict[str, float] | None:
    """Mean depth of tokens in layers, and with the exits' own layers counted: one for each exit that a token was asked at,
    those it did not leave by among them. None where there are no depths.

    Args:
        found: of any batches.
        exits: depths of the exits that are asked, without the last layer.
        own_layers: exits have layers of their own.
    """
    depths = np.array([depth for heard in found for one in heard.depths for depth in one if depth > 0])
    if not len(depths):
        return None
    asked = (depths[:, None] >= np.array([*exits, 1 << 30])[None]).sum(1) if own_layers else 0
    return {"mean_depth": float(depths.mean()), "mean_layers": float((depths + asked).mean())}


def same_texts(texts: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """How many transcriptions are another's, letter by letter.

    Args:
        texts, others: of the same recordings.
    """
    return {"same": sum(a == b for a, b in zip(texts, others, strict=True)), "of": len(texts)}
