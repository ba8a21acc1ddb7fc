"""One input through a pipeline and the scheduler: its pieces as tickets, and the whole answer from what they become."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deed.pipelines import Pipeline

from .detokenize import Detokenizer
from .served import Asked, ServedModel, all_finished, finished, generated, mean_depth, token_list, tokens_of
from .ticket import Finished, Ticket
from .wire import GenerateResponse, Generation, Times, TokenOut


@dataclass
class Job:
    """An input made ready.

    Attributes:
        served: the model it is for.
        task: of the pipeline.
        pipe: the pipeline.
        item: the input.
        call: the pipeline's own options.
        inputs: of the model, for every piece.
        asked: how each is answered.
        reading_s: seconds that this took.
    """

    served: ServedModel
    task: str
    pipe: Pipeline
    item: Any
    call: Mapping[str, Any]
    inputs: list[dict[str, Any]]
    asked: Asked
    reading_s: float = 0.0
    tickets: list[Ticket] = field(default_factory=list)

    def submit(self) -> None:
        """Hand all pieces to the scheduler; where one is refused, none is left there."""
        try:
            for inputs in self.inputs:
                self.tickets.append(self.served.submit(inputs, self.asked))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Give up what is not answered."""
        for ticket in self.tickets:
            if not ticket.done:
                ticket.cancel()

    def detokenizer(self) -> Detokenizer:
        """Of one piece."""
        return Detokenizer(self.served.tokenizer, self.asked.stop)

    async def answer(self) -> GenerateResponse:
        """The whole answer.

        Raises:
            Exception: of a piece that failed.
        """
        ends = await all_finished(self.tickets)
        tokens = [token for ticket in self.tickets for token in token_list(ticket, self.detokenizer())]
        return self.respond(tokens, ends)

    async def stream(self) -> AsyncIterator[TokenOut | GenerateResponse]:
        """Tokens, piece after piece, and in the end the whole answer.

        Raises:
            Exception: of a piece that failed.
        """
        tokens: list[TokenOut] = []
        ends: list[Finished] = []
        try:
            for i, ticket in enumerate(self.tickets):
                text, between = self.detokenizer(), self.pipe.between if i else ""
                async for token in tokens_of(ticket, text):
                    token.text, between = between + token.text, ""
                    tokens.append(token)
                    yield token
                rest = text.finish()
                if rest and tokens:
                    tokens[-1].text += rest
                ends.append(await finished(ticket))
            yield self.respond(tokens, ends)
        finally:
            self.cancel()

    def result(self, ends: Sequence[Finished]) -> dict[str, Any]:
        """What the pipeline itself would give.

        Args:
            ends: of the tickets.
        """
        return self.pipe.result(self.item, [generated(end) for end in ends], self.call)

    def respond(self, tokens: list[TokenOut], ends: list[Finished]) -> GenerateResponse:
        """What the client gets.

        Args:
            tokens: of all pieces.
            ends: of their tickets.
        """
        text = self.result(ends)[self.pipe.key]
        cuts = [at for at in (text.find(stop) for stop in self.asked.stop) if at >= 0]
        depth, layers = mean_depth(tokens), self.served.layers
        accepted = [end.accepted for end in ends if end.accepted is not None]
        return GenerateResponse(
            model=self.served.name,
            task=self.task,
            text=text[: min(cuts)] if cuts else text,
            tokens=tokens,
            finish_reason="length" if any(end.reason == "length" for end in ends) else "stop",
            mean_depth=depth,
            layers=layers,
            saving=None if depth is None else 1 - depth / layers,
            accepted=sum(accepted) if accepted else None,
            threshold=self.served.threshold_of(self.asked),
            times=Times(
                reading=self.reading_s,
                queued=max((end.queued_s for end in ends), default=0.0),
                first_token=min((end.first_token_s for end in ends), default=0.0),
                total=max((end.total_s for end in ends), default=0.0),
            ),
        )


def make_ready(served: ServedModel, task: str, item: Any, call: Mapping[str, Any], wanted: Generation) -> Job:
    """Encode an input; blocks, so for a thread of the readers.

    Args:
        served: the model.
        task: of one of its pipelines.
        item: as the pipeline takes it.
        call: the pipeline's own options.
        wanted: how it is answered.

    Raises:
        DataError, ValueError, ApiError: an input or option that does not fit.
    """
    began = time.perf_counter()
    pipe = served.pipeline(task)
    rows = pipe.pieces(item, call)
    asked = served.asked(wanted, pipe.task_options(call))
    inputs = [pipe.collate([row]) for row in rows]
    return Job(served, task, pipe, item, call, inputs, asked, time.perf_counter() - began)
