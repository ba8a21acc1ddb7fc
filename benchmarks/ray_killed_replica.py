"""`deed serve --ray` with two replicas of the shipped g2p model under closed-loop load; one replica after another is killed
with SIGKILL. Every answer is compared with `generate()` alone. Writes benchmarks/results/ray_killed_replica.json.

    python benchmarks/ray_killed_replica.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

import deed
from deed.data.readers.cmudict import load_split
from deed.utils.files import write_json
from deed.utils.timing import machine, versions

G2P = Path(__file__).parents[1] / "src" / "deed" / "checkpoints" / "g2p"


def replicas(server: int) -> list[int]:
    """Processes of replicas, of a server's process."""
    found = []
    for process in psutil.Process(server).children(recursive=True):
        try:
            if "ServeReplica:deed:Replica" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def ask(client: httpx.AsyncClient, word: str, streamed: bool) -> tuple[str, str]:
    """How a request ended, and its text."""
    async with client.stream("POST", "/generate/stream" if streamed else "/generate", json={"text": word}) as response:
        body = (await response.aread()).decode()
        if response.status_code != 200:
            return f"status {response.status_code}", body
        if not streamed:
            return "answered", json.loads(body)["text"]
        name, _, data = body.strip().split("\n\n")[-1].partition("\ndata: ")
        return ("answered", json.loads(data)["text"]) if name == "event: done" else ("told", body)


async def load(url: str, words: list[str], clients: int, server: int, kills: int) -> dict[str, Any]:
    ends: Counter[str] = Counter()
    found: dict[int, str] = {}
    left = iter(enumerate(words))
    # A connection for each request: what a server does to one that idles (while the machine stands still) is not of interest.
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def one() -> None:
            for i, word in left:
                try:
                    end, text = await ask(client, word, streamed=i % 2 == 1)
                except httpx.HTTPError as error:
                    end, text = f"connection: {type(error).__name__}", ""
                ends[end] += 1
                if end == "answered":
                    found[i] = text

        async def killer() -> list[int]:
            killed = []
            for k in range(kills):
                while len(found) < len(words) * (k + 1) // (kills + 2):
                    await asyncio.sleep(0.02)
                alive = [pid for pid in await asyncio.to_thread(replicas, server) if pid not in killed]
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])
            return killed

        killing = asyncio.create_task(killer())
        began = time.time()
        await asyncio.gather(*(one() for _ in range(clients)))
        return {"ends": dict(ends), "found": found, "killed": len(await killing), "seconds": time.time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ray_killed_replica.json"))
    options = parser.parse_args()
    words = [word for word, _ in load_split("test")[:: max(1, 3700 // options.words)]][: options.words]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "deed", "serve", f"words={G2P}", "--ray", "--replicas", "2"]
    command += ["--num-cpus", "0.5", "--port", str(port)]
    before = machine()
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if server.poll() is not None:
                raise SystemExit("the server has ended")
            time.sleep(0.5)
        result = asyncio.run(load(url, words, options.clients, server.pid, options.kills))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(120)
    answers = result.pop("found")
    alone = [one["generated_text"] for one in deed.pipeline("text2text", G2P, batch_size=32)(words)]
    wrong = [words[i] for i, text in answers.items() if text != alone[i]]
    report = {
        "command": " ".join(["python", *sys.argv]),
        "server": " ".join(["deed", *command[3:]]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": before,
        "requests": len(words),
        "clients": options.clients,
        **result,
        "otherwise_than_alone": wrong,
        "exit_code_of_server": code,
    }
    write_json(options.output, report)
    print(
        json.dumps(
            {k: report[k] for k in ("requests", "ends", "killed", "otherwise_than_alone", "exit_code_of_server")}
        )
    )


if __name__ == "__main__":
    main()
