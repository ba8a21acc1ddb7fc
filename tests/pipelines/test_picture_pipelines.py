"""Pictures and documents through the shipped models: the same as the tasks say, in every form of call."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import deed
from deed.errors import DataError
from deed.pipelines.pictures import asked_of

CHECKPOINTS = Path(deed.__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "shape.png"
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 44, 44), fill="red")
    image.save(path)
    return path


@pytest.fixture(scope="module")
def vqa():
    return deed.pipeline("vqa")


def test_vqa_in_every_form_of_call(vqa, picture):
    question = "what color is the shape?"
    one = vqa(picture, question)
    assert one["answer"] == "red"
    assert 1 <= one["depth"] <= 8
    assert vqa({"image": picture, "question": question}) == one
    assert vqa([picture, Image.open(picture)], question) == [one, one]
    assert vqa(picture, [question, "what shape is in the image?"])[0] == one
    assert "".join(vqa.stream({"image": picture.read_bytes(), "question": question})).strip() == "red"


def test_captions(picture, vqa):
    caption = deed.pipeline("image-to-text", vqa.model, processor=vqa.processor)
    results = caption([picture, picture])
    assert results[0] == results[1]
    assert results[0]["generated_text"]


def test_bad_questions(vqa, picture):
    with pytest.raises(ValueError, match="question is missing"):
        vqa(picture)
    with pytest.raises(ValueError, match="give pairs"):
        vqa([picture], ["a", "b"])
    with pytest.raises(ValueError, match="picture is missing"):
        asked_of({"question": "a"}, None)
    with pytest.raises(DataError, match="no such file"):
        vqa("none.png", "what is it?")


def test_a_model_that_is_asked_otherwise(vqa):
    with pytest.raises(DataError, match="it can be asked for caption, vqa"):
        deed.pipeline("document-qa", vqa.model, processor=vqa.processor)


def test_a_document_with_its_own_text(tmp_path):
    reportlab = pytest.importorskip("reportlab.pdfgen.canvas")
    path = tmp_path / "letter.pdf"
    canvas = reportlab.Canvas(str(path), pagesize=(400, 300))
    for y, line in ((250, "Invoice number: 4711"), (220, "Date: 12 May 2024"), (190, "Total: 35.20")):
        canvas.drawString(60, y, line)
    canvas.showPage()
    canvas.save()
    pipe = deed.pipeline("document-question-answering")
    _, words = pipe.page(str(path), 1)
    assert [text for text, _ in words][:3] == ["Invoice", "number:", "4711"]
    questions = ["what is the invoice number?", "what is the total?"]
    found = pipe(str(path), questions)
    assert found == [pipe({"image": str(path), "question": q, "words": words}) for q in questions]
    assert found == [pipe(str(path), q, page=1) for q in questions]
    assert all(result["answer"] for result in found)
    with pytest.raises(DataError, match="pages 1 to 1"):
        pipe(str(path), questions[0], page=2)
