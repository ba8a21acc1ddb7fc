"""`/generate`, `/generate/stream` and `/ask` on the shipped models: answers are those of the library by itself."""

import base64
import io
import json

import pytest

import deed
import deed.ocr
from deed.ocr import OcrResult
from deed.utils.shipped import CHECKPOINTS
from over_http.conftest import events, eventually, png

LATR = CHECKPOINTS / "latr"  # what is served as documents


@pytest.fixture(scope="module")
def words(loaded):
    served = loaded.find("pronunciation", ())
    return deed.pipeline("text2text", served.model, processor=served.processor)


def test_text_is_answered_as_by_the_pipeline(http, words, loaded):
    found = http.post("/generate", json={"text": "mississippi", "model": "pronunciation"}).json()
    want = words("mississippi")
    layers = loaded.find("pronunciation", ()).layers
    assert found["text"] == want["generated_text"] and found["mean_depth"] == pytest.approx(want["depth"])
    assert found["saving"] == pytest.approx(1 - want["depth"] / layers) and found["layers"] == layers
    assert "".join(token["text"] for token in found["tokens"]).strip() == found["text"]
    assert found["finish_reason"] == "stop" and all(0 < token["confidence"] <= 1 for token in found["tokens"])


@pytest.mark.parametrize("options", [{"threshold": 2.0}, {"exact": True}, {"threshold": 0.3}, {"max_new_tokens": 3}])
def test_options_go_to_generate(http, words, options):
    body = {"text": "serendipity", "model": "pronunciation", **options}
    found, want = http.post("/generate", json=body).json(), words("serendipity", **options)
    assert found["text"] == want["generated_text"]
    if not options.get("exact"):
        assert found["mean_depth"] == pytest.approx(want["depth"])
    assert found["finish_reason"] == ("length" if "max_new_tokens" in options else "stop")


def test_sampling_repeats_with_its_seed(http):
    body = {"text": "serendipity", "model": "pronunciation", "temperature": 3.0, "top_k": 20, "top_p": 0.9}
    texts = [http.post("/generate", json={**body, "seed": seed}).json()["text"] for seed in (1, 1, 2, 3, 4)]
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_stop_texts_end_the_answer_and_are_no_part_of_it(http):
    whole = http.post("/generate", json={"text": "mississippi", "model": "pronunciation"}).json()["text"]
    stop = whole.split()[2]
    body = {"text": "mississippi", "model": "pronunciation", "stop": [stop, "never"]}
    found = http.post("/generate", json=body).json()
    assert found["text"].strip() == whole[: whole.index(stop)].strip()
    streamed = events(http.post("/generate/stream", json=body).text)
    assert "".join(data["text"] for name, data in streamed if name == "message").strip() == found["text"].strip()


def test_a_stream_gives_the_same_token_by_token(http):
    body = {"text": "mississippi", "model": "pronunciation"}
    whole = http.post("/generate", json=body).json()
    answer = http.post("/generate/stream", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *tokens, (last, done) = events(answer.text)
    assert last == "done" and {name for name, _ in tokens} == {"message"}
    assert [(t["id"], t["depth"], t["text"]) for _, t in tokens] == [
        (t["id"], t["depth"], t["text"]) for t in whole["tokens"]
    ]
    assert {k: v for k, v in done.items() if k != "times"} == {k: v for k, v in whole.items() if k != "times"}


def test_a_form_says_the_same_as_json(http):
    body = {"text": "hello", "model": "pronunciation", "threshold": 2.0}
    assert http.post("/generate", data=body).json()["text"] == http.post("/generate", json=body).json()["text"]


def test_a_question_about_a_pdf(http, invoice):
    from typer.testing import CliRunner

    from deed.cli import app

    found = http.post("/ask", data={"question": "what is the total?"}, files={"file": ("x", invoice)}).json()
    cli = json.loads(CliRunner().invoke(app, ["ask", "what is the total?", "--model", str(LATR), "--json"]).stdout)[
        "answers"
    ][0]
    assert found["answer"] == cli["answer"] == "$125.16" and found["model"] == "documents"
    assert [token["depth"] for token in found["tokens"]] == cli["depths"]
    assert found["confidence"] == pytest.approx(cli["confidence"]) and found["sure"] is cli["sure"] is True
    [evidence] = found["evidence"]
    [[x0, y0, x1, y1]] = evidence["boxes"]
    assert evidence["text"] == "$125.16" and 0.7 < x0 < x1 < 0.95 and 0.5 < y0 < y1 < 0.6, "where the invoice has it"


def test_fields_and_their_places_and_not_sure(http, invoice):
    body = {"question": "what are all the fields?", "file": base64.b64encode(invoice).decode(), "abstain_below": 2}
    found = http.post("/ask", json=body).json()
    assert found["fields"]["total"] == "$125.16" and found["sure"] is False
    assert {evidence["key"] for evidence in found["evidence"]} >= {"number", "total"}


def test_a_page_longer_than_the_model_reads(http, tmp_path):
    """Read in windows, as by `deed ask`; a stream comes once the surest is known."""
    from typer.testing import CliRunner

    from deed.cli import app

    weasyprint = pytest.importorskip("weasyprint")
    words = " ".join(f"item{i}" for i in range(90))
    html = f"<p>{words}</p><p>INVOICE 4711</p><p>Grand total: 82.50</p><p>{words}</p>"
    long = weasyprint.HTML(string=html).write_pdf()
    (tmp_path / "long.pdf").write_bytes(long)
    cli = json.loads(
        CliRunner()
        .invoke(app, ["ask", str(tmp_path / "long.pdf"), "what is the total?", "--model", str(LATR), "--json"])
        .stdout
    )
    [wanted] = cli["answers"]
    data = {"question": "what is the total?"}
    found = http.post("/ask", data=data, files={"file": long}).json()
    assert found["answer"] == wanted["answer"] and wanted["windows"] > 2
    assert f"in {wanted['windows']} overlapping windows" in found["notes"][-1]
    assert found["confidence"] == pytest.approx(wanted["confidence"], rel=1e-3)
    told = events(http.post("/ask", data={**data, "stream": "true"}, files={"file": long}).text)
    assert told[0][0] == "page" and told[-1][0] == "done" and told[-1][1]["answer"] == wanted["answer"]
    assert len(told) == 2 + len(found["tokens"])


def test_asking_streams_the_page_first(http, invoice):
    data = {"question": "what is the total?", "stream": "true", "preview": "true"}
    (first, page), *tokens, (last, done) = events(http.post("/ask", data=data, files={"file": invoice}).text)
    assert (first, last) == ("page", "done") and page["pages"] == 1 and page["layers"] == done["layers"]
    picture = base64.b64decode(page["image"].removeprefix("data:image/jpeg;base64,"))
    assert picture.startswith(b"\xff\xd8") and len(tokens) == len(done["tokens"])


def two_pages(invoice):
    """A blank page, then the invoice."""
    import pypdfium2

    made = pypdfium2.PdfDocument.new()
    made.new_page(300, 300)
    made.import_pages(pypdfium2.PdfDocument(invoice))
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def test_the_page_with_the_surest_answer(http, invoice, monkeypatch):
    blank = OcrResult([], 0, (1, 1), "rapidocr 0", 0.1)
    monkeypatch.setattr(deed.ocr, "read_page", lambda *a, **k: blank)
    files, data = {"file": two_pages(invoice)}, {"question": "what is the total?"}
    found = http.post("/ask", data={**data, "page": "all"}, files=files).json()
    assert (found["answer"], found["page"], found["pages"]) == ("$125.16", 2, 2)
    assert http.post("/ask", data={**data, "page": "2"}, files=files).json()["answer"] == "$125.16"
    assert "No text was found" in http.post("/ask", data=data, files=files).json()["notes"][0]
    for page, told in (("3", "pages 1 to 2"), ("0", "counts from 1"), ("last", "page")):
        refused = http.post("/ask", data={**data, "page": page}, files=files)
        assert refused.status_code == 400 and told in refused.json()["error"]["message"]
    streamed = http.post("/ask", data={**data, "page": "all", "stream": "true"}, files=files)
    assert streamed.status_code == 400


def test_pictures(http, loaded):
    served, picture = loaded.find("pictures", ()), png()
    [caption] = deed.pipeline("caption", served.model, processor=served.processor)([picture])
    found = http.post("/generate", files={"image": picture}, data={"model": "pictures"}).json()
    assert found["task"] == "caption" and found["text"] == caption["generated_text"]
    for task, question in (("vqa", "what color is it?"), ("refer", "the red thing")):
        answer = http.post(
            "/ask", files={"file": picture}, data={"model": "pictures", "task": task, "question": question}
        )
        found = answer.json()
        assert answer.status_code == 200 and found["task"] == task and found["tokens"]
        if task == "refer":
            assert "<bin_" in found["text"] and all(
                0 <= edge <= 1 for e in found["evidence"] for b in e["boxes"] for edge in b
            )


def test_models_and_metrics(http):
    listed = http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["documents", "pictures", "pronunciation", "whisper-tiny"]
    assert http.get("/models").json() == listed
    http.post("/generate", json={"text": "hello", "model": "pronunciation"})
    text = http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['deed_tokens_total{model="pronunciation"}']) > 0
    assert float(values['deed_token_depth_count{model="pronunciation"}']) == float(
        values['deed_tokens_total{model="pronunciation"}']
    )
    for name in ("queue_length", "running_rows", "tokens_per_s", "refused_total", "step_seconds_count"):
        assert f'deed_{name}{{model="documents"}}' in values
    assert float(values['deed_http_requests_total{path="/generate",status="200"}']) > 0


def test_a_closed_connection_frees_the_row(served, loaded):
    scheduler = loaded.find("pronunciation", ()).scheduler
    before = scheduler.stats().cancelled
    body = {
        "text": "mississippi " * 20,
        "model": "pronunciation",
        "temperature": 100.0,
        "max_new_tokens": 128,
        "threshold": 2,
    }
    with served.http.stream("POST", "/generate/stream", json=body) as answer:
        next(answer.iter_lines())
    eventually(lambda: scheduler.stats().cancelled > before or scheduler.stats().running_rows == 0)
    eventually(lambda: not scheduler.busy)
