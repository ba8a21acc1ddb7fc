"""Noun phrases and relations: what can be said of a thing, and which things of a scene it is true of."""

from __future__ import annotations

from typing import NamedTuple

from .compose import Scene, Thing
from .pictograms import KINDS

RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# How a relation is put before what it is a relation to; the first is the usual one.
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}
# "the leftmost apple", "the apple that is furthest left"
EXTREME_WORDS = {
    "left": ("leftmost", "furthest left"),
    "right": ("rightmost", "furthest right"),
    "above": ("topmost", "furthest up"),
    "below": ("lowest", "furthest down"),
}
NUMBERS = ("two", "three", "four", "five")


class Phrase(NamedTuple):
    """A noun phrase without its article; what is None is left unsaid, and without a name it is an "object"."""

    name: str | None
    color: str | None = None
    size: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether it is true of a thing."""
        return (
            self.name in (None, thing.name) and self.color in (None, thing.color) and self.size in (None, thing.size)
        )

    def among(self, scene: Scene) -> list[Thing]:
        """The things of a scene that it is true of."""
        return [thing for thing in scene.things if self.fits(thing)]

    def text(self, plural: bool = False) -> str:
        """Size, color, name."""
        name = "object" if self.name is None else self.name
        if plural:
            name = "objects" if self.name is None else KINDS[self.name].plural
        return " ".join(word for word in (self.size, self.color, name) if word)

    def counted(self, count: int) -> str:
        """With its article, or as many of it in words: "an orange cat", "two large keys"."""
        if count > 1:
            return f"{NUMBERS[count - 2]} {self.text(plural=True)}"
        text = self.text()
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"

    @property
    def adjectives(self) -> int:
        """How many there are."""
        return (self.color is not None) + (self.size is not None)


def phrases(thing: Thing, color: bool = True, size: bool = True) -> list[Phrase]:
    """Every phrase with its name that is true of a thing, the shortest first.

    Args:
        color, size: whether they may be named.
    """
    made = [Phrase(thing.name)]
    if color:
        made.append(Phrase(thing.name, thing.color))
    if size:
        made.append(Phrase(thing.name, None, thing.size))
    if color and size:
        made.append(Phrase(thing.name, thing.color, thing.size))
    return made


def unique(scene: Scene, thing: Thing, color: bool = True, size: bool = True) -> list[Phrase]:
    """The shortest phrases that are true of a thing only: one or two, or none where it has a twin.

    Args:
        scene: all there is.
        thing: which is meant.
        color, size: whether they may be named.
    """
    found = [phrase for phrase in phrases(thing, color, size) if len(phrase.among(scene)) == 1]
    return [phrase for phrase in found if phrase.adjectives == found[0].adjectives]


def holds(relation: str, thing: Thing, other: Thing) -> bool:
    """Whether a thing is left of (right of, above, below) another, by their centers, which always differ clearly.

    Args:
        relation: `"left"`, `"right"`, `"above"` or `"below"`.
        thing: of which it is said.
        other: to which it stands so.
    """
    axis = 0 if relation in ("left", "right") else 1
    before = thing.center[axis] < other.center[axis]
    return before if relation in ("left", "above") else not before


def is_extreme(direction: str, thing: Thing, group: list[Thing]) -> bool:
    """Whether of a group (itself in it) a thing is the leftmost (…): by its center and by its box's edge at once.

    Args:
        direction: as for `holds`.
        thing: of which it is said.
        group: of two things or more.
    """
    edge = {"left": 0, "above": 1, "right": 2, "below": 3}[direction]
    sign = 1 if direction in ("left", "above") else -1
    return all(
        holds(direction, thing, other) and sign * thing.box[edge] < sign * other.box[edge]
        for other in group
        if other is not thing
    )
