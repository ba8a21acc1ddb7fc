"""What is found out about the modules of a model, kept from one `generate()` to the next while nothing about them has changed:
of a small model, looking a decoder's modules over takes as long as decoding a token.

Compared are modules, their attributes (by identity), the places, versions and dtypes of their tensors, the configurations they
hold, and the settings that kernels go by. Where a module has hooks or a `forward` of its own, nothing is kept.
"""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Found = TypeVar("Found")
SETTINGS = ("DEED_KERNELS", "DEED_NATIVE")  # of the environment

# By module and name: (the state it was found in, what was found, which refers to modules below, but not to this one).
_kept: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[_State, Any]]] = weakref.WeakKeyDictionary()


def kept(root: nn.Module, name: str, find: Callable[[], Found], config: Any = None) -> Found:
    """`find()`, or what it answered the last time.

    Args:
        root: the answer depends on this module and those below, and does not refer to it itself.
        name: of the question.
        find: asks it.
        config: a configuration that it depends on beside those that the modules hold.
    """
    of_root = _kept.get(root)
    known = None if of_root is None else of_root.get(name)
    if known is not None and known[0].holds(root):
        return known[1]  # type: ignore[no-any-return]
    found = find()
    if any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in root.modules()):
        if of_root is not None:
            of_root.pop(name, None)
        return found
    _kept.setdefault(root, {})[name] = (_State(root, config), found)
    return found


class _State:
    def __init__(self, root: nn.Module, config: Any) -> None:
        configs = {id(c): c for m in root.modules() if (c := vars(m).get("config")) is not None}
        configs.update({} if config is None else {id(config): config})
        self.configs = [(c, dict(vars(c))) for c in configs.values() if hasattr(c, "__dict__")]
        self.settings = _settings()
        self.root = _of(root)
        self.below = [(m, _of(m)) for m in root.modules() if m is not root]

    def holds(self, root: nn.Module) -> bool:
        """Whether all is as it was."""
        return (
            self.settings == _settings()
            and all(vars(c) == values for c, values in self.configs)
            and _is(root, self.root)
            and all(_is(m, of) for m, of in self.below)
        )


def _settings() -> tuple[Any, ...]:
    everywhere = nn.modules.module
    hooked = bool(everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)
    here = (hooked, torch.get_num_threads(), torch.backends.mkldnn.enabled)
    return (*map(os.environ.get, SETTINGS), *here, torch.get_default_dtype())


def _of(module: nn.Module) -> tuple[list[Any], list[Any], list[Any]]:
    d = vars(module)
    return [*d.values()], [type(module), *d["_modules"].values()], _tensors(d)


def _is(module: nn.Module, of: tuple[list[Any], list[Any], list[Any]]) -> bool:
    d = vars(module)
    values, modules, tensors = of
    return (
        len(d) == len(values)
        and all(map(operator.is_, d.values(), values))
        and len(d["_modules"]) == len(modules) - 1
        and all(map(operator.is_, (type(module), *d["_modules"].values()), modules))
        and not d["_forward_hooks"]
        and not d["_forward_pre_hooks"]
        and _tensors(d) == tensors
    )


def _tensors(d: dict[str, Any]) -> list[Any]:
    return [
        None if t is None else (id(t), t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype)
        for held in (d["_parameters"], d["_buffers"])
        for t in held.values()
    ]
