"""Examples on disk for `deed tune --recipe`: what does not change while exits train, computed once.

A pool is a folder of shards (safetensors, an example's tensors under its number), written whole one after the other, so that a
killed run goes on with the next. It is known by a fingerprint of the model, the task, the data and the options.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deed.errors import DataError
from deed.training.distill import Teacher
from deed.utils.files import atomic_write, read_json, write_json

FORMAT = 1  # of shards; others are not read
SHARD = 32  # examples
META = "pool.json"
HALF_MAX = 6e4  # beyond, float16 overflows


@dataclass(frozen=True)
class ForcedAnswer:
    """One answer of an example: tokens, and from which on they were chosen by the model and not given.

    Attributes:
        kind: `"answer"`, the model's own, or `"label"`.
        tokens: `[length + 1]`, the decoder's prompt first, the end token last.
        given: tokens of the prompt; those after it are predicted.
    """

    kind: str
    tokens: list[int]
    given: int

    @property
    def inputs(self) -> int:
        """Positions that the decoder reads: all but the last token."""
        return len(self.tokens) - 1


@dataclass
class Item:
    """An example in a pool.

    Attributes:
        source: tensors of the encoder's output by name, without batch axis; `"attention_mask of the input"` among them.
        sequences: its answers.
        states: by depth the decoder's states, the sequences one after the other, `[positions, d_model]`.
        teacher: what the untouched model says there.
    """

    source: dict[str, torch.Tensor]
    sequences: list[ForcedAnswer]
    states: dict[int, torch.Tensor]
    teacher: Teacher


@dataclass(frozen=True)
class Entry:
    """Where an example is, and how long."""

    shard: int
    number: int
    source_length: int
    sequences: list[ForcedAnswer] = field(default_factory=list)

    @property
    def positions(self) -> int:
        """Of all its sequences."""
        return sum(one.inputs for one in self.sequences)


def half(values: torch.Tensor) -> torch.Tensor:
    """float16, or bfloat16 where that would overflow; integers and bools as they are."""
    values = values.detach().cpu().contiguous()
    if not values.is_floating_point():
        return values
    return values.to(torch.bfloat16 if len(values) and float(values.abs().max()) > HALF_MAX else torch.float16)


class PoolWriter:
    """Adds shards to a pool; goes on where an earlier one stopped.

    Args:
        folder: made where it is not there.
        about: what the pool is of; it was made of the same.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        self.shards = len(shards_of(folder))
        self.held: list[Item] = []
        self.kind = ""

    @property
    def examples(self) -> int:
        """Examples that are safe on disk."""
        return sum(len(read_index(path)) for path in shards_of(self.folder))

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(path.stat().st_size for path in shards_of(self.folder))

    def add(self, item: Item, kind: str) -> bool:
        """Keep an example; whether a shard was written with it.

        Args:
            item: the example.
            kind: class of the encoder's output, `module:name`.
        """
        self.held.append(item)
        self.kind = kind
        if len(self.held) < SHARD:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Write a shard of what is held."""
        if not self.held:
            return
        tensors: dict[str, torch.Tensor] = {}
        index = []
        for i, item in enumerate(self.held):
            tensors |= {f"{i}.source.{name}": half(value) for name, value in item.source.items()}
            tensors |= {f"{i}.states.{depth}": half(value) for depth, value in item.states.items()}
            tensors[f"{i}.top.ids"] = item.teacher.ids.int().cpu()
            tensors[f"{i}.top.logs"] = half(item.teacher.logs.clamp(min=-1e4))
            tensors[f"{i}.top.rest"] = half(item.teacher.rest.clamp(min=-1e4))
            length = len(next(iter(item.source.values())))
            index.append({"source_length": length, "sequences": [asdict(one) for one in item.sequences]})
        with atomic_write(self.folder / f"{self.shards:05}.safetensors") as temporary:
            save_file(tensors, temporary, metadata={"index": json.dumps(index), "encoder_output": self.kind})
        self.shards += 1
        self.held = []

    def close(self, cpu_seconds: float = 0.0) -> None:
        """Write what is held, and what the pool is of and took.

        Args:
            cpu_seconds: processor time of what was added now.
        """
        self.flush()
        spent = told_of(self.folder).get("cpu_seconds", 0.0) + cpu_seconds
        write_json(self.folder / META, {**self.about, "examples": self.examples, "cpu_seconds": spent})


def told_of(folder: Path) -> dict[str, Any]:
    """What `PoolWriter.close` wrote; nothing of a pool that was never closed."""
    return read_json(folder / META) if (folder / META).is_file() else {}


def shards_of(folder: Path) -> list[Path]:
    """Its shards in their order."""
    return sorted(folder.glob("[0-9]*.safetensors"))


def read_index(path: Path) -> list[dict[str, Any]]:
    """What a shard says of its examples.

    Raises:
        DataError: damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            found: list[dict[str, Any]] = json.loads(file.metadata()["index"])
            return found
    except Exception as error:  # safetensors raises its own, JSON others
        raise DataError(
            f"{path} is damaged ({error}); delete the folder {path.parent}, and it is made again"
        ) from None


class Pool:
    """A pool to train on.

    Args:
        folder: written by `PoolWriter`.
        count: its first so many examples; None: all.

    Attributes:
        entries: where its examples are.
        kind: class of the encoder's output.
        cpu_seconds: processor time that making it took.

    Raises:
        DataError: a damaged shard, or no examples.
    """

    def __init__(self, folder: Path, count: int | None = None) -> None:
        self.folder, self.entries, self._files = folder, list[Entry](), list[Any]()
        self.kind: Any = None
        self.cpu_seconds = float(told_of(folder).get("cpu_seconds", 0.0))
        for shard, path in enumerate(shards_of(folder)):
            for number, one in enumerate(read_index(path)):
                sequences = [ForcedAnswer(**values) for values in one["sequences"]]
                self.entries.append(Entry(shard, number, one["source_length"], sequences))
            file = safe_open(path, "pt")
            self.kind = self.kind or output_class(file.metadata()["encoder_output"])
            self._files.append(file)
        self._names = [list(file.keys()) for file in self._files]
        self.entries = self.entries[:count]
        if not self.entries:
            raise DataError(f"{folder} has no examples")

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def tokens(self) -> int:
        """Predicted tokens of all sequences."""
        return sum(len(one.tokens) - one.given for entry in self.entries for one in entry.sequences)

    def item(self, i: int, kinds: Sequence[str] | None = None, depths: Sequence[int] = ()) -> Item:
        """An example.

        Args:
            i: its place.
            kinds: of sequences wanted; None: all. Where it has none of them, all.
            depths: whose states are wanted.
        """
        entry = self.entries[i]
        file, at = self._files[entry.shard], f"{entry.number}."
        keep = [one for one in entry.sequences if kinds is None or one.kind in kinds] or entry.sequences
        names = [name for name in self._names[entry.shard] if name.startswith(f"{at}source.")]
        source = {name[len(at) + 7 :]: file.get_tensor(name) for name in names}

        def read(name: str) -> torch.Tensor:
            values: torch.Tensor = file.get_tensor(at + name)
            if len(keep) == len(entry.sequences):
                return values
            parts = values.split([one.inputs for one in entry.sequences])
            return torch.cat([part for part, one in zip(parts, entry.sequences, strict=True) if one in keep])

        teacher = Teacher(read("top.ids").long(), read("top.logs").float(), read("top.rest").float())
        return Item(source, list(keep), {depth: read(f"states.{depth}") for depth in depths}, teacher)


def fingerprint(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell pools apart."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def of_files(folder: Path, contents: bool) -> str:
    """A digest of a file, or of the files of a folder: of their contents, or of names, sizes and times of change.

    Args:
        folder: or file.
        contents: read them (models), or only look at them (data sets, which may be large).
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(str(path.relative_to(folder) if path != folder else path.name).encode())
        if contents:
            with path.open("rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
        else:
            state = path.stat()
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
    else:
        yield from sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def epoch(entries: Sequence[Entry], batch_size: int, seed: int, number: int) -> list[list[int]]:
    """Batches of like length in random order, the same for a seed and an epoch.

    Args:
        entries: of the pool.
        batch_size: examples.
        seed, number: of the order.
    """
    random = np.random.default_rng((seed, number))
    order, size = random.permutation(len(entries)).tolist(), batch_size * 32
    batches = []
    for at in range(0, len(order), size):
        part = sorted(order[at : at + size], key=lambda i: (entries[i].source_length, entries[i].positions))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def output_class(name: str) -> Any:
    """The class of an encoder's output, by `module:name`.

    Raises:
        DataError: not one of Transformers' or ours.
    """
    module, _, kind = name.partition(":")
    if module.split(".")[0] not in ("transformers", "deed"):
        raise DataError(f"{name} is no class of Transformers or deed")
    return getattr(importlib.import_module(module), kind)
