"""What a data job writes: Parquet, a file for each block, and while a block is worked on, how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deed.pipelines.base import Answered
from deed.utils.files import atomic_write

from .job_inputs import Input


class Attempts:
    """Written down while a block is worked on: a process that is killed leaves it behind, and the next one knows.

    Args:
        path: of the file.

    Attributes:
        died: whether a process has died of the block before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Attempts:
        self.died = self.path.exists()
        self._places = [int(line) for line in self.path.read_text().split()] if self.died else []
        self.path.touch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        if kind is None or issubclass(kind, Exception | KeyboardInterrupt):
            self.path.unlink(missing_ok=True)

    def died_on(self, place: int) -> int:
        """How often a process has died of an input: those after which none followed."""
        following = [*self._places, -1][1:]
        return sum(a == place for a, b in zip(self._places, following, strict=True) if b <= a)

    def now_at(self, place: int) -> None:
        """The next input is about to be answered."""
        with self.path.open("a") as file:
            file.write(f"{place}\n")


def row_of(one: Input, answered: Answered) -> dict[str, Any]:
    """A row of the output."""
    row = {"input": one.number, "id": one.id, "page": one.page, "question": one.question}
    if answered.error:
        return {**row, "error": answered.error}
    depths = answered.depths
    mean = sum(depths) / len(depths) if depths else None
    return {
        **row,
        "answer": answered.text,
        "depths": depths,
        "depth": mean,
        "confidence": answered.confidence,
        "error": None,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "input": pa.int64(),
        "id": pa.string(),
        "page": pa.int32(),
        "question": pa.string(),
        "answer": pa.string(),
        "depths": pa.list_(pa.int16()),
        "depth": pa.float32(),
        "confidence": pa.float32(),
        "error": pa.string(),
    }
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def counts(files: Iterable[Path]) -> tuple[int, int]:
    """Rows and errors in the files of a job's blocks."""
    import pyarrow.parquet as pq

    found: Counter[str] = Counter()
    for file in files:
        column = pq.read_table(file, columns=["error"]).column("error")
        found["rows"] += len(column)
        found["errors"] += len(column) - column.null_count
    return found["rows"], found["errors"]
