"""A server with both shipped models for documents takes the one that suits the page, unless a request names one."""

import io
import json

import pytest
from PIL import Image, ImageDraw, ImageFont

from deed.serving.app import create_app
from deed.serving.models import Models
from deed.serving.settings import Limits, ServeSettings
from deed.utils.shipped import shipped

from .conftest import Served

BOTH = {name: str(shipped(name)) for name in ("documents", "paperwork")}


@pytest.fixture(scope="module")
def both():
    models = Models(ServeSettings(models=tuple(BOTH.items()), limits=Limits(), threads=1))
    models.load()
    made = Served(create_app(models.settings, models))
    yield made.http
    made.close()
    models.close()


def asked(http, name, data, **fields):
    answer = http.post("/ask", files={"file": (name, data)}, data={"question": "what is the total?", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def scan(words):
    """A picture of so many words, without a text of its own."""
    picture = Image.new("RGB", (900, 1100), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(22)
    for i in range(words):
        draw.text((40 + 110 * (i % 7), 40 + 50 * (i // 7)), f"word{i}", "black", font=font)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_a_pdfs_own_text_and_long_pages_are_for_paperwork(both, invoice):
    assert asked(both, "invoice.pdf", invoice)["model"] == "paperwork"
    assert asked(both, "invoice.pdf", invoice, page="all")["model"] == "paperwork"
    short, long = scan(12), scan(100)
    assert asked(both, "page.png", short)["model"] == "documents"
    assert asked(both, "page.png", long)["model"] == "paperwork"
    assert asked(both, "page.png", short, page="all")["model"] == "paperwork", "one model for all pages of a file"


def test_a_request_that_names_a_model_gets_it(both, invoice):
    assert asked(both, "invoice.pdf", invoice, model="documents")["model"] == "documents"
    answer = both.post("/ask", files={"file": ("p.pdf", invoice)}, data={"question": "x?", "model": "latr"})
    assert answer.status_code == 404 and "there is no model 'latr'" in answer.json()["error"]["message"]


def test_what_is_chosen_answers_as_it_does_by_name_streamed_too(both, invoice):
    chosen, named = (asked(both, "a.pdf", invoice, **by) for by in ({}, {"model": "paperwork"}))
    same = ("text", "confidence", "mean_depth", "layers", "threshold", "evidence", "words")
    assert {key: chosen.get(key) for key in same} == {key: named.get(key) for key in same}
    fields = {"question": "what is the total?", "stream": "true"}
    with both.stream("POST", "/ask", files={"file": ("a.pdf", invoice)}, data=fields) as answer:
        events = "".join(answer.iter_text()).split("\n\n")
    told = {
        e.split("\n")[0].removeprefix("event: "): json.loads(e.split("data: ", 1)[1]) for e in events if "data: " in e
    }
    assert told["page"]["model"] == told["done"]["model"] == "paperwork" and told["page"]["layers"] == 6
    assert told["done"]["text"] == named["text"]


def test_generate_chooses_likewise(both, invoice):
    answer = both.post("/generate", files={"document": ("a.pdf", invoice)}, data={"text": "what is the total?"})
    assert answer.status_code == 200 and answer.json()["model"] == "paperwork", answer.text
    one = ServeSettings(models=(("documents", BOTH["documents"]),))
    assert not Models(one).suits_pages
    assert not Models(ServeSettings(models=(("documents", "x"), ("paperwork", "y")))).suits_pages, "somebody's own"
    assert Models(ServeSettings(models=tuple(BOTH.items()))).suits_pages
