"""Who may ask, how much at once, and what is never opened, written or told."""

import gzip
import http.server
import io
import json
import threading
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient

from deed.errors import QueueFull
from deed.serving.app import create_app
from deed.serving.security import Keys, read_keys
from deed.serving.settings import Limits, ServeSettings, check_exposure, is_loopback
from over_http.conftest import FOLDERS, LIMITS, eventually, noise, png, wav

KEY, OTHER = "first-key-123", "second-key-456"
ASK = {"question": "what is the total?"}


def client(loaded, **settings):
    made = ServeSettings(**{"models": tuple(FOLDERS.items()), "limits": LIMITS, **settings})
    return TestClient(create_app(made, loaded), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def keyed(loaded):
    return client(loaded, keys=(KEY, OTHER))


@pytest.fixture(scope="module")
def plain(loaded):
    return client(loaded)


def message(answer):
    return answer.json()["error"]["message"]


def test_every_endpoint_asks_for_a_key(keyed):
    open_paths = {"/healthz", "/readyz"}
    for path, verbs in keyed.get("/openapi.json").json()["paths"].items():
        for verb in verbs:
            if path in open_paths:
                continue
            for headers in (
                {},
                {"Authorization": "Bearer wrong-key"},
                {"Authorization": f"Basic {KEY}"},
                {"Authorization": "Bearer "},
            ):
                answer = keyed.request(
                    verb, path, headers=headers, json={"q": "x", "target": "de"} if verb == "post" else None
                )
                assert answer.status_code in (401, 403), (verb, path, headers, answer.text)
    for path in ("/", "/docs", "/page/page.js", *open_paths):
        assert keyed.get(path).status_code == 200
    for key in (KEY, OTHER):
        assert keyed.get("/models", headers={"Authorization": f"bearer {key}"}).status_code == 200
    assert keyed.get("/models").headers["www-authenticate"] == "Bearer"
    assert keyed.get("/languages", params={"api_key": KEY}).status_code == 200, "as LibreTranslate's clients send it"
    assert keyed.post("/detect", data={"q": "Guten Morgen", "api_key": OTHER}).status_code == 200


def test_all_keys_are_compared(monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    keys = Keys([KEY, OTHER])
    assert (
        keys.takes(KEY) and keys.takes(OTHER) and not keys.takes(None) and not keys.takes("x") and not keys.takes("")
    )
    assert compared == [(32, 32)] * 10
    assert Keys([]).takes(None)


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# two\n{KEY}\n\n{OTHER}\n")
    file.chmod(0o600)
    assert read_keys(None, file) == (KEY, OTHER)
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_keys(None, file)
    monkeypatch.setenv("DEED_API_KEY", OTHER)
    assert read_keys(None, None) == (OTHER,) and read_keys(KEY, None) == (KEY,)
    for bad in ("short", "with a space in it", "nötig-und-lang"):
        with pytest.raises(ValueError, match="at least 8 characters"):
            read_keys(bad, None)
    assert KEY not in repr(ServeSettings(models=(("m", "f"),), keys=(KEY,)))


def test_an_open_address_needs_a_key_or_a_word():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="--no-auth"):
            check_exposure(host, False, False)
        check_exposure(host, True, False)
        check_exposure(host, False, True)
    with pytest.raises(ValueError, match="leave one"):
        check_exposure("127.0.0.1", True, True)
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        check_exposure(host, False, False)
        assert is_loopback(host)


def test_pages_of_elsewhere_may_not_use_a_server_without_keys(plain, loaded):
    assert plain.get("/models", headers={"Origin": "https://evil.org"}).status_code == 403
    assert plain.get("/models", headers={"Origin": "null"}).status_code == 403
    assert plain.get("/models", headers={"Host": "evil.org"}).status_code == 403, "a name that was bound to 127.0.0.1"
    assert plain.get("/models", headers={"Origin": "http://localhost"}).status_code == 200
    answer = plain.get("/models")
    assert "access-control-allow-origin" not in answer.headers
    friendly = client(loaded, origins=("https://friend.org",))
    asked = {"Origin": "https://friend.org", "Access-Control-Request-Method": "POST"}
    assert friendly.options("/ask", headers=asked).headers["access-control-allow-origin"] == "https://friend.org"
    assert friendly.get("/models", headers={"Origin": "https://evil.org"}).status_code == 403


def test_headers_of_every_answer(plain):
    for path in ("/", "/models", "/nowhere"):
        headers = plain.get(path).headers
        assert (
            headers["x-content-type-options"] == "nosniff"
            and "default-src 'none'" in headers["content-security-policy"]
        )
    for path in ("/", "/docs"):
        text = plain.get(path).text
        assert "http://" not in text.replace('xmlns="http://www.w3.org', "") and "https://" not in text
    assert plain.get("/page/..%2Fapp.py").status_code == 404 and plain.get("/page/app.py").status_code == 404


def test_bodies_above_the_limit(plain):
    big = b"x" * (LIMITS.body_bytes + 1)
    for answer in (
        plain.post("/ask", data=ASK, files={"file": big}),
        plain.post("/generate", content=big, headers={"Content-Type": "application/json"}),
        plain.post("/v1/audio/transcriptions", files={"file": big}),
        plain.post(
            "/generate",
            content=(big[i : i + 65536] for i in range(0, len(big), 65536)),
            headers={"Content-Type": "application/json"},
        ),
    ):
        assert answer.status_code == 413 and "limit of 2,000,000 bytes" in message(answer)
    packed = gzip.compress(b'{"text": "hello"}')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert plain.post("/generate", content=packed, headers=headers).status_code == 415


def png_of(width, height):
    """A small file that says it has so many pixels, all black."""
    import struct

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * (width // 8 + 1) * min(height, 20000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def pdf_with_picture(side):
    """A PDF whose page holds a picture of side x side pixels, packed."""
    import pypdfium2

    made = pypdfium2.PdfDocument.new()
    made.new_page(200, 200)
    out = io.BytesIO()
    made.save(out)
    data = zlib.compress(zlib.compress(b"\0" * 1000))
    text = (
        "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
        "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Resources<</XObject<</I 5 0 R>>>>/Contents 4 0 R>>endobj "
        "4 0 obj<</Length 31>>stream\nq 200 0 0 200 0 0 cm /I Do Q   \nendstream endobj "
        f"5 0 obj<</Type/XObject/Subtype/Image/Width {side}/Height {side}/ColorSpace/DeviceGray/BitsPerComponent 8"
        f"/Filter[/FlateDecode/FlateDecode]/Length {len(data)}>>stream\n"
    ).encode("latin-1")
    return text + data + b"\nendstream endobj trailer<</Root 1 0 R>>\n%%EOF\n"


def many_pages(count):
    import pypdfium2

    made = pypdfium2.PdfDocument.new()
    for _ in range(count):
        made.new_page(100, 100)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def tiff(frames):
    from PIL import Image

    out = io.BytesIO()
    first, *rest = [Image.new("1", (8, 8)) for _ in range(frames)]
    first.save(out, "TIFF", save_all=True, append_images=rest)
    return out.getvalue()


@pytest.mark.parametrize(
    ("bomb", "told"),
    [
        (png_of(50_000, 50_000), "50000 x 50000 pixels, the limit is 4,000,000"),
        (png_of(5_000, 900), "4,000,000"),
        (pdf_with_picture(30_000), "30000 x 30000 pixels"),
        (many_pages(4), "4 pages, the limit is 3"),
        (tiff(5), "more than 3 pages"),
        (gzip.compress(b"%PDF-1.7" + b"\0" * 50_000_000), "more than 1 MB"),
    ],
    ids=["png", "png above the limit", "pdf", "pages", "tiff", "gz"],
)
def test_bombs_are_refused_before_they_are_unpacked(plain, bomb, told):
    assert len(bomb) < LIMITS.body_bytes
    answer = plain.post("/ask", data=ASK, files={"file": bomb})
    assert answer.status_code in (400, 413) and told in message(answer), answer.text


def test_sound_is_read_no_longer_than_the_limit(plain, monkeypatch):
    day = wav(np.zeros(900_000, np.int16), rate=10)  # 25 hours of silence in 1.8 MB
    answer = plain.post("/v1/audio/transcriptions", files={"file": day})
    assert answer.status_code in (400, 413), answer.text
    assert plain.post("/generate", files={"audio": noise(21)}).status_code == 413


def test_no_path_and_no_address_is_opened(plain, tmp_path):
    hits = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/x.png"
    secret = tmp_path / "secret.wav"
    secret.write_bytes(noise(0.5))
    for place in (url, f"file://{secret}", str(secret), "/etc/passwd", "C:\\boot.ini", f"data:image/png,{url}"):
        for field in ("image", "document", "audio"):
            answer = plain.post("/generate", json={"text": "what is it?", field: place})
            assert answer.status_code == 400 and "root:" not in answer.text, answer.text
        assert plain.post("/ask", json={**ASK, "file": place}).status_code == 400
    lists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"ffconcat version 1.0\nfile {secret.name}\n",
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
        f"%!PS\n({secret}) run\n",
    ]
    for text in lists:
        for path, field in (("/v1/audio/transcriptions", "file"), ("/ask", "file")):
            answer = plain.post(path, data=ASK if path == "/ask" else {}, files={field: text.encode()})
            assert answer.status_code == 400, answer.text
    server.shutdown()
    assert not hits


def test_nothing_is_written_under_the_name_of_an_upload(plain, invoice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEED_CACHE", str(tmp_path / "cache"))
    for name in ("../../evil.pdf", "/tmp/deed-evil.pdf", "a\\b.pdf", "evil.pdf"):
        assert plain.post("/ask", data=ASK, files={"file": (name, invoice)}).status_code == 200
    assert not list(tmp_path.rglob("*")) and not __import__("os").path.exists("/tmp/deed-evil.pdf")


def test_errors_tell_no_traceback(plain, loaded, monkeypatch, caplog):
    scheduler = loaded.find("pronunciation", ()).scheduler

    def fail(request):
        raise RuntimeError("secret /home/somebody/model.py")

    monkeypatch.setattr(scheduler, "submit", fail)
    answer = plain.post("/generate", json={"text": "hello", "model": "pronunciation"})
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
    number = message(answer).split()[2].rstrip(";")
    assert number in caplog.text and "secret" in caplog.text, "the log has it"


def test_a_full_queue_says_when_to_come_again(plain, loaded, monkeypatch):
    def full(request):
        raise QueueFull("256 requests wait", 7.2)

    monkeypatch.setattr(loaded.find("pronunciation", ()).scheduler, "submit", full)
    answer = plain.post("/generate", json={"text": "hello", "model": "pronunciation"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert plain.post("/generate/stream", json={"text": "hello", "model": "pronunciation"}).status_code == 429


def test_deadlines_and_failing_steps_are_their_own_requests(plain, loaded, monkeypatch):
    from deed.engine.batch import RunningBatch

    body = {"text": "hello", "model": "pronunciation"}
    assert plain.post("/generate", json={**body, "deadline": 1e-6}).status_code == 504
    with monkeypatch.context() as broken:
        broken.setattr(RunningBatch, "step", lambda *a: (_ for _ in ()).throw(RuntimeError("a step")))
        broken.setattr(RunningBatch, "step_one", lambda *a: (_ for _ in ()).throw(RuntimeError("a step")))
        assert plain.post("/generate", json=body).status_code == 500
    assert plain.post("/generate", json=body).json()["text"] == "HH EH L OW"
    eventually(lambda: not loaded.busy)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"text": "x", "model": "nobody"}, "no model 'nobody'"),
        ({"text": "x" * 5001}, "limit is 5,000"),
        ({"text": "  "}, "text is empty"),
        ({}, "an input is missing"),
        ({"text": "x", "max_new_tokens": 129}, "at most 128"),
        ({"text": "x", "temprature": 1}, "temprature"),
        ({"text": "x", "threshold": -1}, "threshold"),
        ({"text": "x", "task": "dance"}, "task is one of"),
        ({"image": "!!!"}, "image must be base64"),
        ({"text": "x", "model": "documents"}, "is for document-qa"),
        ({"image": "aGk=", "audio": "aGk="}, "one input at a time"),
    ],
)
def test_bad_requests_name_the_field(plain, body, told):
    answer = plain.post("/generate", json=body)
    assert answer.status_code in (400, 404, 413) and told in message(answer), answer.text
    for bad in (b"", b"{", b"[1]", b'"x"', b"[" * 100_000):
        answer = plain.post("/generate", content=bad, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
    assert plain.post("/generate", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415


def test_limits_and_settings_are_checked_and_travel():
    for name in ("body_bytes", "deadline_s"):
        for value in (0, -1, float("nan"), float("inf"), True, "5"):
            with pytest.raises(ValueError, match=name):
                Limits(**{name: value})
    settings = ServeSettings(models=(("a", "b"),), keys=(KEY,), origins=("https://x",), limits=LIMITS)
    assert ServeSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    for wrong in (
        {"models": ()},
        {"models": (("a", "b"), ("a", "c"))},
        {"port": 70000},
        {"threads": 0},
        {"hang_s": 0},
    ):
        with pytest.raises(ValueError):
            ServeSettings(**{"models": (("a", "b"),), **wrong})


def test_a_pictures_kind_is_told_by_its_bytes(plain):
    from deed.serving.uploads import DOCUMENT, PICTURE, SOUND, kind_of

    assert kind_of(png()) == PICTURE and kind_of(noise(0.1)) == SOUND and kind_of(b"%PDF-1.7 x") == DOCUMENT
    assert kind_of(b"\xff\xd8\xff\xe0") == PICTURE and kind_of(b"\xff\xfb\x90") == SOUND
    assert kind_of(b"RIFF1234WEBPVP8 ") == PICTURE and kind_of(b"\0\0\0 ftypavif") == PICTURE
    assert kind_of(b"\0\0\0 ftypM4A ") == SOUND and kind_of(tiff(1)) == DOCUMENT
