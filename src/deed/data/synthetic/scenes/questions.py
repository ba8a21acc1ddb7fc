"""Questions about a scene with answers from a closed vocabulary, so balanced that guessing without looking fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from .compose import SIZES, Scene, Thing
from .language import OPPOSITE, RELATION_WORDS, RELATIONS, Phrase, holds, unique
from .pictograms import COLORS, HELD_OUT, NAMES
from .referring import refer

ANSWERS = ("yes", "no", *map(str, range(6)), *COLORS, *SIZES, *NAMES)


class Question(NamedTuple):
    """A question, its only right answer (one of `ANSWERS`), and a key of `KINDS`."""

    text: str
    answer: str
    kind: str


def ask(scene: Scene, rng: random.Random) -> Question:
    """A random question, each kind as often; in a scene with held-out combinations about one of them."""
    unseen = list(scene.held_out)
    kinds = list(KINDS)
    rng.shuffle(kinds)
    for kind in kinds:
        subjects = unseen or list(scene.things)
        rng.shuffle(subjects)
        for subject in subjects:
            asked = KINDS[kind](scene, rng, subject)
            if asked is not None:
                return Question(*asked, kind)
    raise AssertionError("unreachable: counting can always be asked")


def _count(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str]:
    name, color, size = subject.name, subject.color, subject.size
    colors = [other.color for other in scene.things if (name, other.color) not in HELD_OUT]
    others = [other.name for other in scene.things if (other.name, color) not in HELD_OUT]
    asked = {
        *(Phrase(name), Phrase(name, color), Phrase(name, None, size), Phrase(name, None, _other_size(size))),
        *(Phrase(None, color), Phrase(None, None, size), Phrase(None, color, size)),
        *(Phrase(name, other) for other in colors),
        *(Phrase(other, color) for other in others),
    }
    by_count: dict[int, list[Phrase]] = {}
    for phrase in sorted(asked, key=lambda phrase: tuple(part or "" for part in phrase)):
        by_count.setdefault(len(phrase.among(scene)), []).append(phrase)
    counts = sorted(by_count)
    count = rng.choices(counts, [1.0 if count < 2 else 1.6 for count in counts])[0]
    return f"how many {rng.choice(by_count[count]).text(plural=True)} are there?", str(count)


def _relation(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str] | None:
    told = unique(scene, subject)
    others = [(other, phrases) for other in scene.things if other is not subject and (phrases := unique(scene, other))]
    if not told or not others:
        return None
    other, phrases = rng.choice(others)
    first, second = (subject, rng.choice(told)), (other, rng.choice(phrases))
    if rng.random() < 0.5:
        first, second = second, first
    answer = rng.choice(("yes", "no"))
    true = [relation for relation in RELATIONS if holds(relation, first[0], second[0])]
    relation = rng.choice(true)
    words = RELATION_WORDS[relation if answer == "yes" else OPPOSITE[relation]]
    return f"is the {first[1].text()} {rng.choice(words)} the {second[1].text()}?", answer


def _color(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str] | None:
    told = refer(scene, rng, subject, color=False)
    return told and (f"what color is {told.text}?", subject.color)


def _size(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str] | None:
    told = refer(scene, rng, subject, size=False)
    return told and (rng.choice((f"what size is {told.text}?", f"is {told.text} small or large?")), subject.size)


def _existence(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str] | None:
    """Both answers are about names and colors that are in the picture: only together they may not be."""
    name, color, size = subject.name, subject.color, subject.size
    absent = {Phrase(name, None, _other_size(size))}
    for other in scene.things:
        pairs = {(name, other.color), (other.name, color)} - HELD_OUT
        absent |= {Phrase(*pair) for pair in pairs}
    missing = sorted(
        (phrase for phrase in absent if not phrase.among(scene)), key=lambda phrase: (phrase.name or "", phrase.text())
    )
    present = [Phrase(name, color), Phrase(name, None, size)]
    colored = [phrase for phrase in missing if phrase.color]
    if not missing:
        return None
    answer = rng.choice(("yes", "no"))
    with_color = bool(colored) and rng.random() < 0.75
    if answer == "yes":
        phrase = present[0 if with_color else 1]
    else:
        sized = [phrase for phrase in missing if phrase.size]
        phrase = rng.choice(colored if with_color or not sized else sized)
    return f"is there {phrase.counted(1)}?", answer


def _what(scene: Scene, rng: random.Random, subject: Thing) -> tuple[str, str] | None:
    options = []
    for anchor in scene.things:
        told = unique(scene, anchor)
        for relation in RELATIONS if told else ():
            found = [thing for thing in scene.things if thing is not anchor and holds(relation, thing, anchor)]
            if len(found) == 1 and subject in (found[0], anchor):
                options.append((relation, rng.choice(told), found[0]))
    if not options:
        return None
    relation, phrase, found_thing = rng.choice(options)
    return f"what is {rng.choice(RELATION_WORDS[relation])} the {phrase.text()}?", found_thing.name


def _other_size(size: str) -> str:
    return next(other for other in SIZES if other != size)


KINDS: dict[str, Callable[[Scene, random.Random, Thing], tuple[str, str] | None]] = {
    "count": _count,
    "relation": _relation,
    "color": _color,
    "existence": _existence,
    "what": _what,
    "size": _size,
}
