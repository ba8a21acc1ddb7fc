"""OCR results on disk: found by pixels and engine, whole or not at all."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ocr import page

from deed.ocr import DataError, Word, cache, default_cache, rapid, read_page, read_words, reading
from deed.ocr.words import unit_box


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
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == Path.home() / ".cache/deed/ocr"


def test_where_the_cache_is_and_whether_it_can_be_used(monkeypatch, tmp_path):
    monkeypatch.delenv("DEED_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.usable_cache() == tmp_path / "xdg" / "deed" / "ocr" and (tmp_path / "xdg" / "deed" / "ocr").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEED_CACHE", str(tmp_path / "file"))
    assert cache.usable_cache() is None


def test_the_cache_is_bounded(fake, tmp_path):
    import os

    for i in range(12):
        read_page(page([f"page {i}"]), cache=tmp_path)
    files = sorted(tmp_path.rglob("*.json"))
    kept = sorted([*files[:3], files[-1]])
    for age, file in enumerate(files):
        os.utime(file, (1000 - age, 1000 - age))
    assert cache.load_entry(files[-1]) is not None  # the oldest, used just now
    cache.shrink_cache(tmp_path, sum(file.stat().st_size for file in kept))
    assert sorted(tmp_path.rglob("*.json")) == kept


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


WORD = st.tuples(st.just("a"), st.lists(st.integers(-5, 2000) | st.floats() | st.none() | st.just("7"), max_size=5))
ANY = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.just(10**400)
    | st.just([[]] * 2)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["words", "rotation", "size", "seconds"]), ANY | st.lists(WORD | ANY, max_size=3))
def test_whatever_an_entry_holds_it_is_whole_or_not_there(tmp_path, field, value):
    path = tmp_path / "a.json"
    whole = {"words": [["a", [1, 2, 3, 4]]], "rotation": 90, "size": [7, 9], "seconds": 0.5, "more": 1}
    path.write_text(json.dumps({**whole, field: value}))
    entry = cache.load_entry(path)
    if entry is not None:
        assert entry["rotation"] in (0, 90, 180, 270) and 0 <= entry["seconds"] < 1e9
        assert all(isinstance(side, int) and side > 0 for side in entry["size"])
        for text, box in entry["words"]:
            assert isinstance(text, str) and all(type(edge) is int and 0 <= edge <= 1000 for edge in box)
    path.write_text(json.dumps(whole))
    assert cache.load_entry(path)["size"] == (7, 9)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 5, 5), (0, 0, 500, 1000)),
        ((5, 5, -1, 99), (0, 1000, 500, 1000)),
        ((-1e15, -1e15, 1e15, 1e15), (0, 0, 1000, 1000)),
        ((float("-inf"), 0, float("inf"), 5), (0, 0, 1000, 1000)),
    ],
)
def test_boxes_are_clipped(box, expected):
    assert unit_box(*box, width=10, height=5) == expected
    assert unit_box(0, 0, 1e15, 1, 5e-324, 1) == (0, 0, 1000, 1000)  # more than a float holds
