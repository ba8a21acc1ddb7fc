"""Imports that wait: names of a package that are looked up when asked for, and calls that wait for someone else's import."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562) for names that are imported when first asked for.

    Args:
        package: its `__name__`.
        homes: where each name lives, as a module of the package; a module itself where both are the same.
    """

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        value = module if name == homes[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it without us
        return value

    return getattribute, lambda: sorted(homes)


class _Waiting(MetaPathFinder):
    """Finds nothing by itself: lets the ordinary finder find the modules that calls wait for, and calls after they ran."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Callable[[], object]]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.calls:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_then_call(module: ModuleType) -> None:
            run(module)
            for call in self.calls.pop(fullname, ()):
                call()

        spec.loader.exec_module = run_then_call  # type: ignore[method-assign]  # the spec and its loader are this import's own
        return spec


_WAITING = _Waiting()


def after_import(module: str, call: Callable[[], object]) -> None:
    """Call `call()` once `module` has been imported by whoever needs it; at once where it has been already.

    Nothing is imported by this. An error in `call` fails that import, as one in the module itself would.
    """
    if module in sys.modules:
        call()
        return
    if _WAITING not in sys.meta_path:
        sys.meta_path.insert(0, _WAITING)
    _WAITING.calls.setdefault(module, []).append(call)
