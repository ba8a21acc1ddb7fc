"""CIDEr-D: how far a caption says what people say of the same picture (Vedantam et al. 2015, arXiv 1411.5726).

A caption is its word n-grams, n = 1 to 4, each weighted by how often it occurs and how few pictures' references have it
(tf-idf). Of each n, the cosine to a reference's n-grams is taken, with a caption's weights clipped to the reference's, so
that saying a word again earns nothing, and times a Gaussian of the difference in length. The mean over n and references,
times 10, is the score: 0 to 10. Papers give it times 100 again (138 is 1.38 here).

As the official COCO evaluation computes it (clipping included, without stemming), but for the words: `caption_words` cuts
captions as its Java tokenizer does, nearly. The libraries that have CIDEr bring far more than it: pycocoevalcap 100 MB
of Java, aac-metrics sentence-transformers and a CLAP model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .caption_words import words
from .text import mean, pairs

NGram = tuple[str, ...]
LONGEST = 4  # words of an n-gram
SIGMA = 6.0  # of the Gaussian, in words
SCALE = 10.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many pictures' references have an n-gram, which says how much it tells.

    Attributes:
        images: pictures counted.
        counts: of them, those of which at least one reference has the n-gram (`("a", "red", "kite")`).
    """

    images: int
    counts: Mapping[NGram, int]


def document_frequencies(references: Sequence[Sequence[str]]) -> DocumentFrequencies:
    """Counted over the references of a whole corpus, so that parts of it, or single captions, can be scored alike.

    Args:
        references: per picture its captions.

    Raises:
        ValueError: fewer than two pictures (every n-gram would be as common as any), or one without captions.
    """
    if len(references) < 2:
        raise ValueError(
            "CIDEr weighs words by how many pictures they are said of: needs the references of two pictures or more, "
            f"got {len(references)}; give frequencies=document_frequencies(references of the whole corpus)"
        )
    counts: Counter[NGram] = Counter()
    for _, refs in pairs([""] * len(references), references):
        counts.update({ngram for ref in refs for ngram in _ngrams(ref)})
    return DocumentFrequencies(len(references), counts)


def cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> float:
    """CIDEr-D, 0..10: the mean of `cider_d_each`.

    Args:
        predictions: a caption per picture.
        references: per picture what people say of it.
        frequencies: as for `cider_d_each`.
    """
    return mean(cider_d_each(predictions, references, frequencies))


def cider_d_each(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> list[float]:
    """The CIDEr-D of each caption, 0..10.

    Args:
        predictions: a caption per picture; an empty one scores 0.
        references: per picture one caption or more.
        frequencies: of the corpus; None: those of `references`, as the official evaluation does.

    Raises:
        ValueError: no predictions, not as many references, a picture without references, or without `frequencies`
            fewer than two pictures.
    """
    paired = pairs(predictions, references)
    corpus = frequencies or document_frequencies(references)
    scores = []
    for prediction, refs in paired:
        said = _Weighted(prediction, corpus)
        scores.append(SCALE * sum(_similarity(said, _Weighted(ref, corpus)) for ref in refs) / len(refs))
    return scores


class _Weighted:
    """A caption's n-grams with their tf-idf weights.

    Attributes:
        weights: per n, from 1 to `LONGEST`, the weight of each n-gram.
        norms: per n, the length of that vector.
        length: number of bigrams, by which the official evaluation measures length.
    """

    def __init__(self, caption: str, corpus: DocumentFrequencies) -> None:
        counted = _ngrams(caption)
        self.weights: list[dict[NGram, float]] = [{} for _ in range(LONGEST)]
        for ngram, count in counted.items():
            rarity = math.log(corpus.images) - math.log(max(1, corpus.counts.get(ngram, 0)))
            self.weights[len(ngram) - 1][ngram] = count * rarity
        self.norms = [math.sqrt(sum(weight**2 for weight in weights.values())) for weights in self.weights]
        self.length = sum(count for ngram, count in counted.items() if len(ngram) == 2)


def _similarity(said: _Weighted, ref: _Weighted) -> float:
    """Mean over n of the clipped cosine, 0..1, less where the lengths differ."""
    total = 0.0
    for n in range(LONGEST):
        norms = said.norms[n] * ref.norms[n]
        if norms > 0:
            shared = said.weights[n].keys() & ref.weights[n].keys()
            overlap = math.fsum(min(said.weights[n][g], ref.weights[n][g]) * ref.weights[n][g] for g in shared)
            total += overlap / norms
    return total / LONGEST * math.exp(-((said.length - ref.length) ** 2) / (2 * SIGMA**2))


def _ngrams(caption: str) -> Counter[NGram]:
    tokens = words(caption)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1))
