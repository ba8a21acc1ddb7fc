"""A pytest plugin for Transformers' generation tests: wraps the models that they make. See `generation_tests.py`."""

from __future__ import annotations

import copy
import functools
from fnmatch import fnmatch
from typing import Any

import pytest
import torch
import transformers
from expected import EXPECTED
from generation_tests import supported_classes

from deed import DeedConfig, get_deed_model
from deed.modeling.model import DeedMixin

CLASSES = supported_classes()


def pytest_configure() -> None:
    for name in sorted(CLASSES):
        wrap(getattr(transformers, name))
    hold_against_the_base()


def wrap(cls: Any) -> None:
    """Make every new instance of `cls` a deed model."""
    made = cls.__init__

    @functools.wraps(made)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if type(self) is cls:
            get_deed_model(self, DeedConfig(threshold=2.0, adapter="none"))

    cls.__init__ = __init__


def hold_against_the_base() -> None:
    """Let every `generate()` of a deed model fail whose tokens are not the plain model's. Where the plain model fails, or
    goes on from a cache, there is nothing to compare."""
    ours = DeedMixin.generate

    @functools.wraps(ours)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        state, theirs = torch.get_rng_state(), None
        if kwargs.get("past_key_values") is None and kwargs.get("logits_processor") is None:
            theirs = plain_tokens(self, args, kwargs)
        torch.set_rng_state(state)
        out = ours(self, *args, **kwargs)
        if theirs is not None:
            found = tokens_of(out)
            assert theirs.shape == found.shape and torch.equal(theirs, found), (
                f"tokens differ from the plain model's: {found.tolist()} instead of {theirs.tolist()}"
            )
        return out

    DeedMixin.generate = generate  # type: ignore[method-assign]


def plain_tokens(model: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
    """What the plain model says, or None where it fails."""
    plain = copy.copy(model)
    plain.__class__ = type(model).deed_base
    try:
        return tokens_of(plain.generate(*args, **copy.copy(kwargs)))
    except Exception:  # of whatever kind: the test is about ours
        return None


def tokens_of(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out["sequences"]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep the generation tests of supported classes; mark those that are expected to fail."""
    kept, dropped = [], []
    for item in items:
        (kept if is_generation_test(item) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = kept
    for item in items:
        folder = item.path.parent.name
        for (folders, name), reason in EXPECTED.items():
            if fnmatch(item.originalname or item.name, name) and folder in folders.split():
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def is_generation_test(item: Any) -> bool:
    """Whether an item is one of `GenerationTesterMixin`'s, overridden or not, in a class that tests a supported class."""
    mixin = next((c for c in getattr(item.cls, "__mro__", ()) if c.__name__ == "GenerationTesterMixin"), None)
    tested = getattr(item.cls, "all_model_classes", ())
    tested = {c.__name__ for c in tested} if isinstance(tested, (tuple, list)) else set()
    return mixin is not None and bool(tested & CLASSES) and item.name in vars(mixin)
