"""A PDF's own text: words, boxes, order, and whether it is all there is to read."""

import io

import pypdfium2
import pytest
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas

from deed.ocr.text_layer import read_text_layer

WIDTH, HEIGHT = 600, 800


def page_of(draw, rotate=0, crop=None):
    """A page of 600 x 800 points drawn by `draw(canvas)`."""
    file = io.BytesIO()
    sheet = canvas.Canvas(file, pagesize=(WIDTH, HEIGHT))
    draw(sheet)
    sheet.showPage()
    sheet.save()
    page = pypdfium2.PdfDocument(file.getvalue())[0]
    if crop:
        page.set_cropbox(*crop)
    if rotate:
        page.set_rotation(rotate)
    return page


def texts(layer):
    return [word.text for word in layer.words]


def two_lines(sheet):
    sheet.setFont("Helvetica", 20)
    sheet.drawString(60, 700, "Invoice 4711")
    sheet.drawString(60, 400, "Total: 12.50")


def near(box, other, by=12):
    return all(abs(a - b) <= by for a, b in zip(box, other, strict=True))


def test_words_and_boxes_of_an_upright_page():
    layer = read_text_layer(page_of(two_lines))
    assert texts(layer) == ["Invoice", "4711", "Total:", "12.50"]
    assert layer.covers and layer.rotation == 0 and layer.reason == ""
    # 60 of 600 points from the left; the baseline at 700 of 800 from below, letters 14 points high.
    assert near(layer.words[0].box, (100, 107, 215, 125))
    assert near(layer.words[2].box, (100, 482, 185, 500))


@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_a_page_with_a_rotation_is_read_as_it_is_shown(rotate):
    """/Rotate turns the page on display: text written upright lies then, and the layer says how to turn it back."""
    layer = read_text_layer(page_of(two_lines, rotate=rotate))
    assert texts(layer) == ["Invoice", "4711", "Total:", "12.50"]
    assert layer.rotation == (360 - rotate) % 360
    assert near(layer.words[0].box, (100, 107, 215, 125))


def test_text_set_on_its_side_that_rotate_puts_upright():
    def draw(sheet):
        sheet.setFont("Helvetica", 20)
        sheet.rotate(90)
        sheet.drawString(60, -100, "Sideways table")

    layer = read_text_layer(page_of(draw, rotate=90))
    assert texts(layer) == ["Sideways", "table"] and layer.rotation == 0
    lying = read_text_layer(page_of(draw))
    assert texts(lying) == ["Sideways", "table"] and lying.rotation in (90, 270)
    assert near(lying.words[0].box, layer.words[0].box)


def test_a_cropped_page():
    layer = read_text_layer(page_of(two_lines, crop=(0, 300, 600, 500)))
    assert texts(layer) == ["Total:", "12.50"]  # the other line is cut away
    assert near(layer.words[0].box, (100, 430, 185, 500))


def test_ligatures_and_hyphens_are_undone():
    def draw(sheet):
        import matplotlib
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfbase.ttfonts import TTFont

        pdfmetrics.registerFont(TTFont("DejaVu", matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans.ttf"))
        sheet.setFont("DejaVu", 18)
        sheet.drawString(60, 700, "the \ufb01rst o\ufb03ce of a docu-")
        sheet.drawString(60, 676, "ment from A-")
        sheet.drawString(60, 652, "B and X-ray")

    assert texts(read_text_layer(page_of(draw))) == [
        *("the", "first", "office", "of", "a", "document", "from"),
        *("A-", "B", "and", "X-ray"),
    ]


def test_columns_in_the_order_of_the_content():
    def draw(sheet):
        sheet.setFont("Helvetica", 10)
        for column, x in (("left", 50), ("right", 320)):
            for i in range(12):
                sheet.drawString(x, 700 - 14 * i, f"{column} {i}")

    words = texts(read_text_layer(page_of(draw)))
    assert words == [w for c in ("left", "right") for i in range(12) for w in (c, str(i))]


def test_content_that_jumps_about_is_read_row_by_row():
    def draw(sheet):
        sheet.setFont("Helvetica", 10)
        places = [(x, y) for y in range(700, 560, -14) for x in (50, 320)]
        for n, (x, y) in sorted(enumerate(places), key=lambda item: item[0] * 13 % 20 * 7 % 11):
            sheet.drawString(x, y, f"cell{n}")

    words = texts(read_text_layer(page_of(draw)))
    assert words == [f"cell{n}" for n in range(len(words))] and len(words) == 20


def scan(size=(300, 400)):
    return ImageReader(Image.new("RGB", size, "white"))


def test_a_scan_is_not_covered():
    layer = read_text_layer(page_of(lambda s: s.drawImage(scan(), 0, 0, WIDTH, HEIGHT)))
    assert not layer.covers and layer.words == [] and "no text layer" in layer.reason


def test_a_scan_with_a_stamped_line_is_not_covered():
    def draw(sheet):
        sheet.drawImage(scan(), 0, 0, WIDTH, HEIGHT)
        sheet.setFont("Helvetica", 8)
        sheet.drawString(10, 10, "Downloaded by a library")

    layer = read_text_layer(page_of(draw))
    assert not layer.covers and "picture" in layer.reason


def test_a_scan_that_was_read_before_is_covered():
    def draw(sheet):
        sheet.drawImage(scan(), 0, 0, WIDTH, HEIGHT)
        text = sheet.beginText(40, 760)
        text.setTextRenderMode(3)  # invisible, as OCR programs write it
        text.setFont("Helvetica", 11)
        for _ in range(50):
            text.textLine("words that a program has read on this page before")
        sheet.drawText(text)

    layer = read_text_layer(page_of(draw))
    assert layer.covers and len(layer.words) == 500


def test_a_small_picture_beside_text_does_not_matter():
    def draw(sheet):
        two_lines(sheet)
        sheet.drawImage(scan(), 400, 600, 100, 100)

    assert read_text_layer(page_of(draw)).covers


def test_an_empty_page():
    layer = read_text_layer(page_of(lambda sheet: None))
    assert layer.words == [] and not layer.covers


def test_sizes_tell_the_title():
    def draw(sheet):
        sheet.setFont("Helvetica", 10)
        sheet.drawString(60, 600, "body text")
        sheet.setFont("Helvetica-Bold", 30)
        sheet.drawString(60, 700, "Title")

    layer = read_text_layer(page_of(draw))
    sizes = dict(zip(texts(layer), layer.size, strict=True))
    assert sizes["Title"] == pytest.approx(30 / 0.8, rel=0.35) and sizes["Title"] > 2 * sizes["body"]


def test_a_file_gives_its_text_compressed_or_not(tmp_path):
    import gzip

    from deed.ocr import page_count, page_image, page_text

    page = page_of(two_lines)
    page.pdf.save(tmp_path / "a.pdf")
    (tmp_path / "a.pdf.gz").write_bytes(gzip.compress((tmp_path / "a.pdf").read_bytes()))
    plain, packed = page_text(tmp_path / "a.pdf"), page_text(tmp_path / "a.pdf.gz")
    assert texts(plain) == ["Invoice", "4711", "Total:", "12.50"] and plain == packed
    assert page_count(tmp_path / "a.pdf.gz") == 1
    assert page_image(tmp_path / "a.pdf.gz").tobytes() == page_image(tmp_path / "a.pdf").tobytes()
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert page_text(tmp_path / "a.png") is None


def test_files_that_are_no_pdf_get_a_true_sentence(tmp_path):
    import gzip

    from deed.errors import DataError
    from deed.ocr import page_count, page_image, page_text

    (tmp_path / "notes.pdf").write_text("These are notes, and no PDF.")
    (tmp_path / "noise.pdf").write_bytes(bytes(range(256)))
    (tmp_path / "notes.pdf.gz").write_bytes(gzip.compress(b"only text"))
    (tmp_path / "cut.pdf.gz").write_bytes(gzip.compress(b"%PDF-1.4" + bytes(range(256)) * 40)[:60])
    for read in (page_text, page_image, page_count):
        for name, message in (
            ("notes.pdf", "named .pdf, but it is text"),
            ("noise.pdf", "named .pdf, but it is another kind of file"),
            ("notes.pdf.gz", "holds no PDF"),
            ("cut.pdf.gz", "damaged .gz file"),
        ):
            with pytest.raises(DataError, match=message):
                read(tmp_path / name)
    page_of(two_lines).pdf.save(tmp_path / "a.pdf")
    with pytest.raises(DataError, match="pages 1 to 1, got page 2"):
        page_text(tmp_path / "a.pdf", 2)


def test_a_font_of_one_point_scaled_by_the_matrix():
    """As many programs write it: commas stay in their line, and "11" one word."""

    def draw(sheet):
        text = sheet.beginText()
        text.setFont("Times-Roman", 1)
        text.setTextTransform(24, 0, 0, 24, 60, 700)
        text.textOut("C++11, 100Kb and 'so', etc.")
        sheet.drawText(text)

    layer = read_text_layer(page_of(draw))
    assert texts(layer) == ["C++11,", "100Kb", "and", "'so',", "etc."]
    assert len(set(layer.line)) == 1 and layer.size[0] == pytest.approx(24 / 0.8, rel=0.2)


def test_columns_whose_content_jumps_about():
    def draw_in_a_bad_order(sheet):
        sheet.setFont("Helvetica", 10)
        for n in (5, 12, 0, 9, 15, 3, 10, 6, 1, 14, 4, 8, 2, 13, 7, 11):
            name, x = (("l", 50), ("r", 330))[n // 8]
            sheet.drawString(x, 700 - 14 * (n % 8), f"{name}{n % 8} is a line of words that fills it")

    words = texts(read_text_layer(page_of(draw_in_a_bad_order)))
    assert words[::9] == [f"{name}{i}" for name in "lr" for i in range(8)]


def test_words_without_spaces_in_the_content():
    """TeX moves on instead of writing a space."""

    def draw(sheet):
        sheet.setFont("Times-Roman", 12)
        x = 60.0
        for word in ("words", "of", "the", "11th", "line"):
            sheet.drawString(x, 700, word)
            x += sheet.stringWidth(word) + 2.4

    assert texts(read_text_layer(page_of(draw))) == ["words", "of", "the", "11th", "line"]


def test_a_document_is_opened_once(tmp_path, monkeypatch):
    from deed.errors import DataError
    from deed.ocr import open_document

    page_of(two_lines).pdf.save(tmp_path / "a.pdf")
    opened, plain = [], pypdfium2.PdfDocument
    monkeypatch.setattr(pypdfium2, "PdfDocument", lambda *a: opened.append(a) or plain(*a))
    with open_document(tmp_path / "a.pdf") as document:
        assert texts(document.text(1)) == ["Invoice", "4711", "Total:", "12.50"]
        assert document.image(1, dpi=72).size == (600, 800) and document.image(1).width > 1600
        with pytest.raises(DataError, match="pages 1 to 1, got page 2"):
            document.image(2)
    assert len(opened) == 1
