"""`deed ask` on a tiny random model: what it reads, prints and says, in a narrow terminal, and how it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import typer
from small_model import draw_page, save_small_model
from typer.testing import CliRunner

import deed.ocr
from deed.cli import answering, ask, ask_document
from deed.ocr import OcrResult
from deed.ocr.words import Word
from deed.tasks import questions
from deed.tasks.documents import DocumentTask
from deed.utils.shipped import CHECKPOINTS

WORDS = [Word("Total:", (100, 100, 200, 120)), Word("82.50", (220, 100, 300, 120))]


def run(*arguments, **environment):
    app = typer.Typer()
    ask.register(app)
    env = {"COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb", **environment}
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env, catch_exceptions=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Files by the names that arguments below have for them."""
    folder = tmp_path_factory.mktemp("ask")
    page = draw_page()
    page.save(folder / "page.png")
    page.rotate(90, expand=True).save(folder / "turned.png")
    page.save(folder / "two.pdf", save_all=True, append_images=[draw_page(("SECOND",))])
    whole = (folder / "page.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.pdf").write_bytes((folder / "two.pdf").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    save_small_model(folder / "model")
    save_small_model(folder / "short", max_length=40)
    for name, file in (
        ("weights", "model.safetensors"),
        ("exits", "deed_exits.safetensors"),
        ("config", "config.json"),
        ("tokens", "tokenizer.json"),
    ):
        shutil.copytree(folder / "model", folder / name)
        (folder / name / file).write_bytes((folder / "model" / file).read_bytes()[:100])
    shutil.copytree(folder / "model", folder / "endless")
    (folder / "endless" / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """OCR results of tests are nobody's."""
    monkeypatch.setenv("DEED_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def read(monkeypatch):
    """Stands in for the OCR engine; records what it was given."""
    calls = []

    def fake(image, engine="rapidocr", **options):
        calls.append((image.size, engine, options))
        return OcrResult(fake.words, fake.rotation, image.size, f"{engine} 0", 0.25)

    fake.words, fake.rotation, fake.calls = WORDS, 0, calls
    monkeypatch.setattr(deed.ocr, "read_page", fake)
    return fake


def test_a_turned_page_read_by_the_real_engine(places):
    done = run(places / "turned.png", "What is the total?", "list the fields.", "--model", places / "model")
    assert done.exit_code == 0 and done.stderr == ""
    lines, text = done.stdout.splitlines(), " ".join(done.stdout.split())
    assert all(len(line) <= 60 for line in lines) and "\x1b[" not in done.stdout
    assert lines.index("What is the total?") < lines.index("list the fields.")
    assert len(re.findall(r"encoder \S+ ms, decoder \S+ ms, mean depth \d\.\d\d of 2", text)) == 2
    assert re.search(r"OCR \(rapidocr [^)]+\) \S+ m?s, [67] words", text) and "threshold 0.9 (the model's)" in text
    assert "turned by 90 degrees clockwise" in text
    answer = "".join(lines[lines.index("What is the total?") + 1 :][:2])
    assert re.search(r"\w[₁₂]", answer), "depth as a number beside the tokens"
    assert any(re.match(r"layers run for a token: 1 2 *$", line) for line in lines)


def test_json_is_all_there_is(places, read):
    done = run(places / "page.png", "what is the total?", "--model", places / "model", "--json", "--threshold", "0.02")
    report = json.loads(done.stdout)
    assert done.stderr == "" and (report["threshold"], report["threshold_source"]) == (0.02, "given")
    said = {"engine": "rapidocr 0", "ms": 250.0, "words": 2, "rotation": 0, "reason": "", "cached": False}
    assert report["ocr"] == said and set(report["seconds"]) == {"page", "model", "answers"}
    (answer,) = report["answers"]
    n = len(answer["tokens"])
    assert 1 <= n <= 12 and n == len(answer["depths"]) == len(answer["pieces"])
    assert answer["mean_depth"] == pytest.approx(sum(answer["depths"]) / n) and answer["words_read"] == 2
    assert answer["encoder_ms"] > 0 and answer["decoder_ms"] > 0
    assert [call[:2] for call in read.calls] == [((460, 240), "rapidocr")], "one reading"


def test_the_answer_is_the_models(places, read):
    from deed.data.base import Example
    from deed.tasks.answering import answer_examples

    questions = ["what is the total?", "list the fields."]
    done = run(places / "page.png", *questions, "--model", places / "model", "--json", "--threshold", "0.02")
    task = DocumentTask("pages")
    model, processor = task.load(places / "model")
    examples = [Example(q, [], WORDS, places / "page.png") for q in questions]
    _, [(texts, depth)] = answer_examples(task, model, processor, examples, [{"exit_threshold": 0.02}])
    said = json.loads(done.stdout)["answers"]
    assert [a["answer"] for a in said] == texts
    assert sum(sum(a["depths"]) for a in said) / sum(len(a["depths"]) for a in said) == pytest.approx(depth)


def test_an_answer_of_special_tokens_only(places, read, monkeypatch):
    nothing = {"pieces": ["", ""], "depths": [1, 2], "mean_depth": 1.5, "encoder_ms": 1.0, "decoder_ms": 1.0}
    monkeypatch.setattr(answering, "timed_answer", lambda *_: ([0, 0], dict(nothing)))
    assert "(no text)" in run(places / "page.png", "what?", "--model", places / "model").stdout.splitlines()


def test_without_ocr_and_of_a_pdf_page(places, read):
    options = ["--model", places / "model", "--ocr", "none", "--json"]
    first = json.loads(run(places / "two.pdf", "what is this?", *options).stdout)
    second = json.loads(run(places / "two.pdf", "what is this?", "--page", "2", *options).stdout)
    assert first["ocr"] is None and read.calls == [] and (first["page"], second["page"]) == (1, 2)


def test_a_page_longer_than_the_model_reads_and_one_without_words(places, read):
    read.words = [(f"{text}{i}", box) for i, (text, box) in enumerate(WORDS * 20)]
    asked = ["what is the total?", "who?"]
    done = run(places / "page.png", *asked, "--model", places / "short")
    text = " ".join(done.stdout.split())
    found = re.search(r"read in overlapping windows \((\d+) windows, 40 words\)", text)
    assert found and int(found[1]) > 2
    given = json.loads(run(places / "page.png", *asked, "--model", places / "short", "--json").stdout)
    assert len(read.calls) == 2, "a page is read once for its windows"
    for answer in given["answers"]:
        first, stop = answer["window"]
        assert answer["words_read"] == 40 and answer["page"] == 1 and answer["windows"] > 2
        # The same answer as for a page of these words alone.
        whole, read.words = read.words, read.words[first:stop]
        alone = json.loads(run(places / "page.png", answer["question"], "--model", places / "short", "--json").stdout)
        assert alone["answers"][0]["answer"] == answer["answer"] and alone["answers"][0]["window"] is None
        read.words = whole
    read.words = []
    text = " ".join(run(places / "page.png", "what is the total?", "--model", places / "model").stdout.split())
    assert "No text was found on the page" in text and "windows" not in text


def test_as_many_words_as_the_processor_keeps(places):
    from deed.tasks.loading import load_processor

    processor = load_processor(places / "short")
    for n in range(9):
        words = (WORDS * 5)[:n]
        fits = questions.words_that_fit(processor, "what is the total?", words)
        assert (
            processor.encode("what is the total?", words)[0] == processor.encode("what is the total?", words[:fits])[0]
        )
        assert fits == n or len(processor.encode("what is the total?", words[: fits + 1])[0]) == len(
            processor.encode("what is the total?", words[:fits])[0]
        )


def test_a_json_answer_line_by_line(places, read, monkeypatch):
    def fake(*_):
        pieces = ['{"', "total", '":"', "82", ".50", '","', "date", '":"', "17 May", '"}', "</s>"]
        depths = [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1]
        times = {"mean_depth": 1.2, "encoder_ms": 1.0, "decoder_ms": 2.0}
        fake.text = "".join(pieces[:-1])[: fake.cut]
        return [], {"pieces": pieces, "depths": depths, **times}

    monkeypatch.setattr(answering, "timed_answer", fake)
    monkeypatch.setattr(DocumentTask, "answer", lambda *_: fake.text)
    fake.cut = None
    lines = run(places / "page.png", "list the fields.", "--model", places / "model").stdout.splitlines()
    assert '{"total":"82₁.50₂","date":"₁17 May₂"}₁ end₁' in lines
    assert [line.split() for line in lines if line.startswith(("total", "date"))] == [
        ["total", "82₁.50₂"],
        ["date", "17", "May₂"],
    ]
    fake.cut = -4
    text = run(places / "page.png", "list the fields.", "--model", places / "model").stdout
    assert "not finished: no whole JSON object" in text


def test_small_letters_where_the_vocabulary_is_small(places):
    from deed.tasks.loading import load_processor

    processor = load_processor(places / "model")
    assert questions.in_known_words(processor, " What is\nthe Total? ") == "what is the total?"
    assert questions.in_known_words(processor, "XK-7?") == "XK-7?", "no fewer tokens in small letters"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "q"], "nowhere.png: no such file"),
        (["model", "q"], "is a folder, not a file"),
        (["text.png", "q"], "no image that Pillow can read"),
        (["empty.png", "q"], "is empty"),
        (["cut.png", "q"], "damaged or cut off"),
        (["cut.pdf", "q"], "damaged or cut off"),
        (["page.png", "q", "--page", "2"], "page 1 only"),
        (["two.pdf", "q", "--page", "3"], "pages 1 to 2, got page 3"),
        (["two.pdf", "q", "--page", "0"], "pages 1 to 2, got page 0"),
        (["page.png", " "], "question 1 is empty"),
        (["page.png", "q", ""], "question 2 is empty"),
        (["page.png", "word " * 600], "the question is longer than this model reads"),
        (["page.png", "q", "--ocr", "abbyy"], "--ocr must be one of auto, always, never, rapidocr, tesseract, none"),
        (["page.png", "q", "--threshold", "nan"], "--threshold must be a number"),
        (["page.png", "q", "--model", "nowhere"], "nowhere is not a folder with a saved model"),
        (["page.png", "q", "--model", "weights"], "the base model in .* cannot be loaded"),
        (["page.png", "q", "--model", "exits"], "deed_exits.safetensors is damaged"),
        (["page.png", "q", "--model", "config"], "config.json cannot be read as JSON"),
        (["page.png", "q", "--model", "tokens"], "processor in .* cannot be loaded"),
        (["page.png", "q", "--model", "endless"], "no end or padding token"),
        (["page.png", "q", "--model", CHECKPOINTS / "g2p"], "needs a LaTr\\+\\+ model"),
    ],
)
def test_bad_input(places, read, arguments, message):
    model = [] if "--model" in arguments else ["--model", "model"]
    known = {path.name for path in places.iterdir()}
    named = [places / a if a in known else a for a in [*arguments, *model]]
    with pytest.raises(ValueError, match=message):
        run(*named)


def test_missing_checkpoint_is_named(places, monkeypatch, tmp_path):
    monkeypatch.setattr(ask_document, "shipped", lambda name: tmp_path / "none")
    with pytest.raises(ValueError, match=r"the shipped checkpoint .*none is missing; pass --model"):
        run(places / "page.png", "q")


@pytest.mark.parametrize("arguments", [["cut.png", "q"], ["page.png", "word " * 600, "--ocr", "none"]])
def test_bad_input_ends_with_code_two_and_one_line(places, arguments):
    command = [sys.executable, "-m", "deed", "ask", str(places / arguments[0]), *arguments[1:]]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--model", str(places / "model")], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("deed: ")


@pytest.fixture(scope="module")
def written(places):
    """A PDF with text of its own."""
    from reportlab.pdfgen import canvas

    sheet = canvas.Canvas(str(places / "written.pdf"), pagesize=(300, 400))
    sheet.drawString(30, 300, "Total: 82.50")
    sheet.save()
    return places / "written.pdf"


def test_a_pdfs_own_text_needs_no_ocr(places, written, monkeypatch):
    monkeypatch.setattr(deed.ocr, "read_page", lambda *a, **k: pytest.fail("OCR ran"))
    done = run(written, "total?", "--model", places / "model", "--json")
    found = json.loads(done.stdout)
    assert found["ocr"]["engine"] == "text layer" and found["ocr"]["words"] == 2 and found["ocr"]["ms"] is None
    assert "no OCR" in run(written, "total?", "--model", places / "model", "--ocr", "never").stdout


@pytest.fixture(scope="module")
def report(places):
    """Three pages, the last a scan."""
    import io

    import pypdfium2
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen import canvas

    file = io.BytesIO()
    sheet = canvas.Canvas(file, pagesize=(300, 400))
    for text in ("An introduction", "Total: 82.50"):
        sheet.drawString(30, 300, text)
        sheet.showPage()
    sheet.drawImage(ImageReader(draw_page()), 0, 0, 300, 400)
    sheet.save()
    (places / "report.pdf").write_bytes(file.getvalue())
    assert len(pypdfium2.PdfDocument(file.getvalue())) == 3
    return places / "report.pdf"


def sure_of(monkeypatch, chances):
    """Makes the model as sure of its answer to a page as `chances` says; the rest is as it is."""
    from deed.cli import ask_pages

    def fake(task, model, processor, rows):
        assert len(task.collate(processor, [row[3] for row in rows])["input_ids"]) == len(rows)
        return [(True, chances[row.question][row.place.page - 1]) for row in rows]

    monkeypatch.setattr(ask_pages, "certainty", fake)


def test_all_pages_by_the_surest_answer(places, report, read, monkeypatch):
    sure_of(monkeypatch, [[0.3, 0.9, 0.1], [0.2, 0.1, 0.8]])
    asked = ("total?", "date?", "--model", places / "model")
    told = json.loads(run(report, *asked, "--page", "all", "--json").stdout)
    assert [a["page"] for a in told["answers"]] == [2, 3] and told["page"] == "all" and told["pages"] == 3
    for answer in told["answers"]:  # what the page alone gives
        alone = json.loads(run(report, answer["question"], *asked[2:], "--page", answer["page"], "--json").stdout)
        assert alone["answers"][0]["tokens"] == answer["tokens"]
    assert told["ocr"]["engine"] == "text layer and rapidocr 0" and "(1 of 3 pages)" in told["ocr"]["reason"]
    shown = run(report, *asked, "--page", "all", COLUMNS="50").stdout
    assert (
        "page 2, encoder" in shown
        and "page 3, encoder" in shown
        and all(len(line) <= 50 for line in shown.splitlines())
    )


def test_all_pages_with_the_models_own_certainty(places, report, read):
    """Without calibration: the probability of the answer's least probable token."""
    import torch

    from deed.cli.ask_pages import Place, Row, certainty

    task = DocumentTask("pages")
    model, processor = task.load(places / "model")
    rows = []
    for page, words in enumerate(([], WORDS, WORDS * 3), 1):
        example = deed_example("total?", words)
        rows.append(Row(0, Place(page, 0, len(words)), example, task.encode(processor, example)))
    found = certainty(task, model, processor, rows)
    for (there, sure), row in zip(found, rows, strict=True):
        batch = task.collate(processor, [row[3]])
        out = model.generate(**batch, do_sample=False, num_beams=1, return_dict_in_generate=True, output_scores=True)
        least = min(torch.softmax(s[0], -1).max().item() for s in out.scores)
        assert sure == pytest.approx(least, rel=1e-4) and there in (True, False)
    told = json.loads(run(report, "total?", "--model", places / "model", "--page", "all", "--json").stdout)
    assert told["answers"][0]["page"] in (1, 2, 3)


def deed_example(question, words):
    from deed.data.base import Example

    return Example(question, [], words, None)


def test_no_answer_on_a_page_counts_less_than_any(places, report, read, monkeypatch):
    from deed.cli import ask_pages
    from deed.data.base import UNANSWERABLE

    monkeypatch.setattr(DocumentTask, "answer", lambda self, p, tokens, example: UNANSWERABLE)
    task = DocumentTask("pages")
    model, processor = task.load(places / "model")
    example = deed_example("total?", WORDS)
    row = ask_pages.Row(0, ask_pages.Place(1, 0, len(WORDS)), example, task.encode(processor, example))
    [(there, _)] = ask_pages.certainty(task, model, processor, [row])
    assert not there


def test_a_damaged_page_is_left_out(places, report, read, monkeypatch):
    from deed.errors import DataError
    from deed.ocr import pages

    plain = pages._Pdf.text

    def broken(self, page=1):
        if page == 2:
            raise DataError("page 2 is damaged")
        return plain(self, page)

    monkeypatch.setattr(pages._Pdf, "text", broken)
    told = json.loads(run(report, "total?", "--model", places / "model", "--page", "all", "--json").stdout)
    assert any("Page 2 was left out" in note for note in told["notes"]) and told["answers"][0]["page"] in (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["page.png", "q", "--page", "two"], "--page must be a number, counted from 1, or all, got 'two'"),
        (["page.png", "q", "--task", "vqa", "--page", "all"], "--page all is for documents"),
        (["--task", "caption"], "--task caption needs a picture"),
        (["page.png", "q", "--abstain-below", "-1"], "--abstain-below must be a number"),
        (["page.png", "q", "--abstain-below", "0.5"], "this model's are not"),
        (["missing file.png", "q"], "no such file"),
        (["locked.pdf", "q"], "is encrypted"),
        (["no_pages.pdf", "q"], "has no pages"),
        (["huge.png", "q"], "megapixels"),
        (["broken.pdf.gz", "q"], "damaged .gz file"),
        (["empty.pdf", "q"], "is empty"),
        (["empty.pdf", "q", "--page", "all"], "is empty"),
        (["notes.pdf", "q"], "named .pdf, but it is text"),
    ],
)
def test_bad_files_and_pages(places, read, arguments, message, tmp_path, monkeypatch):
    import gzip

    import pypdfium2
    from PIL import Image
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen import canvas

    sheet = canvas.Canvas(str(tmp_path / "locked.pdf"), encrypt=StandardEncryption("secret", ownerPassword="more"))
    sheet.drawString(30, 300, "Total: 1")
    sheet.save()
    pypdfium2.PdfDocument.new().save(tmp_path / "no_pages.pdf")
    if "huge.png" in arguments:
        Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    (tmp_path / "broken.pdf.gz").write_bytes(gzip.compress((places / "two.pdf").read_bytes())[:300])
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "notes.pdf").write_text("These are notes.")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    named = [places / a if (places / str(a)).exists() else a for a in arguments]
    model = [] if "caption" in arguments else ["--model", places / "model"]
    with pytest.raises(ValueError, match=message):
        run(*named, *model)
    assert sorted(tmp_path.iterdir()) == before


def test_without_a_file_the_sample_invoice_is_asked(monkeypatch):
    """And the shipped model knows its total."""
    monkeypatch.setattr(deed.ocr, "read_page", lambda *a, **k: pytest.fail("OCR ran"))
    done = run("What is the total?", COLUMNS="50")
    text = " ".join(done.stdout.split())
    assert "$125.16" in re.sub(r"[₀-₉]", "", text) and "deed's sample invoice" in text
    reads, other = map(questions.what_it_reads, (ask_document.PAPERWORK, ask_document.CHECKPOINT))
    assert len(reads) > 100 and reads in text and all(len(line) <= 50 for line in done.stdout.splitlines())
    told = json.loads(run("--json").stdout)
    assert [a["question"] for a in told["answers"]] == ask.SAMPLE_QUESTIONS and told["image"] == str(ask.SAMPLE)
    assert told["reads"] == reads and "sample invoice" in told["notes"][0]
    wide = " ".join(re.sub("[│╭╮╰╯─]", " ", run("--help", COLUMNS="200").stdout).split())
    assert reads in wide and other in wide


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("what is the total?", True),
        ("list the fields", True),
        ("total?", True),
        ("invoice.pdf", False),
        ("my invoice.pdf", False),
        ("invoice", False),
    ],
)
def test_what_is_a_question_and_what_a_file(text, question):
    assert ask.looks_like_a_question(text) == question


def test_sure_and_not_sure(places, read, monkeypatch):
    from deed.tasks import confidence

    plain = answering.timed_answer

    def calibrated(*arguments):
        tokens, told = plain(*arguments)
        return tokens, {**told, "confidence": 0.37}

    monkeypatch.setattr(answering, "timed_answer", calibrated)
    asked = (places / "page.png", "total?", "--model", places / "model")
    for threshold, sure, start in ((0.5, False, "not sure (37 %): "), (0.3, True, "sure (37 %): ")):
        monkeypatch.setattr(confidence, "abstain_threshold", lambda model, given, at=threshold: at)
        done = run(*asked)
        assert done.exit_code == 0 and any(line.startswith(start) for line in done.stdout.splitlines())
        [answer] = json.loads(run(*asked, "--json").stdout)["answers"]
        assert (answer["confidence"], answer["sure"]) == (0.37, sure)
    monkeypatch.undo()


def test_nothing_is_claimed_where_answers_are_not_calibrated(places, read):
    asked = (places / "page.png", "total?", "--model", places / "model")
    [answer] = json.loads(run(*asked, "--json").stdout)["answers"]
    assert answer["confidence"] is None and answer["sure"] is None
    assert "How far to trust these answers is not known" in " ".join(run(*asked).stdout.split())


def test_what_ocr_read_is_kept(places, tmp_path, monkeypatch):
    monkeypatch.setenv("DEED_CACHE", str(tmp_path))
    asked = (places / "page.png", "total?", "--model", places / "model", "--json")
    first, again = (json.loads(run(*asked).stdout)["ocr"] for _ in range(2))
    assert (first["cached"], again["cached"]) == (False, True) and first["words"] == again["words"]
    assert json.loads(run(*asked, "--no-cache").stdout)["ocr"]["cached"] is False


def test_ocr_reads_when_told_to_or_where_there_is_no_text(places, written, read):
    asked = ("total?", "--model", places / "model", "--json")
    always = json.loads(run(written, *asked, "--ocr", "always").stdout)["ocr"]
    assert always["engine"] != "text layer" and always["reason"] == ""
    scan = json.loads(run(places / "two.pdf", *asked).stdout)["ocr"]
    assert scan["engine"] != "text layer" and "no text layer" in scan["reason"]
    with pytest.raises(ValueError, match="has no text of its own, page 1"):
        run(places / "two.pdf", *asked, "--ocr", "never")
