"""LitServe over Transformers, for `serve_peers`; a module of its own, since its worker process imports the class by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve

from .serve_engines import engine
from .serve_work import Request


class Api(litserve.LitAPI):
    """Batches of requests to Transformers' `generate()`.

    Args:
        model, work, threads: of `serve_engines.engine`.
        options: of `LitAPI`.
    """

    def __init__(self, model: Path, work: Path, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self.given = (model, work, threads)

    def setup(self, device: str) -> None:
        """Loads the model, in the worker."""
        self.answering = engine("transformers fp32", *self.given)

    def decode_request(self, request):  # type: ignore  # LitServe reads an annotation as what to validate
        """From the wire."""
        return Request(request["text"], request.get("max_new_tokens"))

    def batch(self, inputs: list[Request]) -> list[Request]:
        """As they are."""
        return inputs

    def predict(self, batch: list[Request]) -> list[list[int]]:  # type: ignore[override]
        """Tokens per request."""
        return list(self.answering(batch))

    def unbatch(self, output: list[list[int]]) -> list[list[int]]:
        """As they are."""
        return output

    def encode_response(self, tokens: list[int]) -> dict[str, Any]:  # type: ignore[override]
        """To the wire."""
        return {"text": self.answering.tokenizer.decode(tokens, skip_special_tokens=True), "tokens": tokens}


def server(model: Path, work: Path, threads: int, most: int, wait: float) -> Any:
    """A LitServe server, not yet running.

    Args:
        model, work, threads: of `serve_engines.engine`.
        most, wait: LitServe's `max_batch_size` and `batch_timeout`.
    """
    api = Api(model, work, threads, max_batch_size=most, batch_timeout=wait, api_path="/generate")
    return litserve.LitServer(api, accelerator="cpu", healthcheck_path="/readyz", timeout=False)
