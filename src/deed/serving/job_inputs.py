"""What a data job reads: JSONL, Parquet, or a folder of files, cut into blocks that a worker can read by itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.utils.audio import SUFFIXES
from deed.utils.optional import need

INSTALL = 'pip install "deed-transformers[ray]"'
PAGED = (".pdf", ".tif", ".tiff")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FILES = {"image": (*PICTURES, *PAGED), "audio": SUFFIXES, "text": (".txt",)}
COLUMNS = {
    "image": ("image", "picture", "file", "path"),
    "audio": ("audio", "sound", "file", "path"),
    "text": ("text", "input", "source", "sentence", "article", "document"),
}


@dataclass(frozen=True)
class Block:
    """A piece of the input, answered and written as one.

    Attributes:
        number: from 0.
        first: number of its first input, from 0.
        count: of its inputs.
        place: where they are: `[offset, bytes]` of a JSONL file, `[]` of Parquet, the files of a folder.
    """

    number: int
    first: int
    count: int
    place: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Input:
    """One thing to be answered.

    Attributes:
        number: of the input, from 0; pages and questions of one file share it.
        id: the row's own `id` column, or the file's name.
        item: what the pipeline takes; None where it cannot be read.
        page, question: where there are any.
        error: why it cannot be read; empty where it can.
    """

    number: int
    id: str
    item: Any = None
    page: int | None = None
    question: str | None = None
    error: str = ""


class Source:
    """The inputs of a job.

    Args:
        path: a `.jsonl` or `.parquet` file, or a folder of files.
        kind: `"text"`, `"image"` or `"audio"`.
        column: where that is in a row; None: the first of the usual names.
        questions: asked of every input that has no `question` of its own.
        asks: whether a question is needed.

    Raises:
        DataError: no such file, another kind of file, or a folder with nothing in it that fits.
    """

    def __init__(
        self, path: Path, kind: str, column: str | None = None, questions: tuple[str, ...] = (), asks: bool = False
    ) -> None:
        self.path, self.kind, self.column, self.questions, self.asks = path, kind, column, questions, asks
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        self.form = "folder" if path.is_dir() else path.suffix.lower().lstrip(".").replace("ndjson", "jsonl")
        if self.form not in ("folder", "jsonl", "parquet"):
            raise DataError(f"{path}: a job reads .jsonl, .parquet, or a folder of files")

    def blocks(self, size: int) -> list[Block]:
        """The whole input in blocks of so many.

        Raises:
            DataError: a damaged file, or nothing to answer.
        """
        found = list({"folder": self._files, "jsonl": self._lines, "parquet": self._rows}[self.form](size))
        if not found:
            wanted = f" ({', '.join(FILES[self.kind])})" if self.form == "folder" else ""
            raise DataError(f"{self.path} holds nothing to answer{wanted}")
        return found

    def fingerprint(self) -> str:
        """Changes when the input does: names, sizes and times of change."""
        files = sorted(self._fitting()) if self.form == "folder" else [self.path]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()

    def _fitting(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.path):
            yield from (Path(folder, name) for name in names if name.lower().endswith(FILES[self.kind]))

    def _files(self, size: int) -> Iterator[Block]:
        files = sorted(str(file.relative_to(self.path)) for file in self._fitting())
        for at in range(0, len(files), size):
            part = files[at : at + size]
            yield Block(at // size, at, len(part), part)

    def _lines(self, size: int) -> Iterator[Block]:
        number, first, count, start, at = 0, 0, 0, 0, 0
        with self.path.open("rb") as file:
            for line in file:
                at += len(line)
                count += bool(line.strip())
                if count == size:
                    yield Block(number, first, count, [start, at - start])
                    number, first, count, start = number + 1, first + count, 0, at
        if count:
            yield Block(number, first, count, [start, at - start])

    def _rows(self, size: int) -> Iterator[Block]:
        total = self._parquet().metadata.num_rows
        for at in range(0, total, size):
            yield Block(at // size, at, min(size, total - at))

    def _parquet(self) -> Any:
        parquet = need("pyarrow.parquet", INSTALL)
        try:
            return parquet.ParquetFile(self.path)
        except Exception as error:  # pyarrow has classes of its own for what is damaged
            raise DataError(f"{self.path} cannot be read as Parquet: {error}") from None

    def read(self, block: Block) -> list[Input]:
        """What a block holds, a file of several pages or a row of several questions as several inputs. What cannot be read is
        an input with an error."""
        if self.form == "folder":
            return [one for i, name in enumerate(block.place) for one in self._of_file(block.first + i, name)]
        rows = self._json_rows(block) if self.form == "jsonl" else self._parquet_rows(block)
        return [one for i, row in enumerate(rows) for one in self._of_row(block.first + i, row)]

    def _json_rows(self, block: Block) -> Iterator[Any]:
        offset, size = block.place
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file.read(size).splitlines():
                if line.strip():
                    try:
                        yield json.loads(line)
                    except (ValueError, RecursionError) as error:
                        yield DataError(f"not JSON: {error}")

    def _parquet_rows(self, block: Block) -> Iterator[Any]:
        file, at = self._parquet(), 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            start, stop = max(block.first - at, 0), min(block.first + block.count - at, rows)
            if start < stop:
                yield from file.read_row_group(group).slice(start, stop - start).to_pylist()
            at += rows

    def _of_file(self, number: int, name: str) -> Iterator[Input]:
        file = self.path / name
        if self.kind == "text":
            try:
                yield Input(number, name, file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                yield Input(number, name, error=f"{file} cannot be read as text: {error}")
            return
        if self.kind == "audio":
            yield Input(number, name, str(file))
            return
        pages = 1
        if file.suffix.lower() in PAGED:
            from deed.ocr import page_count

            try:
                pages = page_count(file)
            except (DataError, OSError) as error:
                yield Input(number, name, error=str(error))
                return
        for page in range(1, pages + 1):
            yield from self._asked(number, name, str(file), page if pages > 1 else None, self.questions)

    def _of_row(self, number: int, row: Any) -> Iterator[Input]:
        if not isinstance(row, Mapping):
            why = row if isinstance(row, DataError) else f"a row must be an object, got {type(row).__name__}"
            yield Input(number, "", error=str(why))
            return
        name = "" if row.get("id") is None else str(row["id"])
        columns = (self.column,) if self.column else COLUMNS[self.kind]
        value = next((row[c] for c in columns if row.get(c) is not None), None)
        if value is None:
            yield Input(number, name, error=f"the row has no {' or '.join(columns)}")
            return
        if self.kind == "text":
            wrong = "" if isinstance(value, str) else f"a text is expected, got {type(value).__name__}"
            yield Input(number, name, None if wrong else value, error=wrong)
            return
        if isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):  # as `datasets` keeps files
            value = value.get("bytes") or value["path"]
        if isinstance(value, str):
            value = str(self.path.parent / value)
        if self.kind == "audio":
            yield Input(number, name, value)
            return
        own = row.get("question")
        questions = self.questions if own is None else tuple(own) if isinstance(own, list) else (str(own),)
        yield from self._asked(number, name, value, row.get("page"), questions)

    def _asked(
        self, number: int, name: str, image: Any, page: int | None, questions: tuple[str, ...]
    ) -> Iterator[Input]:
        if not self.asks:
            yield Input(number, name, image, page)
        elif not questions:
            yield Input(number, name, page=page, error="no question: the row has none, and none is given for all")
        for question in questions if self.asks else ():
            item = {"image": image, "question": question, **({} if page is None else {"page": page})}
            yield Input(number, name, item, page, question)
