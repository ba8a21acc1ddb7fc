"""`deed serve` as people start it: ready, hung, started again, told to end while it answers."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest
from typer.testing import CliRunner

from deed.cli import app
from deed.cli.serve import limits_of, named
from deed.serving import watchdog
from deed.serving.settings import ServeSettings
from deed.serving.watchdog import Watchdog
from deed.serving.worker import Progress
from deed.utils.shipped import CHECKPOINTS
from over_http.conftest import eventually

START = 240  # seconds, on a machine that is busy with other things


class Process:
    """The command, and what it has said so far."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "deed", "serve", "pronunciation", "--port", "0", "--threads", "1", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def said(self, pattern):
        return [match for line in list(self.lines) if (match := re.search(pattern, line))]

    def wait_for(self, pattern, count=1):
        eventually(lambda: len(self.said(pattern)) >= count or self.process.poll() is not None, START)
        assert len(self.said(pattern)) >= count, "".join(self.lines)
        return self.said(pattern)[count - 1]


@pytest.fixture
def running():
    made = Process("--hang-after", "4", "--drain", "60")
    yield made
    made.process.kill()
    made.process.wait()


def test_a_hung_worker_is_started_again_and_sigterm_ends_well(running):
    url = running.wait_for(r"listening on (\S+)")[1]
    first = int(running.wait_for(r"ready \(worker (\d+)\)")[1])
    http = httpx.Client(base_url=url, timeout=START)
    body = {"text": "mississippi"}
    want = http.post("/generate", json=body).json()["text"]
    os.kill(first, signal.SIGSTOP)  # hung, really
    answer = httpx.post(
        f"{url}/generate", json=body, timeout=START
    )  # waits in the socket, which stays open, for the next worker
    second = int(running.wait_for(r"ready \(worker (\d+)\)", 2)[1])
    assert running.said("no sign of life") and second != first
    if answer.status_code == 503:  # it came while the models were loaded
        answer = httpx.post(f"{url}/generate", json=body, timeout=START)
    assert answer.json()["text"] == want
    long = {"text": "mississippi", "temperature": 100, "seed": 1, "threshold": 2, "max_new_tokens": 1000}
    with httpx.stream("POST", f"{url}/generate/stream", json=long, timeout=START) as stream:
        lines = stream.iter_lines()
        next(lines)
        running.process.terminate()
        try:
            eventually(lambda: httpx.get(f"{url}/readyz").json()["status"] == "ending", START)
            refused = httpx.post(f"{url}/generate", json=body)
            assert refused.status_code == 503 and refused.headers["retry-after"]
        except httpx.HTTPError:  # the answer was complete before
            pass
        *_, last = [line for line in lines if line]
    assert json.loads(last.removeprefix("data: "))["finish_reason"], "what ran was finished"
    assert running.process.wait(START) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_what_cannot_be_started_says_so_and_ends(tmp_path):
    runner = CliRunner()
    for arguments, told in (
        (["--host", "0.0.0.0"], "--no-auth"),
        ([str(tmp_path)], "config.json"),
        (["--limit", "queues=3"], "NAME=NUMBER"),
        (["--limit", "queue=many"], "must be a number"),
        (["--ocr", "glasses"], "--ocr must be one of"),
        (["--host", "203.0.113.7", "--no-auth"], "cannot be listened on"),
    ):
        result = runner.invoke(app, ["serve", *arguments])
        assert isinstance(result.exception, ValueError | OSError) and told in str(result.exception)


def test_models_are_named_by_folder_or_by_the_user():
    folder = str(CHECKPOINTS / "g2p")
    assert named("pronunciation") == ("pronunciation", folder) and named(folder) == ("g2p", folder)
    assert named(f"words={folder}") == ("words", folder)
    assert limits_of(["queue=3", "deadline_s=1.5"]) == {"queue": 3, "deadline_s": 1.5}


WORKER = """
import os, sys, time
sys.stdin.read()
what, beats = os.environ["WHAT"], int(sys.argv[-1])
if what == "bad": sys.exit(2)
if what == "dies": sys.exit(3)
os.write(beats, b"r")
if what == "dies later": sys.exit(3)
time.sleep(600)
"""


@pytest.mark.parametrize(("what", "code", "starts"), [("bad", 2, 1), ("dies", 1, 1), ("dies later", 1, 6)])
def test_a_worker_that_dies(monkeypatch, what, code, starts):
    monkeypatch.setenv("WHAT", what)
    real, count = subprocess.Popen, []

    def fake(command, **options):
        count.append(command)
        return real([sys.executable, "-c", WORKER, *command[3:]], **options)

    monkeypatch.setattr(watchdog.subprocess, "Popen", fake)
    monkeypatch.setattr(
        watchdog.time, "sleep", lambda s: monkeypatch.setenv("WHAT", "dies") if what == "dies later" else None
    )
    monkeypatch.setattr(watchdog.signal, "signal", lambda *a: None)
    lines = []
    made = Watchdog(ServeSettings(models=(("a", "b"),), port=0), lines.append)
    assert made.run() == code and len(count) == starts, lines
    made.listening.close()


def test_a_scheduler_that_stands_still_is_no_sign_of_life():
    stats = SimpleNamespace(
        tokens=1, step_s=SimpleNamespace(count=1), encode_s=SimpleNamespace(count=1), finished=0, failed=0, cancelled=0
    )
    scheduler = SimpleNamespace(busy=True, stats=lambda: stats)
    models = SimpleNamespace(all=lambda: [SimpleNamespace(name="m", scheduler=scheduler)])
    progress = Progress(SimpleNamespace(models=models), patience=3)
    assert [progress.stands_still() for _ in range(5)] == [False, False, False, True, True]
    stats.tokens = 2
    assert not progress.stands_still()
    assert [progress.stands_still() for _ in range(3)] == [False, False, True]
    scheduler.busy = False
    assert not progress.stands_still()


def test_processes_that_serve_multiply_alike(monkeypatch):
    from deed.kernels.choosing import measuring
    from deed.serving import settings, worker

    monkeypatch.setenv("DEED_KERNELS", "measured")
    settings.choose_kernels_alike()
    assert measuring(), "what the user says goes before"
    monkeypatch.delenv("DEED_KERNELS")
    settings.choose_kernels_alike()
    assert not measuring()

    def called():
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "choose_kernels_alike", called)
    with pytest.raises(KeyboardInterrupt):  # before anything is loaded
        worker.main()
