"""A pytest plugin for Transformers' generation tests: wraps the models that they make. See `generation_tests.py`."""

from __future__ import annotations

import copy
import functools
import re
from fnmatch import fnmatch
from typing import Any

import pytest
import torch
import transformers
from expected import EXPECTED
from generation_tests import supported_classes

from deed import DeedConfig, StaircaseCache, get_deed_model
from deed.modeling.model import DeedMixin

CLASSES = supported_classes()
MET: set[int] = set()  # entries of EXPECTED


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
            if theirs.shape != found.shape or not torch.equal(theirs, found):
                # A first call may draw numbers that a later one does not: BigBird makes its encoder anew for short inputs.
                torch.set_rng_state(state)
                theirs = plain_tokens(self, args, kwargs)
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
    """Keep the generation tests of supported classes."""
    kept, dropped = [], []
    for item in items:
        (kept if is_generation_test(item) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = kept
    for mixin in {mixin_of(item) for item in kept}:
        mixin._check_caches_are_equal = functools.partialmethod(check_caches, mixin._check_caches_are_equal)


def check_caches(self: Any, theirs: Any, one: Any, other: Any) -> None:
    """The comparison that Transformers' test asks those for who have a cache of another kind."""
    if not isinstance(one, StaircaseCache):
        return theirs(self, one, other)
    assert one.stairs.lengths == other.stairs.lengths and one.stairs.filled == other.stairs.filled
    for kept in ("keys", "values"):
        for layer, (a, b) in enumerate(zip(getattr(one.stairs, kept), getattr(other.stairs, kept), strict=True)):
            for row, stair in enumerate(one.stairs.filled[layer]):
                torch.testing.assert_close(a[row, :, :stair], b[row, :, :stair])
    return None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Count a failure that is expected as such, with its reason."""
    report = (yield).get_result()
    if report.when != "call" or not report.failed or call.excinfo is None:
        return
    statements = " ".join(map(statement_of, call.excinfo.traceback))
    raised = f"{call.excinfo.typename}: {call.excinfo.value} in {statements}"
    for i, entry in enumerate(EXPECTED):
        folder = entry.folders == "*" or item.path.parent.name in entry.folders.split()
        if folder and fnmatch(item.name, entry.test) and re.search(entry.raised, raised):
            MET.add(i)
            report.outcome, report.wasxfail = "skipped", entry.reason
            return


def statement_of(entry: Any) -> str:
    """The statement of a traceback's entry, or nothing where there is no source (compiled code)."""
    try:
        return str(entry.statement).strip()
    except AssertionError:
        return ""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the entries that nothing met: they may have become untrue, or their models were not run."""
    for i, entry in enumerate(EXPECTED):
        if i not in MET:
            terminalreporter.write_line(f"expected, but not met: {entry.test} ({entry.folders}): {entry.raised}")


def mixin_of(item: Any) -> Any:
    """`GenerationTesterMixin` among the bases of an item's class, or None."""
    return next((c for c in getattr(item.cls, "__mro__", ()) if c.__name__ == "GenerationTesterMixin"), None)


def is_generation_test(item: Any) -> bool:
    """Whether an item is one of `GenerationTesterMixin`'s, overridden or not, in a class that tests a supported class."""
    mixin = mixin_of(item)
    tested = getattr(item.cls, "all_model_classes", ())
    tested = {c.__name__ for c in tested} if isinstance(tested, (tuple, list)) else set()
    return mixin is not None and bool(tested & CLASSES) and item.name in vars(mixin)
