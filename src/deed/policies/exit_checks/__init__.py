"""Exit checks: how it is found out whether an exit is confident enough, where the whole head costs as much as layers do.

`DeedConfig.exit_check` (or `generate(exit_check=…)`, formerly `asking`) names one:

- `"plain"`: the exit's exact head over the whole vocabulary. The default, and right where the vocabulary is small: below a
  few thousand tokens the head costs less than the steps that would avoid it.
- `{"name": "screen"}`: approximate logits first, from an int8 or low-rank copy of the head. See `Screen`.
- `{"name": "shortlist"}`: a screen of which later exits look only at the best tokens of the first.
- `{"name": "gate"}`: a learned gate per exit. See `Gate` and `fit_gate`.

Each says whether its tokens and depths equal the plain check's (`equals_plain`).
"""

from .build import build_exit_check, with_exit_check
from .gate import Gate
from .screen import Screen
from .spec import check_exit_check, parse_exit_check
from .two_stage import ApproximateHead, Approximation, TwoStagePolicy

__all__ = [
    "ApproximateHead",
    "Approximation",
    "Gate",
    "Screen",
    "TwoStagePolicy",
    "build_exit_check",
    "check_exit_check",
    "parse_exit_check",
    "with_exit_check",
]
