"""Files are read in processes of their own: what crashes, hangs or fills the memory there is an error of one request."""

import os
import signal
import zlib
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

import deed.ocr
from deed.ocr import page_image, page_text
from deed.serving import reading
from deed.serving.app import create_app
from deed.serving.reading import CHILDREN, opened_document
from deed.serving.settings import Limits, ServeSettings
from deed.utils.audio import load_audio
from over_http.conftest import FOLDERS, LIMITS, noise, png
from over_http.test_http_security import ASK, message, png_of


@pytest.fixture
def http(loaded):
    made = ServeSettings(models=tuple(FOLDERS.items()), limits=LIMITS)
    return TestClient(create_app(made, loaded), base_url="http://localhost", raise_server_exceptions=False)


def ask(http, file):
    return http.post("/ask", data=ASK, files={"file": file})


def slow_pdf(strokes=2_000_000):
    """A page of so many lines across it, packed to almost nothing."""
    drawn = zlib.compress(b"0 0 m 600 800 l S " * strokes, 9)
    return (
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R>>endobj "
        b"4 0 obj<</Filter/FlateDecode/Length %d>>stream\n%b\nendstream endobj trailer<</Root 1 0 R>>\n%%%%EOF\n"
    ) % (len(drawn), drawn)


def test_pages_pictures_and_sound_are_those_of_the_library(invoice, tmp_path):
    file = tmp_path / "invoice.pdf"
    file.write_bytes(invoice)
    with opened_document(invoice, LIMITS) as document:
        assert document.count == 1 and document.text(1) == page_text(file)
        assert document.image(1).tobytes() == page_image(file).tobytes()
    with opened_document(png(color="blue"), LIMITS) as document:
        assert document.text() is None and document.image().getpixel((3, 4)) == (0, 0, 255)
        with pytest.raises(deed.errors.DataError, match="is an image, which has page 1 only"):
            document.check(2)
    samples = reading.read_sound(noise(0.5), 8000, LIMITS)
    assert samples.tobytes() == load_audio(noise(0.5), 8000).tobytes() and samples.flags.writeable


def test_the_server_opens_no_file_itself(http, invoice, monkeypatch):
    want = ask(http, invoice).json()["answer"]
    monkeypatch.setattr(deed.ocr, "open_document", None)
    monkeypatch.setattr(deed.ocr.pages, "open_document", None)
    assert ask(http, invoice).json()["answer"] == want


def test_a_crash_is_an_error_of_its_request(http, invoice, monkeypatch, caplog):
    want, real = ask(http, invoice).json()["answer"], reading.Child.ask
    killed = []

    def crash(child, until, data=b"", **order):
        if order["do"] == "check" and not killed:
            killed.append(child.process.pid)
            os.kill(child.process.pid, signal.SIGSEGV)
        return real(child, until, data, **order)

    monkeypatch.setattr(reading.Child, "ask", crash)
    answer = ask(http, invoice)
    assert (
        answer.status_code == 400
        and "ended the process that reads files" in message(answer)
        and "has ended (-11)" in caplog.text
    )
    assert ask(http, invoice).json()["answer"] == want
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)


def test_memory_and_time_are_limited():
    limits = replace(LIMITS, pixels=10**9)
    small = replace(limits, reading_bytes=300 << 20)
    with pytest.raises(reading.ApiError, match="more memory than the limit of 314,572,800 bytes") as error:  # noqa: SIM117
        with opened_document(png_of(9_000, 9_000), small) as document:
            document.image()
    assert error.value.status == 413
    with opened_document(png(), limits) as document:
        assert document.image().size == (64, 48), "a new process has the next one's limits"
    with pytest.raises(reading.ApiError, match="took longer than the limit of 0") as error:  # noqa: SIM117
        with opened_document(slow_pdf(), replace(LIMITS, reading_s=0.2)) as document:
            document.image()
    assert error.value.status == 413


def test_processes_are_used_again_and_hold_no_key(monkeypatch):
    monkeypatch.setenv("DEED_API_KEY", "a-secret-key")
    CHILDREN.close()
    seen = set()
    for _ in range(3):
        with opened_document(png(), Limits()) as document:
            document.image()
        (child,) = CHILDREN._idle
        seen.add(child.process.pid)
    assert len(seen) == 1
    with open(f"/proc/{seen.pop()}/environ") as file:
        assert "a-secret-key" not in file.read()
