"""Data jobs: every kind of input, poison, resuming without repeating, and the same on Ray with a worker killed."""

import json
import os
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import deed
from deed.cli import app
from deed.errors import DataError
from deed.serving import data_job as jobs
from deed.serving.job_inputs import Source
from deed.serving.kinds import tasks_of_kind, usual_task
from deed.utils.shipped import CHECKPOINTS

G2P, LATR, OFA = (CHECKPOINTS / name for name in ("g2p", "latr", "ofa"))
INVOICE = CHECKPOINTS.parent / "data" / "samples" / "invoice.pdf"


def words(path, n):
    texts = ["".join(chr(97 + (i * 7 + k * (i % 5 + 1)) % 26) for k in range(3 + i % 8)) for i in range(n)]
    path.write_text("".join(json.dumps({"id": f"w{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return texts


def rows(folder):
    return pq.read_table(str(folder)).sort_by("input").to_pylist()


def test_jsonl_answers_are_those_of_the_pipeline(tmp_path):
    texts = words(tmp_path / "in.jsonl", 20)
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, block_size=8, batch_size=4)
    assert done == {"blocks": 3, "answered_before": 0, "rows": 20, "errors": 0, "output": str(tmp_path / "out")}
    pipe = deed.pipeline("text2text", G2P)
    found = rows(tmp_path / "out")
    assert [row["answer"] for row in found] == [one["generated_text"] for one in pipe(texts)]
    assert [row["id"] for row in found] == [f"w{i}" for i in range(20)]
    for row, one in zip(found, pipe(texts), strict=True):
        assert row["depth"] == pytest.approx(one["depth"]) == pytest.approx(sum(row["depths"]) / len(row["depths"]))
        assert 0 < row["confidence"] < 1, "the shipped model's answers are calibrated"
        assert row["error"] is None and row["page"] is None and row["question"] is None
    deed.data_job(tmp_path / "in.jsonl", tmp_path / "exact", G2P, exact=True)
    assert all(row["confidence"] is None for row in rows(tmp_path / "exact")), "calibrated for early exits"


def test_poison_is_a_row_with_an_error(tmp_path):
    good = [{"text": "cat"}, {"text": "dogs"}]
    bad = [{"txt": "no text"}, {"text": 5}, [1], {"text": ""}]
    lines = [json.dumps(x) for x in (good[0], *bad)] + ["{not json", "", "\xff", json.dumps(good[1])]
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P)
    found = rows(tmp_path / "out")
    assert done["rows"] == len(found) == 8 and [row["input"] for row in found] == list(range(8))
    errors = [row["error"] for row in found]
    assert errors[0] is None and errors[-1] is None and found[0]["answer"] and found[-1]["answer"]
    assert (
        "the row has no text or input" in errors[1] and "got int" in errors[2] and "an object, got list" in errors[3]
    )
    assert all("not JSON" in error for error in errors[5:7])
    assert done["errors"] == sum(error is not None for error in errors)


def test_one_row_that_breaks_a_batch_does_not_break_the_others(tmp_path, monkeypatch):
    """A failure inside `generate()`, where only the whole batch is known to have failed."""
    from deed.pipelines.text import TextPipeline

    before, calls = TextPipeline.generate_batch, []

    def generate_batch(self, inputs, options):
        calls.append(len(inputs["input_ids"]))
        if poison(inputs["input_ids"]):
            raise RuntimeError("out of memory")
        return before(self, inputs, options)

    texts = words(tmp_path / "in.jsonl", 16)
    marked = deed.pipeline("text2text", G2P).tokenizer(texts[5]).input_ids

    def poison(ids):
        return any([i for i in row if i] == marked for row in ids.tolist())

    monkeypatch.setattr(TextPipeline, "generate_batch", generate_batch)
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, batch_size=8)
    found = rows(tmp_path / "out")
    assert [i for i, row in enumerate(found) if row["error"]] == [5] and done["errors"] == 1
    assert found[5]["error"] == "RuntimeError: out of memory" and found[5]["answer"] is None
    assert max(calls) == 8 and len(calls) <= 2 + 2 * 3, "halved, not one by one"
    monkeypatch.setattr(TextPipeline, "generate_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # nothing can be answered: not the fault of the inputs
        deed.data_job(tmp_path / "in.jsonl", tmp_path / "none", G2P)
    assert not list((tmp_path / "none").glob("part-*"))


def test_a_stopped_job_goes_on_without_repeating(tmp_path, monkeypatch):
    words(tmp_path / "in.jsonl", 20)
    work, seen = jobs.Worker.work, []

    def stopped(self, block):
        if block.number == 2 and 2 not in seen:
            seen.append(2)
            raise KeyboardInterrupt
        seen.append(block.number)
        return work(self, block)

    monkeypatch.setattr(jobs.Worker, "work", stopped)
    with pytest.raises(KeyboardInterrupt):
        deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, block_size=5)
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, block_size=5)
    assert done["answered_before"] == 2 and done["rows"] == 20 and seen == [0, 1, 2, 2, 3]
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in first.items())
    again = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, block_size=5)
    assert again["answered_before"] == 4 and len(seen) == 5
    assert not list((tmp_path / "out").glob(".*")), "nothing half-written is left"
    for changes in ({"block_size": 4}, {"block_size": 5, "threshold": 0.5}, {"block_size": 5, "task": "summarize"}):
        with pytest.raises(DataError, match="another"):
            deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, **changes)
    words(tmp_path / "in.jsonl", 21)
    with pytest.raises(DataError, match="the input itself"):
        deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, block_size=5)


class Killed(BaseException):
    """As if the process had died: nothing is cleared up."""


def test_an_input_that_kills_its_process_is_found_and_left_out(tmp_path, monkeypatch):
    from deed.pipelines.text import TextPipeline

    texts = words(tmp_path / "in.jsonl", 8)
    deadly = deed.pipeline("text2text", G2P).tokenizer(texts[5]).input_ids
    before, batches = TextPipeline.generate_batch, []

    def generate_batch(self, inputs, options):
        batches.append(len(inputs["input_ids"]))
        if any([i for i in row if i] == deadly for row in inputs["input_ids"].tolist()):
            raise Killed
        return before(self, inputs, options)

    monkeypatch.setattr(TextPipeline, "generate_batch", generate_batch)
    for _ in range(3):  # of its batch, and twice alone
        with pytest.raises(Killed):
            deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P)
    assert batches == [8] + [1] * 12
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P)
    found = rows(tmp_path / "out")
    assert done["errors"] == 1 and found[5]["error"] == "the process that answers died of this input"
    assert all(row["answer"] for i, row in enumerate(found) if i != 5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_manifest.json", "part-00000.parquet"]


def test_parquet_rows_are_read_over_row_groups(tmp_path):
    texts = words(tmp_path / "in.jsonl", 23)
    table = pa.table({"sentence": texts, "other": list(range(23))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    source = Source(tmp_path / "in.parquet", "text")
    blocks = source.blocks(5)
    assert [one.item for block in blocks for one in source.read(block)] == texts
    source = Source(tmp_path / "in.jsonl", "text")
    blocks = source.blocks(6)
    assert [(block.first, block.count) for block in blocks] == [(0, 6), (6, 6), (12, 6), (18, 5)]
    assert [one.item for block in blocks for one in source.read(block)] == texts
    done = deed.data_job(tmp_path / "in.parquet", tmp_path / "out", G2P, block_size=10, threshold=0.5)
    assert done["rows"] == 23 and done["errors"] == 0


def test_a_folder_of_pages_and_questions(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.pdf").write_bytes(INVOICE.read_bytes())
    (folder / "sub" / "broken.pdf").write_bytes(b"%PDF-1.4 cut")
    (folder / "notes.md").write_text("not of this job")
    questions = ["what is the total?", "what is the date?"]
    done = deed.data_job(folder, tmp_path / "out", LATR, question=questions)
    found = pq.read_table(str(tmp_path / "out")).to_pylist()
    assert done["rows"] == 3 and done["errors"] == 1
    assert [row["question"] for row in found] == [*questions, None]
    assert found[0]["answer"] and found[0]["id"] == "a.pdf" and found[2]["id"] == os.path.join("sub", "broken.pdf")
    assert "damaged" in found[2]["error"]
    expected = deed.pipeline("document-qa")(str(folder / "a.pdf"), question=questions)
    assert [row["answer"] for row in found[:2]] == [one["answer"] for one in expected]


def test_pictures_as_files_and_as_bytes(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    records = [{"image": "red.png", "question": "what color?"}, {"image": "none.png", "question": "what color?"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*records, {"image": "red.png"}]))
    pq.write_table(
        pa.table({"image": [{"bytes": data, "path": None}], "question": ["what color?"]}), tmp_path / "b.parquet"
    )
    deed.data_job(tmp_path / "in.jsonl", tmp_path / "files", OFA, task="vqa")
    deed.data_job(tmp_path / "b.parquet", tmp_path / "bytes", OFA, task="vqa")
    files, [by_bytes] = rows(tmp_path / "files"), rows(tmp_path / "bytes")
    assert files[0]["answer"] == by_bytes["answer"] and files[0]["answer"]
    assert "none.png" in files[1]["error"] and "no question" in files[2]["error"]
    assert (
        jobs.task_of(OFA) == "caption"
        and jobs.task_of(OFA, asked=True) == "vqa"
        and jobs.task_of(LATR) == "document-qa"
    )


def test_sounds_and_texts_in_a_folder(tmp_path):
    for name in ("b.wav", "a.wav"):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes(np.zeros(1600, dtype=np.int16).tobytes())
    (tmp_path / "c.txt").write_text("cat")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    sounds = Source(tmp_path, "audio")
    assert [(one.id, one.item) for block in sounds.blocks(1) for one in sounds.read(block)] == [
        (name, str(tmp_path / name)) for name in ("a.wav", "b.wav")
    ]
    texts = Source(tmp_path, "text")
    one, other = texts.read(*texts.blocks(9))
    assert one.item == "cat" and "cannot be read as text" in other.error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "missing.jsonl"}, "no such file"),
        ({"source": "words.csv"}, "a job reads .jsonl, .parquet"),
        ({"source": "empty.jsonl"}, "nothing to answer"),
        ({"source": "bad.parquet"}, "cannot be read as Parquet"),
        ({"block_size": 0}, "block_size must be"),
        ({"workers": 1.5}, "workers must be"),
        ({"task": "sing"}, "must be one of"),
        ({"model": object(), "ray": True}, "give its folder or name"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(tmp_path, changes, said):
    words(tmp_path / "in.jsonl", 2)
    for name in ("words.csv", "empty.jsonl", "bad.parquet"):
        (tmp_path / name).write_text("")
    given = {"source": "in.jsonl", "model": G2P, **changes}
    with pytest.raises((ValueError, DataError), match=said):
        deed.data_job(tmp_path / given.pop("source"), tmp_path / "out", given.pop("model"), **given)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path):
    def run_cli(*arguments):
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    words(tmp_path / "in.jsonl", 3)
    result = run_cli("batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--model", str(G2P), "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["rows"] == 3
    result = run_cli("batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--model", str(G2P))
    assert "3 rows in" in result.stdout and "1 of 1 files were there" in result.stdout


@pytest.mark.parametrize(
    ("kind", "asked", "task"),
    [
        ("t5", False, "text2text"),
        ("whisper", False, "transcribe"),
        ("speech-encoder-decoder", True, "transcribe"),
        ("florence2", False, "caption"),
        ("florence2", True, "vqa"),
        ("ofa", False, "caption"),
        ("vision-encoder-decoder", False, "caption"),
        ("pix2struct", False, "document-qa"),
    ],
)
def test_the_task_that_is_meant(kind, asked, task):
    assert usual_task(tasks_of_kind(kind), asked) == task


def test_a_folder_is_searched_for_sound_by_one_table(tmp_path):
    from deed.cli.transcribe import found
    from deed.utils.audio import SUFFIXES

    for i, suffix in enumerate(SUFFIXES):
        (tmp_path / f"{i:02d}{suffix}").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (block,) = Source(tmp_path, "audio").blocks(100)
    assert [str(tmp_path / name) for name in block.place] == list(found([str(tmp_path)])) and block.count == len(
        SUFFIXES
    )
