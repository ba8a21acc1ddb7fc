"""The page in Chromium: file, question, tokens in their colors; keyboard, narrow screens, dark; nothing from outside."""

import os
from pathlib import Path

import pytest

from deed.serving.app import create_app
from deed.serving.models import Models
from deed.serving.settings import ServeSettings
from deed.utils.shipped import shipped

from .conftest import Served

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SHOTS = os.environ.get("DEED_SCREENSHOTS")  # a folder to leave pictures in, for people to look at
WAIT = 60_000  # ms

CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (el) => {
    const layers = [];
    for (let at = el; at; at = at.parentElement) {
      let text = getComputedStyle(at).backgroundColor;
      if (text.startsWith("color(srgb")) {
        const [r, g, b, a = 1] = rgb(text.slice(10));
        text = `rgba(${255 * r}, ${255 * g}, ${255 * b}, ${a})`;
      }
      const [r, g, b, a = 1] = rgb(text);
      if (a > 0) layers.push([r, g, b, a]);
      if (a === 1) break;
    }
    const over = (under, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
    return layers.reverse().reduce(over, [255, 255, 255]);
  };
  const bad = [];
  for (const el of document.querySelectorAll("body *")) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.checkVisibility() || el.matches(":disabled") || el.tagName === "OPTION") continue;
    const [a, b] = [lum(rgb(getComputedStyle(el).color)), lum(ground(el))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${el.tagName} ${el.className} "${el.textContent.trim().slice(0, 20)}" ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page_of(browser, served):
    pages, problems = [], []

    def make(width=1280, height=900, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda r: None if r.url.startswith((served.url, "data:", "blob:")) else problems.append(r.url)
        )
        page.goto(served.url)
        page.wait_for_selector("#model option", state="attached")
        pages.append(page)
        return page

    yield make
    for page in pages:
        page.close()
    assert not problems


def is_problem(message):
    """An error, but for a refusal, which is shown to the reader."""
    return message.type == "error" and "status of 400" not in message.text


def shot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def done(page):
    playwright.expect(page.locator("#status")).to_have_text("Done.", timeout=WAIT)


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_ask_about_a_pdf_and_watch_the_answer(page_of):
    page = page_of()
    shot(page, "empty")
    page.click("#sample")
    page.fill("#question", "what are all the fields?")
    page.click("#ask")
    done(page)
    assert page.inner_text("#fields").replace("\t", " ").count("$125.16") == 1
    tokens = page.query_selector_all("#answer .token")
    colors = {token.evaluate("e => getComputedStyle(e).borderBottomColor") for token in tokens}
    assert len(tokens) > 20 and len(colors) >= 2, "each in the color of its depth"
    assert len(page.query_selector_all("#stairs .stair")) == len(page.query_selector_all("#tokens tbody tr"))
    assert "of 8" in page.inner_text("#numbers") and "saved" in page.inner_text("#numbers")
    assert page.query_selector_all("#boxes .box") and page.is_visible("#picture")
    assert "full depth" in page.inner_text("#versus") and "the same" in page.inner_text("#versus")
    shot(page, "wide")
    assert page.evaluate(CONTRAST) == [] and fits(page)
    page.set_viewport_size({"width": 360, "height": 780})
    assert fits(page)
    shot(page, "narrow")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert page.evaluate(CONTRAST) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    shot(page, "dark")


def test_by_keyboard_alone(page_of, invoice, tmp_path):
    file = tmp_path / "invoice.pdf"
    file.write_bytes(invoice)
    page = page_of()
    page.keyboard.press("Tab")  # the link to the API
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    opened = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    for key in ("Enter", "Space", "Enter"):  # a busy browser may let one go by
        page.keyboard.press(key)
        page.wait_for_timeout(3000 if not opened else 0)
        if opened:
            break
    opened[0].set_files(file)
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.id")
        assert at == "" or page.evaluate("document.activeElement.matches(':focus-visible')")
        seen.add(at)
        if at == "question":
            page.keyboard.type("what is the total?")
        if at == "threshold":
            page.keyboard.press("ArrowRight")
            page.keyboard.press("End")
    assert {"sample", "remove", "question", "ask", "model", "page", "threshold", "reset", "compare"} <= seen
    assert page.inner_text("#threshold-text") == "full depth"
    page.focus("#reset")
    page.keyboard.press("Enter")
    assert "model's own" in page.inner_text("#threshold-text")
    page.focus("#question")
    page.keyboard.press("Enter")
    done(page)
    assert "$125.16" in page.inner_text("#answer") and "sure (95 %)" in page.inner_text("#verdict")


def test_a_picture_a_sound_a_text_and_errors(page_of, tmp_path):
    from over_http.conftest import noise, png

    page = page_of(width=900)
    (tmp_path / "red.png").write_bytes(png((300, 200)))
    (tmp_path / "noise.wav").write_bytes(noise(1.0))
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    page.set_input_files("#file", tmp_path / "red.png")
    page.select_option("#model", "pictures")
    page.select_option("#task", "refer")
    page.fill("#question", "the red thing")
    page.click("#ask")
    done(page)
    assert "<bin_" in page.inner_text("#answer") and page.query_selector_all("#boxes .box")
    shot(page, "picture")
    page.set_input_files("#file", tmp_path / "noise.wav")
    assert page.input_value("#model") == "whisper-tiny" and page.inner_text("#ask") == "Transcribe"
    page.click("#ask")
    done(page)
    assert page.inner_text("#answer").strip()
    page.set_input_files("#file", tmp_path / "broken.pdf")
    page.fill("#question", "what is it?")
    page.click("#ask")
    page.wait_for_selector("#error")
    assert "damaged" in page.inner_text("#error")
    page.click("#remove")
    assert page.inner_text("#ask") == "Generate"
    page.fill("#question", "mississippi")
    page.click("#ask")
    done(page)
    assert page.inner_text("#answer").startswith("M IH")


def test_the_endpoints_described(page_of, served):
    page = page_of()
    page.goto(f"{served.url}/docs")
    page.wait_for_selector(".endpoint:nth-child(9)")
    assert "/v1/audio/transcriptions" in page.inner_text("#endpoints")
    assert page.evaluate(CONTRAST) == []
    shot(page, "docs")


def test_the_page_chooses_between_the_models_for_documents(browser, tmp_path):
    folders = tuple((name, str(shipped(name))) for name in ("pronunciation", "documents", "paperwork"))
    models = Models(ServeSettings(models=folders, threads=1))
    models.load()
    served = Served(create_app(models.settings, models))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        page.set_default_timeout(WAIT)
        page.goto(served.url)
        page.click("#sample")
        assert page.eval_on_selector("#model", "e => e.selectedOptions[0].text") == "chosen by the page"
        page.fill("#question", "what is the total?")
        page.click("#ask")
        done(page)
        assert "of 6" in page.inner_text("#numbers"), "paperwork, whose decoder has six layers, for a PDF's own text"
        assert page.inner_text("#legend").count("layer") == 6
        shot(page, "by-page")
        page.select_option("#model", "documents")
        page.click("#ask")
        done(page)
        assert page.inner_text("#legend").count("layer") == 8 and "of 8" in page.inner_text("#numbers")
    finally:
        page.close()
        served.close()
        models.close()
