"""Servers that `deed serve` is measured beside: the same model behind FastAPI and uvicorn, with the wire of `deed serve`.

`python -m deed.bench.serve_peers SUBJECT MODEL WORK PORT THREADS INTER MOST WAIT_MS`. Transformers and CTranslate2 sit behind
dynamic batching: what has arrived is one batch, of `MOST` requests at most, after waiting `WAIT_MS` for more; while `INTER`
batches run, the next one collects. LitServe has batching of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .serve_engines import Engine, engine
from .serve_work import Request

DONE: None = None  # follows the last token of a stream


class Body(BaseModel):
    """What a client sends; `exit_schedule` is nothing to a peer."""

    text: str
    max_new_tokens: int | None = None


@dataclass
class Waiting:
    """A request on its way: what is asked, the answer to come, and who hears its tokens."""

    request: Request
    answer: asyncio.Future[list[int]]
    tokens: asyncio.Queue[int | None] | None = None


class Batching:
    """Dynamic batching before an engine.

    Args:
        answering: the engine.
        at_once: batches that run at the same time.
        most: requests of a batch.
        wait: seconds that the first of a batch waits for others.
    """

    def __init__(self, answering: Engine, at_once: int, most: int, wait: float) -> None:
        self.answering, self.most, self.wait = answering, most, wait
        self.threads = ThreadPoolExecutor(at_once)
        self.free = asyncio.Semaphore(at_once)
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self.running: set[asyncio.Task[None]] = set()

    async def collect(self) -> None:
        """Forms batches for as long as the server lives."""
        while True:
            await self.free.acquire()
            batch = [await self.queue.get()]
            if self.wait and self.queue.qsize() + 1 < self.most:
                await asyncio.sleep(self.wait)
            while len(batch) < self.most and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            task = asyncio.create_task(self.run(batch))
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def run(self, batch: list[Waiting]) -> None:
        """One batch; its answers, or its error, go to whoever waits for them."""
        loop = asyncio.get_running_loop()
        queues = [w.tokens for w in batch]

        def tell(row: int, token: int) -> None:
            queue = queues[row]
            if queue is not None:
                loop.call_soon_threadsafe(queue.put_nowait, token)

        heard = tell if any(q is not None for q in queues) else None
        try:
            found = await loop.run_in_executor(self.threads, self.answering, [w.request for w in batch], heard)
            for waiting, tokens in zip(batch, found, strict=True):
                waiting.answer.set_result(tokens)
        except Exception as error:  # of the runtime: these requests fail, the server goes on
            for waiting in batch:
                waiting.answer.set_exception(error)
        finally:
            for queue in queues:
                if queue is not None:
                    queue.put_nowait(DONE)
            self.free.release()

    def ask(self, body: Body, stream: bool) -> Waiting:
        """Puts a request in the queue."""
        request = Request(body.text, body.max_new_tokens)
        future = asyncio.get_running_loop().create_future()
        waiting = Waiting(request, future, asyncio.Queue() if stream else None)
        self.queue.put_nowait(waiting)
        return waiting


def front(answering: Any, at_once: int, most: int, wait: float) -> Any:
    """The FastAPI application.

    Args:
        answering: an engine with a `tokenizer`.
        at_once, most, wait: of `Batching`.
    """
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    made: dict[str, Batching] = {}
    decode: Callable[[list[int]], str] = lambda tokens: answering.tokenizer.decode(tokens, skip_special_tokens=True)  # noqa: E731

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        made["batching"] = Batching(answering, at_once, most, wait)
        collecting = asyncio.create_task(made["batching"].collect())
        yield
        collecting.cancel()

    app = FastAPI(lifespan=life)

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/generate")
    async def generate(body: Body) -> dict[str, Any]:
        tokens = await made["batching"].ask(body, stream=False).answer
        return {"text": decode(tokens), "tokens": tokens}

    @app.post("/generate/stream")
    async def stream(body: Body) -> StreamingResponse:
        waiting = made["batching"].ask(body, stream=True)

        async def events() -> AsyncIterator[str]:
            assert waiting.tokens is not None
            while (token := await waiting.tokens.get()) is not DONE:
                yield f"data: {json.dumps({'id': token})}\n\n"
            tokens = await waiting.answer
            yield f"event: done\ndata: {json.dumps({'text': decode(tokens), 'tokens': tokens})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main(subject: str, model: str, work: str, port: str, threads: str, inter: str, most: str, wait_ms: str) -> None:
    """Serves until it is killed.

    Args:
        subject, model, work, threads, inter, most: of `engine`.
        port: on the loopback device.
        wait_ms: milliseconds that a batch waits for more.
    """
    import uvicorn

    many, limit, wait = int(threads), int(most), int(wait_ms) / 1000
    if subject.startswith("litserve"):
        from .serve_litserve import server

        served = server(Path(model), Path(work), many, limit, wait)
        served.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
        return
    at_once = int(inter) if subject.startswith("ctranslate2") else 1
    answering = engine(subject, Path(model), Path(work), many, at_once, limit)
    app = front(answering, at_once, limit, wait)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
