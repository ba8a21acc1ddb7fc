"""Captions of 10 to 25 words that name all things of a scene from left to right, several ways for each scene."""

from __future__ import annotations

import random

from .compose import Scene
from .language import Phrase

FEWEST, MOST = 10, 25  # words
N_REFERENCES = 5
# Shares of the templates of `_ways`, in its order, for the one caption that an example is trained on.
_SHARES = (4.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_LONG = 5  # from so many runs on, sizes are left out: the caption would be too long


def references(scene: Scene) -> list[str]:
    """All captions of a scene, five at least; the most usual first."""
    return [text for text, _ in _weighted(scene)]


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the references, the most usual the likeliest."""
    texts, shares = zip(*_weighted(scene), strict=True)
    return str(rng.choices(texts, shares)[0])


def _weighted(scene: Scene) -> list[tuple[str, float]]:
    shares: dict[str, float] = {}
    for text, share in zip(_ways(_runs(scene)), _SHARES, strict=True):
        if FEWEST <= len(text.split()) <= MOST:
            shares.setdefault(text, share)  # of two runs, the first two ways say the same
    return list(shares.items())


def _runs(scene: Scene) -> list[str]:
    """From left to right, neighbours that are alike together: "a small red apple", "two large blue keys"."""
    said: list[tuple[Phrase, int]] = []
    things = sorted(scene.things, key=lambda thing: thing.center[0])
    for with_size in (True, False):
        said = []
        for thing in things:
            phrase = Phrase(thing.name, thing.color, thing.size if with_size else None)
            if said and said[-1][0] == phrase:
                said[-1] = (phrase, said[-1][1] + 1)
            else:
                said.append((phrase, 1))
        if len(said) < _LONG:
            break
    return [phrase.counted(count) for phrase, count in said]


def _ways(runs: list[str]) -> tuple[str, ...]:
    """The templates, filled."""
    first, last = runs[0], runs[-1]
    middle = f", {_listed(runs[1:-1])} in the middle" if len(runs) > 2 else ""
    return (
        f"{_listed(runs[:-1])} to the left of {last}",
        f"{first} to the left of {_listed(runs[1:])}",
        f"from left to right, {_listed(runs)}",
        f"{_listed(runs)} from left to right",
        f"{last} to the right of {_listed(runs[:-1])}",
        f"{first} on the left{middle} and {last} on the right",
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
