"""The load: clients that ask one after the other (closed), or arrivals at random times that wait for nobody (open).

Everything is sent by one asyncio loop; what that loop itself costs is the same for every server.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

REFUSED = (429, 503)


@dataclass
class Reply:
    """What came of one request.

    Attributes:
        index: of the request among the work's.
        start, end: seconds, `time.perf_counter()`.
        status: of HTTP; 0: no answer at all.
        text: the answer; None where there is none.
        arrivals: when each token came, of a streamed answer.
        error: what went wrong.
    """

    index: int
    start: float
    end: float = 0.0
    status: int = 0
    text: str | None = None
    arrivals: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Answered in full."""
        return self.text is not None


async def ask(session: aiohttp.ClientSession, url: str, index: int, body: dict[str, Any], stream: bool) -> Reply:
    """One request, whatever comes of it.

    Args:
        session: open.
        url: of the server, without path.
        index: of the request.
        body: its JSON.
        stream: by `/generate/stream`.
    """
    reply = Reply(index, time.perf_counter())
    path = "/generate/stream" if stream else "/generate"
    try:
        async with session.post(url + path, json=body) as response:
            reply.status = response.status
            if response.status != 200:
                reply.error = (await response.text())[:300]
            elif stream:
                await read_events(response, reply)
            else:
                reply.text = (await response.json())["text"]
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, KeyError, ValueError) as error:
        reply.error = f"{type(error).__name__}: {error}"
    reply.end = time.perf_counter()
    return reply


async def read_events(response: aiohttp.ClientResponse, reply: Reply) -> None:
    """Server-sent events: a message per token, then `done` with the whole text.

    Raises:
        ValueError: an event `error`, or a stream that ends without `done`.
    """
    name = ""
    async for raw in response.content:
        if raw.startswith(b"event:"):
            name = raw[6:].strip().decode()
        elif raw.startswith(b"data:"):
            if name == "error":
                raise ValueError(raw[5:].decode(errors="replace")[:300])
            if name == "done":
                reply.text = json.loads(raw[5:])["text"]
            else:
                reply.arrivals.append(time.perf_counter())
            name = ""
    if reply.text is None:
        raise ValueError("the stream ended before its answer")


Ask = Callable[[int], Awaitable[Reply]]


async def closed(ask_for: Ask, order: Sequence[int], clients: int, seconds: float) -> list[Reply]:
    """`clients` that each ask again as soon as they are answered, for so long; those under way are waited for.

    Args:
        ask_for: sends request `i`.
        order: of requests, over and over, shared by all clients.
        clients: how many.
        seconds: after which nothing more is asked.
    """
    replies: list[Reply] = []
    ends = time.perf_counter() + seconds
    sent = 0

    async def client() -> None:
        nonlocal sent
        while time.perf_counter() < ends:
            index = order[sent % len(order)]
            sent += 1
            reply = await ask_for(index)
            replies.append(reply)
            if not reply.ok:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


async def opened(ask_for: Ask, order: Sequence[int], rate: float, seconds: float, seed: int = 0) -> list[Reply]:
    """Poisson arrivals; the times are the same for every server.

    Args:
        ask_for: sends request `i`.
        order: of requests, over and over.
        rate: of arrivals, per second.
        seconds: after which none arrives.
        seed: of their times.
    """
    draw = random.Random(seed)
    began, at = time.perf_counter(), 0.0
    tasks: list[asyncio.Task[Reply]] = []
    while (at := at + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask_for(order[len(tasks) % len(order)])))  # type: ignore[arg-type]
    return list(await asyncio.gather(*tasks))


def session(timeout: float) -> aiohttp.ClientSession:
    """A session with as many connections as there are clients.

    Args:
        timeout: seconds that one answer may take.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=120)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout))
