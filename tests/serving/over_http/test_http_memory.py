"""Several models under one budget of memory, over HTTP: loaded when asked for, dropped when idle and in the way."""

import re
import threading
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from tasks.tiny_whisper import word_whisper

import deed.tasks.loading
from deed.cli.serve import bytes_of, serve
from deed.errors import RequestTooLarge
from deed.serving.app import create_app
from deed.serving.models import Models
from deed.serving.settings import ServeSettings
from over_http.conftest import FOLDERS, LIMITS, eventually, noise

MIB = 1 << 20
CACHE = 32 * MIB
TWO = 2 * (CACHE + 18 * MIB)  # room for two of the shipped models


def models_of(memory=TWO, **folders):
    pairs = tuple({**FOLDERS, **folders}.items())
    return Models(ServeSettings(models=pairs, limits=replace(LIMITS, cache_bytes=CACHE), threads=1, memory=memory))


def client_of(models):
    made = create_app(models.settings, models)
    return TestClient(made, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def models():
    made = models_of()
    made.load()
    yield made
    made.close()


@pytest.fixture
def http(models):
    return client_of(models)


def loaded(http):
    found = http.get("/models").json()["data"]
    assert http.get("/readyz").json()["loaded"] == [one["id"] for one in found if one["loaded"]]
    assert [one["id"] for one in found] == http.get("/readyz").json()["models"] == list(FOLDERS)
    return [one["id"] for one in found if one["loaded"]]


def metric(http, name, model):
    (found,) = re.findall(rf'^{name}{{model="{model}"}} (\S+)$', http.get("/metrics").text, re.M)
    return float(found)


def words(http, text="hello"):
    return http.post("/generate", json={"text": text})


def question(http, invoice):
    return http.post("/ask", data={"question": "what is the total?"}, files={"file": invoice})


def test_a_model_is_loaded_for_its_request_and_the_longest_idle_makes_room(http, models, invoice):
    assert http.get("/readyz").status_code == 200 and loaded(http) == ["documents", "pictures"]
    first = question(http, invoice).json()["answer"]
    told = http.get("/models").json()["data"][2]
    assert told["layers"] == 8 and told["tasks"][0] == "text2text", "also of a model that is not loaded"
    assert words(http).json()["text"] == "HH EH L OW"
    assert loaded(http) == ["documents", "pronunciation"], "pictures was idle for longest"
    assert (
        metric(http, "deed_model_evictions_total", "pictures") == metric(http, "deed_model_loaded", "documents") == 1
    )
    assert (
        metric(http, "deed_model_loaded", "pictures") == metric(http, "deed_model_evictions_total", "documents") == 0
    )
    assert http.post("/generate", files={"image": invoice}, data={"task": "caption"}).status_code == 200
    assert loaded(http) == ["pictures", "pronunciation"]
    assert models.pool.bytes_in_use <= TWO
    assert question(http, invoice).json()["answer"] == first
    assert metric(http, "deed_model_loads_total", "documents") == 2
    assert metric(http, "deed_finished_total", "documents") == 2, "what is counted goes on"
    assert http.get("/languages").status_code == 200 and "pronunciation" in loaded(http)


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
def test_a_model_with_running_requests_stays(http, models, invoice, path):
    assert words(http).status_code == 200 and loaded(http) == ["pictures", "pronunciation"]
    answers = []
    with models.hold("pictures").served.scheduler.turns.turn():  # nothing is computed meanwhile
        thread = threading.Thread(target=lambda: answers.append(http.post(path, json={"text": "hello"})))
        thread.start()
        eventually(lambda: models.find("pronunciation", ()).scheduler.busy)
        refused = question(http, invoice)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert "documents has no room in memory" in refused.json()["error"]["message"]
        assert loaded(http) == ["pictures", "pronunciation"]
    thread.join(60)
    assert answers[0].status_code == 200 and "HH EH L OW" in answers[0].text
    assert question(http, invoice).status_code == 200
    assert loaded(http) == ["documents", "pictures"], "pictures is held still"


def test_speech_likewise(tmp_path, monkeypatch):
    whisper, processor = word_whisper()
    whisper.save_pretrained(tmp_path)
    real = deed.tasks.loading.load_saved
    monkeypatch.setattr(
        deed.tasks.loading,
        "load_saved",
        lambda f, **how: (word_whisper()[0], processor) if f == tmp_path else real(f, **how),
    )
    models = models_of(speech=str(tmp_path))
    models.load()
    http = client_of(models)
    before = set(models.pool.loaded)
    assert words(http).status_code == 200
    for path in ("transcriptions", "translations"):
        answer = http.post(f"/v1/audio/{path}", files={"file": noise(1.0)}, data={"model": "whisper-1"})
        assert answer.json()["text"]
    assert "speech" in models.pool.loaded and "pronunciation" in models.pool.loaded and "documents" in before
    assert models.pool.evictions >= 1
    models.close()


def test_a_model_larger_than_the_budget_is_refused_at_the_start():
    with pytest.raises(RequestTooLarge, match=r"'documents' takes .* the budget \(--memory\) is 40,000,000: raise it"):
        models_of(memory=40_000_000).load()


def test_a_model_that_cannot_be_loaded_is_the_logs_matter(http, models, monkeypatch, caplog):
    def broken(folder, **how):
        raise deed.DeedLoadError(f"{folder}/secret is damaged")

    monkeypatch.setattr(deed.tasks.loading, "load_saved", broken)
    answer = words(http)
    assert answer.status_code == 503 and "secret" not in answer.text and "secret" in caplog.text
    monkeypatch.undo()
    assert words(http).status_code == 200


def test_sizes_as_people_write_them():
    assert bytes_of("4GiB") == bytes_of("4g") == bytes_of("4 Gi") == 4 << 30
    assert bytes_of("500MB") == 500 * 10**6 and bytes_of("1.5G") == 3 << 29 and bytes_of("1000") == 1000
    for bad in ("", "much", "4XB", "GiB", "1.2.3G", "0"):
        with pytest.raises(ValueError, match="--memory must be a number"):
            bytes_of(bad)


def test_a_server_on_ray_has_no_such_budget():
    with pytest.raises(ValueError, match="--memory is for a server without --ray; with --ray say --models-each"):
        serve(["documents"], memory="4GiB", ray=True)
