"""`deed bench serve` in miniature: what is asked, what is counted, what is said of answers that are wrong. Never how fast."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("aiohttp")
pytest.importorskip("psutil")

from aiohttp import web
from transformers import AutoTokenizer

from deed.bench.serve import Settings, body, measure_serving, reference, same_settings
from deed.bench.serve_answers import TASKS, recorded
from deed.bench.serve_engines import CTranslate2Engine, DeedEngine, TransformersEngine
from deed.bench.serve_load import Reply, ask, closed, opened, session
from deed.bench.serve_peers import Batching, Body
from deed.bench.serve_process import Setup, free_port, slope
from deed.bench.serve_stats import compare, percentiles, summary
from deed.bench.serve_work import make_work
from deed.cli import app
from deed.cli.bench_serve import seconds_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def work(folder):
    return make_work("tiny-t5", "g2p", 6, folder)


# -- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_recorded_answers_are_real_ones(task):
    answers, layers = recorded(task)
    assert len(answers) >= 100 and layers == 8
    assert all(a.source > 0 and a.depths and 1 <= min(a.depths) <= max(a.depths) <= layers for a in answers)
    assert len({len(a.depths) for a in answers}) > 5


def test_a_work_is_made_once_and_is_the_same_again(work, folder, tmp_path):
    assert make_work("tiny-t5", "g2p", 6, folder) == work
    again = make_work("tiny-t5", "g2p", 6, tmp_path)
    assert again.requests == work.requests
    for request in work.requests:
        assert request.max_new_tokens == len(request.exit_schedule)
        assert min(request.exit_schedule) >= 1 and max(request.exit_schedule) <= 4, "stretched to the decoder's layers"
        assert len(AutoTokenizer.from_pretrained(work.model)(request.text).input_ids) == len(request.text.split())
    with pytest.raises(ValueError, match="--shape must be one of"):
        make_work("t6", "g2p", 6, folder)


def test_only_deed_is_told_of_depths(work):
    assert body("deed int8", work, 0)["exit_schedule"] == list(work.requests[0].exit_schedule)
    for subject in ("transformers fp32", "ctranslate2 int8", "litserve fp32", "deed fp32 full"):
        assert "exit_schedule" not in body(subject, work, 0)
    assert body("deed fp32 full", work, 0)["threshold"] > 1


def test_batches_of_every_engine_are_answered_as_alone(work):
    ctranslate2 = pytest.importorskip("ctranslate2")
    assert ctranslate2
    engines = {
        "transformers": TransformersEngine(work.model, 1),
        "ctranslate2": CTranslate2Engine(work.model, work.folder / "ctranslate2", "float32", 1, most=4),
    }
    answers = {}
    for name, engine in engines.items():
        heard = [[] for _ in work.requests]
        answers[name] = engine(work.requests, lambda row, token, heard=heard: heard[row].append(token))
        assert answers[name] == heard == [engine([request])[0] for request in work.requests], name
        assert [len(tokens) for tokens in answers[name]] == [r.max_new_tokens for r in work.requests]
    full = DeedEngine(work.model, 1, full=True)(work.requests)
    assert answers["transformers"] == answers["ctranslate2"] == full
    assert DeedEngine(work.model, 1)(work.requests) != full, "depths of the schedule have no effect"


# -- the load ---------------------------------------------------------------------------------------------------------


def test_closed_clients_ask_one_after_the_other():
    running, most, asked = 0, 0, []

    async def answer(index):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        asked.append(index)
        await asyncio.sleep(0.01)
        running -= 1
        return Reply(index, 0.0, 1.0, 200, "a")

    replies = asyncio.run(closed(answer, [3, 1, 2], 4, 0.1))
    assert most == 4 and len(replies) == len(asked) >= 4
    assert asked == [[3, 1, 2][i % 3] for i in range(len(asked))]


def test_arrivals_are_the_same_each_time_and_wait_for_nobody():
    async def answer(index):
        await asyncio.sleep(0.2)
        return Reply(index, 0.0, 1.0, 200, "a")

    one, two = (asyncio.run(opened(answer, range(5), 100.0, 0.3, seed=1)) for _ in range(2))
    assert len(one) == len(two) > 5
    assert [r.index for r in one] == [i % 5 for i in range(len(one))]


def test_every_way_to_fail_is_told_apart():
    async def handler(request):
        values = await request.json()
        kind = values["text"]
        if kind == "full":
            return web.json_response({"error": "queue"}, status=429)
        if kind == "broken":
            return web.Response(text="not json")
        if request.path == "/generate":
            return web.json_response({"text": "b"})
        response = web.StreamResponse()
        await response.prepare(request)
        end = {"good": 'event: done\ndata: {"text": "x y"}\n\n', "bad": 'event: error\ndata: {"detail": "no"}\n\n'}
        await response.write(('data: {"id": 7}\n\n' * 2 + end.get(kind, "")).encode())
        return response

    async def run():
        server = web.Application()
        server.router.add_post("/generate", handler)
        server.router.add_post("/generate/stream", handler)
        runner, port = web.AppRunner(server), free_port()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{port}"
        async with session(5) as http:
            texts = (("good", False), ("good", True), ("full", False), ("broken", False), ("cut", True), ("bad", True))
            found = [await ask(http, url, 0, {"text": text}, stream) for text, stream in texts]
            found.append(await ask(http, f"http://127.0.0.1:{free_port()}", 0, {"text": "nobody"}, False))
        await runner.cleanup()
        return found

    plain, streamed, refused, broken, cut, bad, nobody = asyncio.run(run())
    assert plain.ok and plain.text == "b" and not plain.arrivals
    assert streamed.ok and streamed.text == "x y" and len(streamed.arrivals) == 2
    assert (refused.ok, refused.status) == (False, 429)
    assert not broken.ok and not cut.ok and not nobody.ok and nobody.status == 0
    assert "ended before" in cut.error and not bad.ok and "no" in bad.error
    found = summary([plain, streamed, refused, broken, cut, bad, nobody], [2], ["x y"], (0.0, 1.0), True)
    assert (found["answered"], found["refused"], found["errors"], found["wrong"]) == (2, 1, 4, 1)
    assert found["wrong_answers"] == [{"request": 0, "got": "b"}]


# -- what is counted --------------------------------------------------------------------------------------------------


def test_an_answer_counts_for_its_part_inside_the_window():
    replies = [
        Reply(0, 0.0, 4.0, 200, "a"),  # half of it inside
        Reply(1, 2.5, 3.5, 200, "b", [2.75, 3.0, 3.5]),
        Reply(0, 5.0, 6.0, 200, "a"),  # after it
    ]
    found = summary(replies, [8, 3], ["a", "b"], (2.0, 4.0), by_end=True)
    assert found["tokens_per_s"] == pytest.approx((8 / 2 + 3) / 2)
    assert found["latency_ms"]["n"] == 2 and found["latency_ms"]["most"] == 4000
    assert found["first_token_ms"]["p50"] == 250 and found["gap_ms"]["most"] == 500
    assert summary(replies, [8, 3], ["a", "b"], (2.0, 4.0), by_end=False)["latency_ms"]["n"] == 1
    assert percentiles([]) == {"n": 0}


def test_ratios_are_taken_within_a_round():
    def row(subject, round_, rate, p95):
        latency = {"p50": p95, "p95": p95, "p99": p95, "most": p95, "n": 5}
        return {
            **{
                "round": round_,
                "shape": "s",
                "answers": "a",
                "subject": subject,
                "load": {"kind": "closed", "clients": 1},
            },
            **{"stream": False, "available": True, "tokens_per_s": rate, "requests_per_s": 1.0, "latency_ms": latency},
            **{"refused": 0, "errors": 0, "wrong": 0, "answered": 5, "memory_mb": {"most": 1.0}},
        }

    rows = [row("deed fp32", 0, 30, 10), row("ctranslate2 fp32", 0, 10, 20), row("ctranslate2 int8", 0, 15, 10)]
    rows += [row("deed fp32", 1, 60, 10), row("ctranslate2 fp32", 1, 20, 20), {**rows[0], "available": False}]
    found = {r["subject"]: r for r in compare(rows)}
    against = found["deed fp32"]["against"]
    assert against["ctranslate2 in the same precision"]["tokens_per_s"]["median"] == 3
    assert against["ctranslate2 in the same precision"]["p95"]["median"] == 0.5
    assert against["ctranslate2's faster precision"]["tokens_per_s"]["median"] == (2 + 3) / 2
    assert found["deed fp32"]["rounds"] == 2


def test_growth_of_memory_is_its_slope():
    assert slope([(0, 5.0), (1, 7.0), (2, 9.0)]) == (2.0, 0.0)
    growth, error = slope([(t, 5.0 + (t % 2)) for t in range(100)])
    assert abs(growth) < 3 * error


# -- peers ------------------------------------------------------------------------------------------------------------


def test_what_arrives_while_a_batch_runs_is_the_next_batch():
    batches = []

    def answering(requests, tell=None):
        batches.append([r.text for r in requests])
        if "bad" in batches[-1]:
            raise RuntimeError("no")
        return [[1]] * len(requests)

    async def run():
        batching = Batching(answering, 1, 3, 0.0)
        waiting = [batching.ask(Body(text=str(i)), False) for i in range(5)] + [batching.ask(Body(text="bad"), False)]
        collecting = asyncio.create_task(batching.collect())
        found = await asyncio.gather(*(w.answer for w in waiting), return_exceptions=True)
        found.append(await batching.ask(Body(text="after"), False).answer)
        collecting.cancel()
        return found

    found = asyncio.run(run())
    assert batches == [["0", "1", "2"], ["3", "4", "bad"], ["after"]]
    assert found[:3] == [[1]] * 3 and found[-1] == [1], "a failed batch does not end the server"
    assert all(isinstance(f, RuntimeError) for f in found[3:6])


def test_a_peer_under_load_in_processes_of_its_own(folder):
    """Model, reference, server, load, result; and that a wrong answer is found out."""
    pytest.importorskip("ctranslate2"), pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    settings = Settings(
        *(("tiny-t5",), "g2p", ("ctranslate2 fp32",), (2,)),
        stream=True,
        seconds=1.0,
        warm=0.2,
        requests=6,
        setup=Setup(threads=1),
    )
    report = measure_serving(settings, folder)
    plain, streamed = report["rows"]
    for row in (plain, streamed):
        assert row["available"] and row["answered"] == row["sent"] > 0 and row["memory_mb"]["most"] > 10, row
        assert (row["wrong"], row["errors"], row["refused"]) == (0, 0, 0)
    assert streamed["first_token_ms"]["n"] > 0 and "first_token_ms" not in plain
    assert report["summary"][0]["against"]["ctranslate2 in the same precision"]["tokens_per_s"]["median"] == 1
    same_settings(json.loads(json.dumps(report)), settings)
    work = make_work("tiny-t5", "g2p", 6, folder)
    path = work.folder / "alone_ctranslate2_fp32.json"
    alone = reference(work, "ctranslate2 fp32", Setup(threads=1))
    try:
        path.write_text(json.dumps({**alone, "texts": ["t9", *alone["texts"][1:]]}))
        again = measure_serving(settings, folder, earlier=json.loads(json.dumps(report)))
    finally:
        path.write_text(json.dumps(alone))
    assert [row["round"] for row in again["rows"]] == [0, 0, 1, 1]
    assert again["rows"][2]["wrong"] > 0 and again["rows"][2]["wrong_answers"][0]["request"] == 0
    assert again["summary"][0]["rounds"] == 2


def test_bad_options_are_one_clear_line():
    for options, said in (
        (["--shape", "t6"], "--shape must be one of"),
        (["--subject", "x"], "--subject must be one of"),
        (["--answers", "x"], "--answers must be one of"),
        (["--soak", "soon"], "--soak must be a time"),
        (["--clients", "0"], "nothing to do"),
    ):
        result = CliRunner().invoke(app, ["bench", "serve", *options])
        assert isinstance(result.exception, ValueError) and said in str(result.exception), result
    assert (seconds_of("10m"), seconds_of("90s"), seconds_of("45")) == (600, 90, 45)
