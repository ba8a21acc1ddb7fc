"""Every supported class as one tiny random model each (several where a class has variants), for the matrix and its table."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from ofa_models import ofa_batch, plain_ofa
from tiny_composite import COMPOSITES
from tiny_seamless import SEAMLESS

from deed import get_deed_model
from latr import page_batch, plain_latr
from tiny import LAYERS, TINY, VOCAB

ROWS = 3


@dataclass
class Case:
    """A class, or a variant of one.

    Attributes:
        name: the class, and the variant in brackets.
        make: a plain model with random weights, in float64 and evaluation mode, and encoder inputs of `ROWS` ragged rows.
        options: of `generate()`.
    """

    name: str
    make: Callable[[], tuple[Any, dict[str, torch.Tensor]]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        return self.name.split(" (")[0]

    def plain(self) -> Any:
        """A plain model, the same each time."""
        return self.make()[0]

    @functools.cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        return self.make()[1]

    @functools.cached_property
    def shared_plain(self) -> Any:
        """A plain model for all tests; nothing may change it."""
        return self.plain()

    @functools.cached_property
    def shared(self) -> Any:
        """With early exit and random adaptation modules, for all tests; nothing may change it."""
        return self.deed()

    def deed(self) -> Any:
        model = get_deed_model(self.plain())
        torch.manual_seed(1)
        with torch.no_grad():
            for p in model.deed_exits.parameters():
                p.add_(torch.randn_like(p) * 0.1)
        return model

    @functools.cached_property
    def targets(self) -> torch.Tensor:
        """`[ROWS, 5]`: tokens for the decoder, ordinary ones."""
        return torch.randint(3, VOCAB, (ROWS, 5), generator=torch.Generator().manual_seed(2))


def latr(seed=0):
    return plain_latr(seed, enc=5), page_batch(ROWS)


def ofa(seed=0):
    return plain_ofa(seed), ofa_batch(ROWS)


def _of_tiny(tiny: Any) -> Callable[[], Any]:
    return lambda: (tiny.build(), tiny.inputs(ROWS))


def _cases() -> dict[str, Case]:
    made: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
        "LatrForConditionalGeneration": (latr, {}),
        "OFAForConditionalGeneration": (ofa, {}),
    }
    for name, tiny in {**TINY, **COMPOSITES, **SEAMLESS}.items():
        cls, _, variant = name.partition("-") if " (" not in name else (name, "", "")
        made[f"{cls} ({variant})" if variant else name] = (_of_tiny(tiny), tiny.options)
    return {name: Case(name, make, options) for name, (make, options) in sorted(made.items())}


CASES = _cases()
__all__ = ["CASES", "LAYERS", "ROWS", "Case"]
