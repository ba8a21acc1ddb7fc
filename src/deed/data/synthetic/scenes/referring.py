"""Referring expressions: "the red apple left of the dog", each true of exactly one thing of its scene."""

from __future__ import annotations

import random
from typing import NamedTuple

from .compose import Scene, Thing
from .language import EXTREME_WORDS, RELATION_WORDS, RELATIONS, Phrase, holds, is_extreme, phrases, unique

# Shares of the ways to refer, among those that a thing allows.
_SHARES = {"name": 1.0, "color": 2.0, "size": 2.0, "both": 1.5, "relation": 3.0, "extreme": 2.5}
_SPARE = 0.06  # of a share, for a longer way where a shorter one would do, as people will also ask so


class Expression(NamedTuple):
    """A text that is true of one thing only; `kind` is a key of the shares above."""

    text: str
    thing: Thing
    kind: str


def refer(scene: Scene, rng: random.Random, thing: Thing, color: bool = True, size: bool = True) -> Expression | None:
    """A random expression for a thing, or None where it has none.

    Args:
        color, size: whether the thing's own may be named (not so where it is asked for).
    """
    options: dict[str, list[tuple[str, float]]] = {}
    shortest: dict[str, int] = {}  # adjectives that did, for an attribute alone ("alone") and for each other kind
    for phrase in phrases(thing, color, size):
        fitting = phrase.among(scene)
        found: dict[str, list[str]] = {"relation": _related(scene, rng, thing, phrase, color, size)}
        if len(fitting) == 1:
            kinds = {(False, False): "name", (True, False): "color", (False, True): "size", (True, True): "both"}
            found[kinds[phrase.color is not None, phrase.size is not None]] = [f"the {phrase.text()}"]
            shortest.setdefault("alone", phrase.adjectives)
        else:
            found["extreme"] = [
                rng.choice((f"the {words[0]} {phrase.text()}", f"the {phrase.text()} that is {words[1]}"))
                for direction, words in EXTREME_WORDS.items()
                if is_extreme(direction, thing, fitting)
            ]
        for way, texts in found.items():
            if texts:
                by_place = way in ("relation", "extreme")
                least = shortest.setdefault(way if by_place else "alone", phrase.adjectives)
                spare = phrase.adjectives > least or (by_place and "alone" in shortest)
                options.setdefault(way, []).extend((text, _SPARE if spare else 1.0) for text in texts)
    shares = {way: _SHARES[way] * max(share for _, share in texts) for way, texts in options.items()}
    if not shares:
        return None
    chosen = rng.choices(list(shares), list(shares.values()))[0]
    text = rng.choices([text for text, _ in options[chosen]], [share for _, share in options[chosen]])[0]
    return Expression(text, thing, chosen)


def _related(scene: Scene, rng: random.Random, thing: Thing, phrase: Phrase, color: bool, size: bool) -> list[str]:
    """Texts that tell a thing by where it is to another, which is told by its own attributes and is not of the phrase.

    Where the size is asked for, "above the large lamp" would give away that the lamp meant is small; so for colors.
    """
    others = [other for other in phrase.among(scene) if other is not thing]
    texts = []
    for anchor in scene.things:
        other_name = anchor.name != thing.name
        told = [] if phrase.fits(anchor) else unique(scene, anchor, color or other_name, size or other_name)
        for relation in RELATIONS if told else ():
            if holds(relation, thing, anchor) and not any(holds(relation, other, anchor) for other in others):
                words = RELATION_WORDS[relation]
                texts.append(f"the {phrase.text()} {rng.choice((words[0], *words))} the {rng.choice(told).text()}")
    return texts
