"""Reads what OFA was released as: fairseq's checkpoint files, and the model folders of the Transformers port.

Nothing in a file is run: pickles may hold tensors, plain values, `argparse.Namespace` and numpy's numbers (of losses that
were logged; made by `utils/unpickle.py`'s replacements of numpy's functions), nothing else.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import read_json
from deed.utils.unpickle import ALLOWED

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Source:
    """What was found.

    Attributes:
        form: `"cfg"` or `"args"` (fairseq, newer and older), or `"port"`.
        tensors: by the names the file has.
        values: the model's arguments (fairseq, those of the task beneath them) or `config.json` (port).
        has_ema: whether the file also holds averaged weights.
        one_of_tied: whether the file keeps one name only of tensors that are one, as safetensors do.
        folder: where tokenizer files may lie.
        notes: what of the file was not read, for the reader.
    """

    form: str
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    folder: Path
    has_ema: bool = False
    one_of_tied: bool = False
    notes: tuple[str, ...] = ()


def read_source(path: str | Path, ema: bool = False) -> Source:
    """A fairseq checkpoint file, or a folder of the port.

    Args:
        ema: take the averaged weights of a fairseq checkpoint.

    Raises:
        ValueError: not there, not one of these, damaged, or refused; one line that names the file and what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        if ema:
            raise ValueError(f"--ema is for fairseq checkpoints; {path} is a folder")
        return _read_port(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    return _read_fairseq(path, ema)


def _read_fairseq(path: Path, ema: bool) -> Source:
    state = load_pickle(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), Mapping):
        raise ValueError(
            f"{path}: expected a fairseq checkpoint, with the entry 'model'; for a model folder of the Transformers port, "
            "give the folder"
        )
    extra = state.get("extra_state")
    averaged = extra.get("ema") if isinstance(extra, dict) else None
    # Fairseq keeps them in extra_state; what other tools put beside 'model' was made in a way that is not known here.
    loose = ("the checkpoint's top-level entry 'ema' is not fairseq's (extra_state, ema) and was not read",)
    notes = loose if "ema" in state else ()
    if ema and not isinstance(averaged, Mapping):
        reason = f" ({notes[0]})" if notes else ""
        raise ValueError(f"{path}: no averaged weights (extra_state, ema){reason}; leave --ema out")
    form, values = _arguments(path, state)
    tensors = _tensors(path, averaged if ema else state["model"])  # type: ignore[arg-type]
    return Source(form, tensors, values, path.parent, has_ema=isinstance(averaged, Mapping), notes=notes)


def _arguments(path: Path, state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's arguments; those of the task are taken where the model has none of that name."""
    if state.get("args") is not None:
        values = _plain(state["args"])
        if values is None:
            raise ValueError(f"{path}: 'args' should be a Namespace or a dict, got {type(state['args']).__name__}")
        return "args", values
    config = _plain(state.get("cfg"))
    if config is None:
        raise ValueError(f"{path}: neither 'args' nor 'cfg' says how the model is built")
    model = _plain(config.get("model"))
    if model is None:
        raise ValueError(f"{path}: cfg has no 'model'")
    return "cfg", {**(_plain(config.get("task")) or {}), **model}


def _plain(value: Any) -> dict[str, Any] | None:
    if isinstance(value, argparse.Namespace):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else None


def _read_port(folder: Path) -> Source:
    config = folder / "config.json"
    values = read_json(config, ValueError)
    if values.get("model_type") != "ofa":
        raise ValueError(f"{config}: expected the configuration of an OFA model, with model_type 'ofa'")
    for name in WEIGHTS:
        safe, index = name.endswith("safetensors"), folder / f"{name}.index.json"
        if (folder / name).is_file():
            return Source("port", _read_file(folder / name), values, folder, one_of_tied=safe)
        if index.is_file():
            return Source("port", _read_parts(index), values, folder, one_of_tied=safe)
    raise ValueError(f"{folder}: no weights; expected {' or '.join(WEIGHTS)}")


def _read_parts(index: Path) -> dict[str, torch.Tensor]:
    try:
        parts = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{index} cannot be read: expected JSON with a weight_map") from None
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        if Path(str(part)).name != part:
            raise ValueError(f"{index}: {part!r} is not the name of a file beside it")
        tensors |= _read_file(index.parent / part)
    return tensors


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        return _tensors(path, load_pickle(path))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from None


def _tensors(path: Path, values: Any) -> dict[str, torch.Tensor]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected tensors by name, got {type(values).__name__}")
    others = [name for name, value in values.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{path}: {named(others)} should be tensors")
    return dict(values)


def load_pickle(path: Path) -> Any:
    """`torch.load` for files that nobody vouches for.

    Raises:
        ValueError: the pickle refers to something that weights have no need of (refused), or is damaged.
    """
    # Optimizer states, which large checkpoints mostly consist of, are then never read.
    lazily = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(allowed_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can fail in any way
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"(\S+) (?:is|was) not an allowed", str(error))
        if found:
            raise ValueError(f"{path} refers to {found[1]}, which weights have no need of; refused") from None
        # Torch's own advice, to load it without checks, is not passed on.
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, cut short, or holds more than tensors and plain values"
        ) from None


def allowed_globals() -> list[Any]:
    """What a checkpoint's pickle may name beside tensors, as torch takes it."""
    scalar, dtype = ALLOWED["numpy.core.multiarray", "scalar"], ALLOWED["numpy", "dtype"]
    numbers = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, type(dtype("f8")), (dtype, "numpy.dtype"), *numbers]


def named(names: Iterable[str], most: int = 20) -> str:
    """Names for an error, the first `most` of them."""
    listed = sorted(map(str, names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


__all__ = ["Source", "load_pickle", "named", "read_source"]
