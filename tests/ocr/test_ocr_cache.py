"""OCR results on disk: found by pixels and engine, whole or not at all."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_ocr import page

from deed.ocr import DataError, Word, default_cache, rapid, read_page, read_words, reading


@pytest.fixture
def fake(monkeypatch):
    """An engine that counts its readings."""
    result = rapid.Reading([Word("naïve", (1, 2, 3, 4))], 5.0, 0)
    engine = SimpleNamespace(calls=0, name="fake 1", start=lambda threads: None)
    engine.version = lambda: engine.name

    def read(image, threads):
        engine.calls += 1
        return result

    engine.read = read
    monkeypatch.setitem(reading.ENGINES, "rapidocr", engine)
    return engine


def test_cache_by_pixels_and_engine(fake, tmp_path):
    cache = tmp_path / "a" / "b"
    first = read_page(page(), cache=cache)
    page().save(tmp_path / "same.png")
    again = read_page(tmp_path / "same.png", cache=str(cache))  # other source, same pixels
    assert (first.cached, again.cached, fake.calls) == (False, True, 1)
    assert (again.words, again.size, again.rotation, again.seconds) == (
        first.words,
        first.size,
        first.rotation,
        first.seconds,
    )
    assert isinstance(again.words[0], Word)
    read_page(page(["other"]), cache=cache)
    fake.name = "fake 2"
    read_page(page(), cache=cache)
    assert fake.calls == 3
    assert len(list(cache.rglob("*.json"))) == 3 and not list(cache.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"words": 3}', None, "\x00"])
def test_a_damaged_entry_is_read_anew_and_rewritten(fake, tmp_path, damage):
    read_page(page(), cache=tmp_path)
    (file,) = tmp_path.rglob("*.json")
    whole = json.loads(file.read_text())
    file.write_text(damage if damage is not None else json.dumps(whole | {"rotation": 45}))
    assert not read_page(page(), cache=tmp_path).cached
    assert read_page(page(), cache=tmp_path).cached
    assert fake.calls == 2


def test_no_cache_and_the_default_one(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("DEED_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "ocr"
    read_words(page())
    read_words(page(), cache=False)
    assert not list(tmp_path.iterdir())
    read_words(page(), cache=True)
    assert len(list(default_cache().rglob("*.json"))) == 1
    monkeypatch.delenv("DEED_CACHE")
    assert default_cache() == Path.home() / ".cache/deed/ocr"


def test_a_cache_that_cannot_be_written(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cache .*file cannot be written .*set DEED_CACHE, or read with cache=False"):
        read_words(page(), cache=tmp_path / "file")
    for i in range(256):
        (tmp_path / f"{i:02x}").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        read_words(page(), cache=tmp_path)


def test_several_writers(fake, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: read_page(page(), cache=tmp_path), range(40)))
    assert len({tuple(r.words) for r in results}) == 1
    assert len(list(tmp_path.rglob("*.*"))) == 1
