"""Real pages: what a rule asks follows from the page's text, and doubtful places give no question."""

import io
import json
import random
import shutil

import pytest
from reportlab.pdfgen import canvas

from deed.data.debian import packages
from deed.data.debian.pages import load_pages, read_package
from deed.data.debian.questions import UNANSWERABLE, answer_again, questions_of
from deed.data.debian.wording import reworded
from deed.errors import DataError


def write_pdf(path, *pages, **about):
    """A PDF; each page a list of `(x, y, size, text)`, points of 600 x 800."""
    sheet = canvas.Canvas(str(path), pagesize=(600, 800))
    sheet.setAuthor(about.get("author", ""))
    for page in pages:
        for x, y, size, text in page:
            sheet.setFont("Helvetica", size)
            sheet.drawString(x, y, text)
        sheet.showPage()
    sheet.save()


COVER = [
    (80, 720, 30, "The Teapot Manual"),
    (80, 660, 12, "Version 2.4.1"),
    (80, 640, 12, "by Ada B. Lovelace"),
    (80, 620, 12, "12 March 2021"),
    (80, 560, 12, "Write to ada@example.org about anything that is missing here"),
    (80, 544, 12, "or look at https://example.org/teapot for more of it."),
]
CHAPTER = [
    (80, 740, 20, "3 Brewing Tea"),
    *(
        (80, 700 - 14 * i, 11, f"Running text number {i} of this page says little about the matter at hand.")
        for i in range(6)
    ),
    (80, 590, 15, "3.1 Warm Water"),
    (80, 560, 11, "Capacity: 1.5 litres"),
    *(
        (80, 540 - 14 * i, 11, f"More text, line {i}, with other words in it than before, to fill the page.")
        for i in range(4)
    ),
    *(
        (80 + 150 * j, 420 - 16 * i, 11, cell)
        for i, row in enumerate(
            [
                ("Tea", "Minutes", "Degrees"),
                ("Green", "2", "75"),
                ("Black", "4", "96"),
                ("Mint", "7", "99"),
            ]
        )
        for j, cell in enumerate(row)
    ),
    (80, 300, 11, "Figure 7: A pot and its lid."),
    (290, 30, 11, "17"),
]


@pytest.fixture
def folder(tmp_path):
    package = tmp_path / "teapot-doc"
    package.mkdir()
    write_pdf(package / "1-manual.pdf", COVER, CHAPTER, author="Ada B. Lovelace")
    return tmp_path


def asked(page, question):
    return answer_again(page, question)


def test_the_cover(folder):
    cover, _ = read_package(folder / "teapot-doc")
    assert asked(cover, "what is the title?") == ["The Teapot Manual"]
    assert asked(cover, "what is the version?") == ["2.4.1"]
    assert asked(cover, "who is the author?") == ["Ada B. Lovelace"]
    assert asked(cover, "what is the date?") == ["12 March 2021"]
    assert asked(cover, "what is the e-mail address?") == ["ada@example.org"]
    assert asked(cover, "what is the web address?") == ["https://example.org/teapot"]


def test_a_page_inside(folder):
    _, page = read_package(folder / "teapot-doc")
    assert asked(page, "what is the heading of section 3.1?") == ["Warm Water"]
    assert asked(page, 'what is the number of the section "Brewing Tea"?') == ["3"]
    assert asked(page, "what does the caption of figure 7 say?") == ["A pot and its lid."]
    assert asked(page, 'what comes after "Capacity:"?') == ["1.5 litres"]
    assert asked(page, 'what is the "Degrees" of "Black"?') == ["96"]
    assert asked(page, 'what is the "Minutes" of "Mint"?') == ["7"]
    assert asked(page, "what is the page number?") == ["17"]
    assert asked(page, "what is the title?") == []  # only a first page has one


def test_what_stands_twice_is_not_asked(folder):
    write_pdf(
        folder / "teapot-doc" / "1-manual.pdf",
        [*COVER, (80, 500, 12, "other@example.org"), (80, 480, 12, "1 May 2020")],
    )
    (cover,) = read_package(folder / "teapot-doc")
    assert asked(cover, "what is the e-mail address?") == [] and asked(cover, "what is the date?") == []
    assert asked(cover, "what is the version?") == ["2.4.1"]


def test_a_list_of_contents_has_no_headings(folder):
    lines = [(80, 740 - 20 * i, 16, f"{i} Chapter {'.' * 8} {i}") for i in range(1, 8)]
    write_pdf(folder / "teapot-doc" / "1-manual.pdf", [(80, 770, 24, "Contents of the book"), *lines])
    (page,) = read_package(folder / "teapot-doc")
    assert not [q for q in questions_of(page, random.Random(0)) if q.kind in ("heading", "section number")]


def test_sampled_questions(folder):
    for page in read_package(folder / "teapot-doc"):
        text = " ".join(word.text for word in page.all_words)
        found = questions_of(page, random.Random(1), copies=5)
        assert found == questions_of(page, random.Random(1), copies=5)
        for q in found:
            if q.kind == "next word":
                pair = q.question.split('"')[1]
                assert f"{pair} {q.answer}" in text and text.count(f"{pair} ") == 1
            elif q.kind == "presence":
                assert (q.question.split('"')[1] in text.lower()) == (q.answer == "yes")
            elif q.kind == "unanswerable":
                assert q.answer == UNANSWERABLE and answer_again(page, q.question) == []
            else:
                assert answer_again(page, q.question) == [q.answer]
        assert sum(q.kind == "next word" for q in found) == 5


def test_pages_are_kept(folder):
    first = list(load_pages(folder, ["teapot-doc", "missing"]))
    (folder / "teapot-doc" / "1-manual.pdf").unlink()
    assert list(load_pages(folder, ["teapot-doc"])) == first and len(first) == 2


def test_damaged_documents_are_left_out(folder):
    (folder / "teapot-doc" / "2-broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    assert len(list(read_package(folder / "teapot-doc"))) == 2


def test_splits_hold_no_name_that_is_left_alone():
    names = packages.package_names()
    splits = {packages.split_of(name) for name in names}
    assert splits == {"train", "validation", "calibration", "test"} and len(names) > 500
    import hashlib

    assert not [n for n in names if hashlib.sha256(n.encode()).hexdigest()[0] in "789"]
    assert packages.split_of("bash-doc") == packages.split_of("bash-doc")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="takes dpkg-deb")
def test_fetching_unpacks_pdfs_only(tmp_path):
    """A client of our own stands in for apt-get: it writes a package with a PDF, its copy, and other files."""
    import gzip
    import subprocess

    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    (root / "usr/share/doc/x").mkdir(parents=True)
    write_pdf(root / "usr/share/doc/x/a.pdf", COVER)
    content = (root / "usr/share/doc/x/a.pdf").read_bytes()
    with gzip.open(root / "usr/share/doc/x/b.pdf.gz", "wb") as file:
        file.write(content)
    (root / "usr/share/doc/x/text.pdf").write_text("a text file with that name")
    deb = tmp_path / "x-doc_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(deb)], check=True, capture_output=True)
    client = tmp_path / "client"
    # Like apt-get it fetches nothing where it does not know one of the names.
    unknown = 'case "$*" in *y-doc*) echo no package >&2; exit 100;; esac'
    client.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{unknown}\ncp {deb} .\n')
    client.chmod(0o755)
    failed = packages.fetch(["x-doc", "y-doc"], tmp_path / "cache", client=str(client))
    assert list(failed) == ["y-doc"] and "no package" in failed["y-doc"]
    about = json.loads((tmp_path / "cache" / "x-doc" / "package.json").read_text())
    assert about["pdfs"] == ["1-a.pdf"]  # its copy is the same document, and the text file is none
    assert (tmp_path / "cache" / "x-doc" / "1-a.pdf").read_bytes() == content
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["x-doc"]
    calls = ["download -q x-doc y-doc", "download -q x-doc", "download -q y-doc"]
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert packages.fetch(["x-doc"], tmp_path / "cache", client="true") == {}, "it is there"
    assert packages.fetch(["x-doc"], tmp_path / "new", client=str(client)) == {}
    assert (tmp_path / "calls").read_text().splitlines()[3:] == ["download -q x-doc"]


def test_fetching_takes_a_client_and_names():
    with pytest.raises(DataError, match="takes no-such-client"):
        packages.fetch(["x"], io.BytesIO, client="no-such-client")  # nothing is touched before


def test_other_words_keep_what_is_asked_for():
    rng = random.Random(0)
    asked = {reworded("what is the heading of section 3.2?", rng) for _ in range(200)}
    assert len(asked) > 8 and all("3.2" in question for question in asked)
    assert all("Qty" in q and "Tea" in q for q in (reworded('what is the "Qty" of "Tea"?', rng) for _ in range(50)))
    assert {reworded("why?", rng) for _ in range(100)} == {"why?", "Why?", "why"}
    assert {reworded("what is the title?", rng, 0.0).lower().rstrip("?") for _ in range(50)} == {"what is the title"}
