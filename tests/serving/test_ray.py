"""On a real Ray of this machine: the server with replicas that are killed under load, and a data job whose worker is."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import replace

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import deed
from deed.serving.folders import choose, served_folder
from deed.serving.ray import RayOptions, app, build
from deed.serving.ray_metrics import merged
from deed.serving.settings import ServeSettings
from deed.utils.shipped import CHECKPOINTS

G2P = CHECKPOINTS / "g2p"
KEY = "a-key-of-tests"


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray import serve

    from deed.serving.ray_cluster import connect

    try:  # four shares of two processors: what counts here is how many replicas there are
        ray = connect(num_cpus=4)
    except Exception:  # Ray gives itself half a minute to start, which a busy machine may take
        ray = connect(num_cpus=4)
    yield ray
    serve.shutdown()
    ray.shutdown()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def serving(cluster):
    """Starts an application on the one port that Serve listens to."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = ServeSettings(models=(("words", str(G2P)),), port=port, keys=(KEY,), drain_s=5)

    def start(options, make=None, **changes):
        serve.run(build(replace(settings, **changes), options, make), name="deed", route_prefix="/")
        return f"http://127.0.0.1:{port}"

    return start


def replicas():
    """Processes of replicas that answer."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica:deed:Replica" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def ask(client, path="/generate", **fields):
    return client.post(path, json=fields, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)


def maker():
    """A slow application whose answers say which process gave them; made here, so that it is pickled by value."""

    def make(name):
        import asyncio
        import os

        async def slow(scope, receive, send):
            streamed = scope["path"].endswith("/stream")
            kind = b"text/event-stream" if streamed else b"application/json"
            await asyncio.sleep(0.0 if streamed else 1.5)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            for i in range(15 if streamed else 0):
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % i, "more_body": True})
                await asyncio.sleep(0.1)
            end = b"event: done\ndata: %d\n\n" if streamed else b"%d"
            await send({"type": "http.response.body", "body": end % os.getpid()})

        return slow, lambda: None

    return make


def test_a_replica_killed_under_load_loses_no_request(serving):
    url = serving(RayOptions(min_replicas=2, max_replicas=2, num_cpus=0.5, models_each=1), maker())
    assert len(replicas()) == 2

    async def one(client, path):
        async with client.stream("POST", path, json={"text": "x"}) as response:
            return response.status_code, (await response.aread()).decode()

    async def load():
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
            paths = ["/generate", "/generate/stream"] * 12
            tasks = [asyncio.create_task(one(client, path)) for path in paths]
            await asyncio.sleep(0.8)
            os.kill(replicas()[0], signal.SIGKILL)
            return list(zip(paths, await asyncio.gather(*tasks), strict=True))

    ends = Counter()
    for path, (status, text) in asyncio.run(load()):
        assert status == 200, text
        if path == "/generate":
            assert text.isdigit(), "answered by the replica that was left, or the one that came after"
            ends["plain"] += 1
        elif "event: done" in text:
            assert [line for line in text.splitlines() if line == f"data: {14}"], "whole"
            ends["whole"] += 1
        else:
            name, _, told = text.strip().split("\n\n")[-1].partition("\ndata: ")
            assert name == "event: error" and "has died" in json.loads(told)["error"]["message"]
            ends["told"] += 1
    assert ends["plain"] == 12 and ends["whole"] + ends["told"] == 12
    assert ends["told"] > 0, "the replica was killed while it streamed"


def test_the_server_answers_as_on_one_machine(serving, tmp_path):
    url = serving(
        RayOptions(min_replicas=1, max_replicas=2, num_cpus=0.5), models=(("words", str(G2P)), ("more", str(G2P)))
    )
    with httpx.Client(base_url=url) as client:
        words = ["cat", "squirrel", "tomato", "xylophone"]
        expected = [one["generated_text"] for one in deed.pipeline("text2text", G2P)(words)]
        found = [ask(client, text=word).json() for word in words]
        assert [one["text"] for one in found] == expected and found[0]["model"] == "words"
        assert all(0 < one["mean_depth"] < 8 for one in found)
        assert ask(client, text="cat", model="more").json()["model"] == "more", (
            "the other model takes the first one's place"
        )
        assert ask(client, text="cat", model="none").status_code == 404
        streamed = ask(client, "/generate/stream", text="squirrel").text.strip().split("\n\n")
        assert (
            streamed[-1].startswith("event: done")
            and json.loads(streamed[-1].partition("data: ")[2])["text"] == expected[1]
        )
        assert len(streamed) == len(found[1]["tokens"]) + 1, "token by token"
        assert client.post("/generate", json={"text": "cat"}).status_code == 401
        assert client.get("/models").status_code == 401 and client.get("/healthz").json()["status"] == "alive"
        assert ask(client, text="cat", threshold=-1).status_code == 400
        listed = client.get("/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
        assert [one["id"] for one in listed] == ["words", "more"] and listed[0]["layers"] == 8


def test_metrics_are_those_of_all_replicas(serving):
    url = serving(RayOptions(min_replicas=2, max_replicas=2, num_cpus=0.5, metrics_s=0.5))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        asked = 0

        def samples():
            text = client.get("/metrics").text
            return {
                name: {
                    (sample.labels["replica"], sample.labels["model"]): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                    if sample.name == name and "replica" in sample.labels
                }
                for name in ("deed_finished_total", "deed_token_depth_count", "deed_model_loaded")
            }

        for _ in range(600):
            if asked < 40:  # until both replicas have answered some
                asyncio.run(together(url, 8))
                asked += 8
            found = samples()
            done = found["deed_finished_total"]
            if len(done) == 2 and min(done.values()) > 0 and sum(done.values()) == asked and asked == 40:
                break
            time.sleep(0.2)
        assert len(done) == 2 and sum(done.values()) == asked, found
        assert {model for _, model in done} == {"words"} and len({replica for replica, _ in done}) == 2
        assert set(found["deed_model_loaded"].values()) == {1.0} and min(found["deed_token_depth_count"].values()) > 0
        assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401
        gone = replicas()[0]
        os.kill(gone, signal.SIGKILL)
        before = {replica for replica, _ in done}
        for _ in range(600):
            now = {replica for replica, _ in samples()["deed_model_loaded"]}
            if len(now) == 2 and now != before:
                return
            time.sleep(0.2)
        raise AssertionError(f"the new replica is not told of: {now}, before {before}")


async def together(url, count):
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        answers = await asyncio.gather(*(client.post("/generate", json={"text": "squirrel"}) for _ in range(count)))
        assert {answer.status_code for answer in answers} == {200}


def test_pages_of_replicas_become_one():
    page = '# HELP a_total A.\n# TYPE a_total counter\na_total{model="m"} %d\n# TYPE b gauge\nb 2\n'
    text = merged({"r1": {"m": page % 3, "n": page % 4}, "r2": {"m": page % 5}})
    assert text.count("# TYPE a_total counter") == 1 and "deed_replicas 2.0" in text
    for line in (
        'a_total{model="m",replica="r1"} 3.0',
        'a_total{model="m",replica="r2"} 5.0',
        'b{model="n",replica="r1"} 2.0',
        'b{model="m",replica="r2"} 2.0',
    ):
        assert line in text.splitlines()


def test_a_data_job_whose_worker_is_killed_answers_every_row(cluster, tmp_path):
    import pyarrow.parquet as pq

    texts = ["".join(chr(97 + (i * 7 + k * 3) % 26) for k in range(4 + i % 6)) for i in range(96)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    killed = []

    def kill():
        for _ in range(3000):
            if list((tmp_path / "out").glob("part-*")):
                for process in psutil.Process().children(recursive=True):
                    if "MapWorker" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    options = {"block_size": 4, "ray": True, "workers": 1, "num_cpus": 0.5, "threshold": 0.9}
    done = deed.data_job(tmp_path / "in.jsonl", tmp_path / "out", G2P, **options)
    thread.join()
    assert killed and done["rows"] == 96 and done["errors"] == 0
    found = pq.read_table(str(tmp_path / "out")).sort_by("input").to_pylist()
    assert [row["answer"] for row in found] == [
        one["generated_text"] for one in deed.pipeline("text2text", G2P, threshold=0.9)(texts)
    ]


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/generate", {"text": "a"}, "words"),
        ("/generate", {"image": "x", "text": "what?"}, "pages"),
        ("/ask", {}, "pages"),
        ("/v1/audio/transcriptions", {"model": "whisper-1", "file": True}, None),
        ("/translate", {"q": "a"}, "words"),
        ("/", {}, "pages"),
        ("/generate", {"text": "a", "model": "pages"}, "pages"),
        ("/generate", {"text": "a", "model": "other"}, None),
    ],
)
def test_which_model_a_request_is_for(path, fields, name):
    models = [served_folder("pages", str(CHECKPOINTS / "latr")), served_folder("words", str(G2P))]
    assert choose(models, path, fields) == name


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="max_replicas"):
        RayOptions(min_replicas=3, max_replicas=2)
    with pytest.raises(ValueError, match="num_cpus"):
        RayOptions(num_cpus=-1)
    with pytest.raises(ValueError, match="models=NAME=FOLDER"):
        app({})
    with pytest.raises(ValueError, match="unknown argument replicas"):
        app({"models": f"words={G2P}", "replicas": "3"})
