"""`deed.data_job` and `deed batch`: a model at work on a whole file or folder, in this process or on a Ray cluster.

The input is cut into blocks. A block is answered as one, its rows sorted by length into batches, and written as one Parquet
file that is there whole or not at all; a job that is started again goes on with the blocks that are missing. What cannot be
read or answered becomes a row with an error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deed.errors import DataError
from deed.pipelines.base import Answered, Pipeline
from deed.pipelines.making import pipeline, task_name
from deed.utils.files import read_json, write_json
from deed.utils.optional import need
from deed.utils.progress import Progress, shown
from deed.utils.saved_model import read_saved_model

from .folders import hears
from .job_inputs import INSTALL, Block, Input, Source
from .job_outputs import Attempts, counts, row_of, write_rows
from .kinds import tasks_of_kind, usual_task

MANIFEST = "_manifest.json"  # readers of Parquet pass over names that start so
KINDS = {"transcribe": "audio", "caption": "image", "vqa": "image", "document-qa": "image"}  # all others: text
ASKS = ("vqa", "document-qa")
DEADLY = 2  # deaths of an input's process after which it is not tried again


@dataclass(frozen=True)
class Job:
    """What a worker needs to answer a block, plain enough to be sent to another machine.

    Attributes:
        source: path of the input.
        output: folder of the answers.
        task: of `deed.pipeline`.
        model: folder or Hub name.
        column, questions: of `Source`.
        options: of `deed.pipeline`.
    """

    source: str
    output: str
    task: str
    model: str
    column: str | None = None
    questions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def reader(self) -> Source:
        """The input."""
        return Source(Path(self.source), KINDS.get(self.task, "text"), self.column, self.questions, self.task in ASKS)


def data_job(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: Any,
    *,
    task: str | None = None,
    question: str | Iterable[str] | None = None,
    column: str | None = None,
    block_size: int = 256,
    ray: bool = False,
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Answer every row of a file, or every file of a folder, into Parquet.

    Each block of the input becomes `output/part-NNNNN.parquet` with the columns `input` (number of the row or file), `id` (the
    row's own, or the file's name), `page`, `question`, `answer`, `depths` (the exit depth of every token), `depth` (their
    mean), `confidence` (that the answer is right, where answers are calibrated), and `error`. Started again with the same
    settings, the job goes on with the blocks that are missing.

    Args:
        source: `.jsonl` or `.parquet` with a row for each input (`text`, or `image` with `question`, or `audio`; files by
            their paths, relative to `source`'s folder, or in Parquet as bytes), or a folder of pictures, PDFs (every page) or
            sounds.
        output: folder; made where there is none.
        model: folder or Hub name; without `ray` also a model, with `processor=`.
        task: of `deed.pipeline`; None: what the model is for.
        question: one or several, for inputs without a `question` of their own.
        column: of the rows, with text, picture or sound; None: the first of the usual names.
        block_size: rows or files of a block.
        ray: work on the Ray cluster that this process belongs to or `RAY_ADDRESS` names, else one on this machine. `source`,
            `output` and a model's folder have to lie where every machine sees them.
        workers: Ray actors at most, each with the model; None: what the cluster has room for.
        num_cpus, num_gpus: that each of them takes, also shares.
        progress: shows how far it is; None: a bar on a terminal.
        options: of `deed.pipeline` (`threshold`, `exact`, `batch_size`, `src_lang` …) and of `generate()`.

    Returns:
        `{"blocks", "answered_before", "rows", "errors", "output"}`: how many blocks, of those how many were there already, and
        how many rows and errors in all of them.

    Raises:
        DataError: an input that cannot be read at all, an output that holds another job, or a library missing.
        ValueError: an option out of range, or one with which nothing can be answered.

    Example:
        ```python
        from pathlib import Path

        Path("words.jsonl").write_text('{"text": "cat"}\\n{"text": "dogs"}\\n')
        done = deed.data_job("words.jsonl", "answers", model, processor=tokenizer, threshold=0.9, max_new_tokens=8)
        assert done["rows"] == 2 and done["errors"] == 0  # read them with pandas.read_parquet("answers")
        ```
    """
    for name, value in (("block_size", block_size), ("workers", workers)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    need("pyarrow.parquet", INSTALL)
    by_name = isinstance(model, str | os.PathLike)
    if ray and not by_name:
        raise ValueError("with ray=True the model is loaded by each worker: give its folder or name")
    if ray and "processor" in options:
        raise ValueError("with ray=True the processor is loaded by each worker, from the model's folder")
    job = Job(
        str(Path(source).absolute()),
        str(Path(output).absolute()),
        task_name(task) if task else task_of(model, question is not None),
        _absolute(model) if by_name else type(model).__name__,
        column,
        () if question is None else (question,) if isinstance(question, str) else tuple(question),
        options,
    )
    blocks = job.reader().blocks(block_size)
    check_manifest(job, block_size, len(blocks))
    missing = [block for block in blocks if not part(job, block.number).exists()]
    with shown(progress) as bars, bars.bar("answering", total=len(blocks)) as bar:
        bar.advance(len(blocks) - len(missing))
        for _ in _on_ray(job, missing, workers, num_cpus, num_gpus) if ray and missing else _here(job, model, missing):
            bar.advance()
    rows, errors = counts(part(job, block.number) for block in blocks)
    return {
        "blocks": len(blocks),
        "answered_before": len(blocks) - len(missing),
        "rows": rows,
        "errors": errors,
        "output": job.output,
    }


def task_of(model: Any, asked: bool = False) -> str:
    """The pipeline's task that a model is for.

    Args:
        model: a folder, a Hub name or a model.
        asked: whether there is a question.
    """
    by_folder = isinstance(model, str | os.PathLike) and Path(model).is_dir()
    if isinstance(model, str | os.PathLike):
        if by_folder:
            kind = read_saved_model(Path(model)).model_type
        else:
            from transformers import AutoConfig

            kind = AutoConfig.from_pretrained(model).model_type
    else:
        kind = model.config.model_type
    return usual_task(tasks_of_kind(kind, by_folder and hears(Path(model))), asked)


def _absolute(model: str | os.PathLike[str]) -> str:
    return str(Path(model).absolute()) if Path(model).exists() else str(model)


def part(job: Job, number: int) -> Path:
    """The file of a block's answers."""
    return Path(job.output) / f"part-{number:05d}.parquet"


def check_manifest(job: Job, block_size: int, blocks: int) -> None:
    """Write down what the job is; where that is written already, make sure that it is the same.

    Args:
        job: what it is.
        block_size: inputs of a block.
        blocks: how many there are.

    Raises:
        DataError: the folder holds another job, or answers to an input that has changed since.
    """
    told = {k: v for k, v in asdict(job).items() if k != "output"} | {"block_size": block_size, "blocks": blocks}
    told = json.loads(json.dumps({**told, "fingerprint": job.reader().fingerprint()}, default=_named))
    path = Path(job.output) / MANIFEST
    if path.exists():
        before = read_json(path)
        changed = [name for name in told if before.get(name) != told[name]]
        if changed:
            names = ", ".join("the input itself" if name == "fingerprint" else name for name in changed)
            raise DataError(f"{job.output} holds a job with another {names}; choose another folder or delete it")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, told)


def _named(value: Any) -> str:
    """An option that JSON cannot hold, by its type."""
    return str(value) if isinstance(value, os.PathLike) else type(value).__name__


class Worker:
    """Answers blocks; holds the model.

    Args:
        job: what it is.
        model: a model in place of `job.model`; None: that is loaded.
    """

    def __init__(self, job: Job, model: Any = None) -> None:
        self.job, self.source = job, job.reader()
        self.pipe: Pipeline = pipeline(job.task, job.model if model is None else model, **job.options)

    def work(self, block: Block) -> int:
        """Answer a block and write it; the number of its rows.

        Raises:
            ValueError, RuntimeError: of the first input, where none of a block can be answered.
        """
        inputs = self.source.read(block)
        with Attempts(Path(self.job.output) / f"_part-{block.number:05d}.attempts") as attempts:
            if attempts.died:  # out of memory, perhaps: one by one, to find out where
                answers = [self._alone(place, one, attempts) for place, one in enumerate(inputs)]
            else:
                readable = iter(self.pipe.answer_each([one.item for one in inputs if not one.error]))
                answers = [Answered(error=one.error) if one.error else next(readable) for one in inputs]
            rows = [row_of(one, answered) for one, answered in zip(inputs, answers, strict=True)]
            write_rows(part(self.job, block.number), rows)
        return len(inputs)

    def _alone(self, place: int, one: Input, attempts: Attempts) -> Answered:
        if one.error:
            return Answered(error=one.error)
        if attempts.died_on(place) >= DEADLY:
            return Answered(error="the process that answers died of this input")
        attempts.now_at(place)
        return self.pipe.answer_each([one.item])[0]


def _here(job: Job, model: Any, blocks: list[Block]) -> Iterator[int]:
    if blocks:
        worker = Worker(job, None if isinstance(model, str | os.PathLike) else model)
        for block in blocks:
            yield worker.work(block)


def _on_ray(job: Job, blocks: list[Block], workers: int | None, num_cpus: float, num_gpus: float) -> Iterator[int]:
    """The blocks as a Ray data set, each mapped by an actor of a pool that starts small and grows with the work. An actor that
    dies is replaced, and its block is answered again."""
    from .ray_cluster import connect

    connect()
    data = need("ray.data", INSTALL)
    data.DataContext.get_current().enable_progress_bars = False  # there is one of deed's
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"block": json.dumps(asdict(block))} for block in blocks]
    made = data.from_items(items, override_num_blocks=len(items)).map_batches(
        RayWorker,
        fn_constructor_args=(job, num_cpus),
        batch_size=1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers or len(blocks), len(blocks))),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    for row in made.iter_rows():
        yield int(row["rows"])


class RayWorker:
    """`Worker` as an actor of Ray Data.

    Args:
        job: what it is.
        num_cpus: processors that it may use; its threads are as many.
    """

    def __init__(self, job: Job, num_cpus: float) -> None:
        import torch

        torch.set_num_threads(max(1, int(num_cpus)))
        self.worker = Worker(job)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the blocks of a batch."""
        import numpy as np

        blocks = [Block(**json.loads(text)) for text in batch["block"]]
        return {"rows": np.array([self.worker.work(block) for block in blocks])}
