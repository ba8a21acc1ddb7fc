"""Cheap asking: what it takes to learn whether an exit is sure enough, when the whole head costs as much as layers do.

`DeedConfig.asking` (or `generate(asking=…)`) names a way to ask:

- `"plain"`: the exit's exact head over the whole vocabulary. The default, and right where the vocabulary is small: below a
  few thousand tokens the head costs less than the steps that would avoid it.
- `{"name": "screen"}`: a first look through an int8 or low-rank copy of the head. See `Screen`.
- `{"name": "shortlist"}`: later exits look only at the best tokens of the first. See `Shortlist`.
- `{"name": "gate"}`: a learned gate per exit. See `Gate` and `fit_gate`.

Each says whether its tokens and depths equal plain asking's (`equals_plain`).
"""

from .build import asked, build_asking
from .gate import Gate
from .screen import Screen
from .shortlist import Shortlist
from .spec import check_asking, parse_asking
from .two_stage import AskedPolicy, Look

__all__ = [
    "AskedPolicy",
    "Gate",
    "Look",
    "Screen",
    "Shortlist",
    "asked",
    "build_asking",
    "check_asking",
    "parse_asking",
]
