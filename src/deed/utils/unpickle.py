"""Data sets that are pickles, without what makes pickles unsafe.

A pickle names functions to call. Here it may name numpy's array constructors and nothing else, and even those are
replaced: numpy's own can be handed a dtype whose flags make it take plain bytes for pointers. Arrays come out as
lists, numpy numbers as Python's. Nor may a few bytes stand for much: all arrays together have no more items, and as
lists no more parts, than the file has bytes.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from deed.errors import DataError

LEAST = 4096  # items that any file may have
PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,5}|O[48]?")


def load_objects(path: Path) -> list[Any]:
    """The items of a `.npy` file with a one-dimensional array of objects, as plain Python values.

    Raises:
        DataError: no such file, not such an array, cut short, or a pickle that refers to anything but numpy arrays
            and builtin values.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype.kind != "O" or len(shape) != 1:
                raise ValueError(f"expected a one-dimensional array of objects, got {dtype} {shape}")
            return load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can fail in any way
        raise DataError(f"{path}: cannot be read as a numpy array of objects: {_one_line(error)}") from None


def load(file: IO[bytes], encoding: str = "ASCII") -> Any:
    """The object pickled in an open file: containers, strings, numbers, None; arrays as lists.

    Args:
        file: open for reading, and seekable.
        encoding: of Python 2's strings ("latin1" reads its numpy arrays).

    Raises:
        pickle.UnpicklingError: the pickle refers to anything else, or its arrays are larger than the file. Broken pickles
            raise whatever they run into.
    """
    return _plain(_Unpickler(file, encoding=encoding).load(), {})


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        start = file.tell()
        self._left = max(LEAST, file.seek(0, 2) - start)
        file.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if (module, name) in ARRAYS:
            return _Call(lambda *_: _Array(self._spend))
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which data has no need of; refused")
        return ALLOWED[module, name]

    def _spend(self, shape: Any) -> None:
        """Count an array's parts as nested lists: `(3, 0)` is a list of three, `(0, 3)` an empty one."""
        if not isinstance(shape, tuple) or not all(type(axis) is int and 0 <= axis <= self._left for axis in shape):
            raise pickle.UnpicklingError("an array's shape is not that of data in this file; refused")
        end = shape.index(0) if 0 in shape else len(shape)
        parts = sum(math.prod(shape[:i]) for i in range(1, end + 1))
        if parts > self._left:
            raise pickle.UnpicklingError("its arrays have more items than the file has bytes; refused")
        self._left -= parts


class _Call:
    """A function for a pickle to call. Unlike a bare one, its attributes cannot be set by the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function; refused")


class _Dtype:
    """A dtype of numbers, strings or objects; nothing of its pickled state counts but the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, spec: str) -> None:
        if not PLAIN_DTYPE.fullmatch(spec):
            raise pickle.UnpicklingError(f"expected arrays of numbers, strings or objects, got dtype {spec!r}")
        self.dtype = np.dtype(object if spec.startswith("O") else spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """An array on its way to being a list."""

    __slots__ = ("_spend", "items")

    def __init__(self, spend: Callable[[Any], None]) -> None:
        self.items: list[Any] = []
        self._spend = spend

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self._spend(shape)
        if dtype.dtype.kind != "O":
            data = _bytes(data)
            self.items = np.ndarray(shape, dtype.dtype, data, order="F" if fortran else "C").tolist()
            return
        objects = np.empty(len(data), dtype=object)
        for i, item in enumerate(data):  # one by one: a slice would take items apart that are lists themselves
            objects[i] = item
        self.items = objects.reshape(shape).tolist()


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    if dtype.dtype.kind == "O":
        raise pickle.UnpicklingError("expected a number or string, got an object scalar")
    return np.ndarray((), dtype.dtype, _bytes(data)).item()


def _bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else data  # a string where Python 2 wrote it


def _encode(text: str, encoding: str) -> bytes:
    """How pickles before protocol 3 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes written as latin1, got {encoding!r}")
    return text.encode("latin1")


ARRAYS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray")}
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _Call(_scalar),
    ("numpy", "dtype"): _Call(lambda spec, *_: _Dtype(spec)),
    ("_codecs", "encode"): _Call(_encode),
    ("builtins", "bytes"): _Call(lambda: b""),  # no bytes at all, before protocol 3
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays as lists. What occurs twice (a page's words, for each of its questions) stays one object."""
    if isinstance(value, (_Dtype, _Call)):
        raise pickle.UnpicklingError("expected data, got a type")
    if not isinstance(value, (_Array, dict, list, tuple)):
        return value
    if id(value) not in done:
        if isinstance(value, _Array):
            done[id(value)] = _plain(value.items, done)
        elif isinstance(value, dict):
            done[id(value)] = {key: _plain(item, done) for key, item in value.items()}
        else:
            done[id(value)] = type(value)(_plain(item, done) for item in value)
    return done[id(value)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
