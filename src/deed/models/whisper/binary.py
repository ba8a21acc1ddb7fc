"""CTranslate2's `model.bin`: a list of named arrays.

Layout (CTranslate2 4, python/ctranslate2/specs/model_spec.py, `_serialize`; little-endian): version u32, name of the model's
class, revision u32, count u32; per array its name, rank u8, dimensions u32 each, type u8, bytes u32, data; then a count u32
of aliases, pairs of names. A string is its length with a closing zero u16, its bytes, the zero.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO

import torch

from deed.errors import DeedLoadError

NEWEST = 6  # version of the layout
MOST_ARRAYS, MOST_RANK, LONGEST_NAME = 100_000, 8, 4096
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)


def read_arrays(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The class of the model, and its arrays by name, an alias as the array that it names.

    Args:
        path: a `model.bin`.

    Raises:
        DeedLoadError: missing, of another format or a newer version, or cut short.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise DeedLoadError(f"{path} cannot be read: {error.strerror}") from None
    except (struct.error, UnicodeDecodeError, EOFError) as error:
        raise DeedLoadError(f"{path} is no CTranslate2 model, or is damaged or cut short: {error}") from None


def _read(file: IO[bytes], path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    (version,) = _numbers(file, "I")
    if not 1 <= version <= NEWEST:
        raise DeedLoadError(f"{path}: version {version} of CTranslate2's format; this reader knows 1 to {NEWEST}")
    name = _string(file)
    _revision, count = _numbers(file, "II")
    if count > MOST_ARRAYS:
        raise EOFError(f"{count} arrays")
    left = path.stat().st_size
    arrays: dict[str, torch.Tensor] = {}
    for _ in range(count):
        key = _string(file)
        (rank,) = _numbers(file, "B")
        if rank > MOST_RANK:
            raise EOFError(f"{key} has {rank} dimensions")
        shape = _numbers(file, "I" * rank)
        kind, size = _numbers(file, "BI")
        if kind >= len(DTYPES):
            raise EOFError(f"{key} is of the unknown type {kind}")
        dtype = DTYPES[kind]
        if math.prod(shape) * dtype.itemsize != size or size > left:
            raise EOFError(f"{key} {list(shape)} cannot have {size} bytes")
        data = bytearray(size)
        if file.readinto(data) != size:  # type: ignore[attr-defined]
            raise EOFError(f"the file ends within {key}")
        flat = torch.frombuffer(data, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        arrays[key] = flat.reshape(shape)
    (count,) = _numbers(file, "I")
    for _ in range(min(count, MOST_ARRAYS)):
        alias, target = _string(file), _string(file)
        if target not in arrays:
            raise EOFError(f"{alias} stands for {target}, which is not there")
        arrays[alias] = arrays[target]
    return name, arrays


def _numbers(file: IO[bytes], form: str) -> tuple[int, ...]:
    form = "<" + form
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _string(file: IO[bytes]) -> str:
    (length,) = _numbers(file, "H")
    if not 1 <= length <= LONGEST_NAME:
        raise EOFError(f"a name of {length} bytes")
    return file.read(length)[:-1].decode("utf-8")


class Arrays:
    """Arrays by name, quantized ones as floats, with a note of which have been used."""

    def __init__(self, arrays: dict[str, torch.Tensor], path: Path) -> None:
        self.arrays, self.path = arrays, path
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def take(self, name: str) -> torch.Tensor:
        """One array as float32; int8 and int16 weights divided by their scales, `[out]` or one for all.

        Raises:
            DeedLoadError: it is not there.
        """
        if name not in self.arrays:
            raise DeedLoadError(f"{self.path} has no {name}: it is not the model that its class says")
        self.used.add(name)
        value = self.arrays[name]
        if value.dtype in (torch.int8, torch.int16) and f"{name}_scale" in self.arrays:
            self.used.add(f"{name}_scale")
            scale = self.arrays[f"{name}_scale"].float()
            return value.float() / (scale.reshape(-1, *[1] * (value.ndim - 1)) if scale.ndim else scale)
        return value.float()

    def number(self, name: str) -> int:
        """A scalar.

        Raises:
            DeedLoadError: it is not there, or no scalar.
        """
        value = self.take(name)
        if value.numel() != 1:
            raise DeedLoadError(f"{self.path}: {name} must be one number, got {list(value.shape)}")
        return int(value)

    def count(self, pattern: str) -> int:
        """How many of `pattern.format(0)`, `pattern.format(1)` … there are."""
        n = 0
        while any(name.startswith(pattern.format(n)) for name in self.arrays):
            n += 1
        return n
