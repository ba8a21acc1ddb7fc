"""`ServedModel`: a loaded model with its scheduler and what it can be asked; requests to tickets, and tickets to answers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deed.modeling.answer_confidence import confidence_problem
from deed.pipelines import Pipeline, pipeline
from deed.pipelines.base import Generated
from deed.policies.policy import FixedSchedule
from deed.tasks.page_reading import suited
from deed.tasks.protocol import tokenizer_of
from deed.utils.shipped import DOCUMENTS

from .api_errors import ApiError
from .detokenize import Detokenizer, StopTexts
from .kinds import tasks_of_kind
from .request import GenerationRequest
from .settings import Limits
from .ticket import Failed, Finished, Ticket, Token
from .wire import Generation, TokenOut


@dataclass(frozen=True)
class Asked:
    """How a request wants its answer generated.

    Attributes:
        options: of `generate()`.
        exact, seed, deadline_s: of `GenerationRequest`.
        stop: texts at which the answer ends.
    """

    options: dict[str, Any] = field(default_factory=dict)
    exact: bool = False
    seed: int | None = None
    deadline_s: float | None = None
    stop: tuple[str, ...] = ()


class ServedModel:
    """A model at work.

    Args:
        name: of the model, for clients.
        model: with early exit, in evaluation mode.
        processor: its processor or tokenizer.
        scheduler: of the model.
        limits: of answers.
        has_exits: whether its exits were trained; a plain model answers exactly where no threshold is asked for.
    """

    def __init__(
        self, name: str, model: Any, processor: Any, scheduler: Any, limits: Limits, has_exits: bool = True
    ) -> None:
        self.name, self.model, self.processor, self.scheduler = name, model, processor, scheduler
        self.limits, self.has_exits = limits, has_exits
        self.drift: Any = None  # a `DriftWatch`, where answers are compared with full depth
        self.tokenizer = tokenizer_of(processor)
        self._pipelines: dict[str, Pipeline] = {}
        self._making = threading.Lock()

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Pipelines that the model can be asked through, the usual one first."""
        hears = hasattr(getattr(self.processor, "feature_extractor", self.processor), "sampling_rate")
        return tasks_of_kind(self.model.config.model_type, hears)

    @property
    def layers(self) -> int:
        """Of the decoder."""
        return len(self.model.deed_family.layers(self.model))

    @property
    def is_whisper(self) -> bool:
        """Whether requests are taken over as a whole by the class's own `generate()`."""
        return bool(self.model.config.model_type == "whisper")

    def pipeline(self, task: str) -> Pipeline:
        """The model's pipeline for a task, made once.

        Raises:
            ApiError: the model is not asked so.
        """
        if task not in self.tasks:
            raise ApiError(400, f"{self.name} is asked for {', '.join(self.tasks)}, not for {task}", "task")
        with self._making, warnings.catch_warnings():
            if task not in self._pipelines:
                self._pipelines[task] = pipeline(task, self.model, processor=self.processor)
            return self._pipelines[task]

    def asked(self, wanted: Generation, own: Mapping[str, Any] | None = None) -> Asked:
        """A request's fields as options.

        Args:
            wanted: as the client sent it.
            own: options of the task, which the client's go before.

        Raises:
            ApiError: more tokens than the limit.
        """
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1, **(own or {})}
        limit = self.limits.new_tokens
        if wanted.max_new_tokens is not None:
            if wanted.max_new_tokens > limit:
                raise ApiError(400, f"max_new_tokens is at most {limit} here", "max_new_tokens")
            options["max_new_tokens"] = wanted.max_new_tokens
            options.pop("max_length", None)
        elif not {"max_new_tokens", "max_length"} & set(options):
            options |= self._usual_length(limit)
        if wanted.temperature or (wanted.temperature is None and (wanted.top_p or wanted.top_k)):
            options |= {"do_sample": True, "temperature": wanted.temperature or 1.0}
            options |= {"top_p": wanted.top_p or 1.0, "top_k": wanted.top_k or 0}
        if wanted.threshold is not None:
            options["exit_threshold"] = wanted.threshold
        if wanted.exit_schedule is not None:
            options["exit_policy"] = FixedSchedule(tuple(wanted.exit_schedule), ask=True)
        stop = [wanted.stop] if isinstance(wanted.stop, str) else list(wanted.stop or ())
        if any(not text for text in stop):
            raise ApiError(400, "stop: an empty text ends nothing", "stop")
        exact = wanted.exact or (not self.has_exits and wanted.threshold is None)
        deadline = min(wanted.deadline or self.limits.deadline_s, self.limits.deadline_s)
        return Asked(options, exact, wanted.seed, deadline, tuple(stop))

    def _usual_length(self, limit: int) -> dict[str, int]:
        """The model's own length of answers, which needs no option, or what there is to say where it is above the limit."""
        config = self.model.generation_config
        own = config.max_new_tokens or (config.max_length and config.max_length - 1)
        return {} if own and own <= limit else {"max_new_tokens": min(limit, own or 256)}

    def submit(self, inputs: Mapping[str, Any], asked: Asked, answer_confidence: bool = False) -> Ticket:
        """Hand a row to the scheduler.

        Args:
            inputs: a collated batch of one row, on any device.
            asked: how it is answered.
            answer_confidence: say how likely the answer is to be right, where that is calibrated for these options.

        Raises:
            QueueFull, RequestTooLarge, SchedulerClosed, ValueError: see `Scheduler.submit`.
        """
        options = dict(asked.options)
        problem = confidence_problem(self.model, {**options, "exact": asked.exact})
        if answer_confidence and not problem and not options.get("do_sample"):
            options["answer_confidence"] = True
        if asked.stop:
            options["stopping_criteria"] = [StopTexts(Detokenizer(self.tokenizer, asked.stop))]
        device, dtype = self.model.device, self.model.dtype
        placed = {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}
        request = GenerationRequest(placed, options, asked.exact, asked.seed, asked.deadline_s)
        ticket: Ticket = self.scheduler.submit(request)
        if self.drift is not None:
            self.drift.watch(ticket)
        return ticket

    def threshold_of(self, asked: Asked) -> Any:
        """The exit threshold that an answer was made with."""
        return asked.options.get("exit_threshold", self.model.deed_config.threshold)


@dataclass(frozen=True)
class ByPage:
    """The model for a page, or two of which what is on the page chooses one.

    Attributes:
        usual: the only one, or that for short pages.
        long: for PDFs' own text and long pages.
    """

    usual: ServedModel
    long: ServedModel | None = None

    def of(self, seen: dict[str, Any] | None) -> ServedModel:
        """The model for a page.

        Args:
            seen: of `Reader.read`; None: all pages of a document.
        """
        return self.usual if self.long is None or suited(seen) == DOCUMENTS else self.long


async def finished(ticket: Ticket) -> Finished:
    """A ticket's end. Where whoever waits is gone, the request is given up.

    Raises:
        Exception: the request's own error.
    """
    try:
        return await ticket.wait()
    finally:
        if not ticket.done:
            ticket.cancel()


async def all_finished(tickets: Sequence[Ticket]) -> list[Finished]:
    """As `finished`, of several: the first error gives the others up."""
    try:
        return [await ticket.wait() for ticket in tickets]
    finally:
        for ticket in tickets:
            if not ticket.done:
                ticket.cancel()


async def tokens_of(ticket: Ticket, text: Detokenizer) -> AsyncIterator[TokenOut]:
    """A ticket's tokens as they come, each with what it adds to the text. The request is given up where the reader leaves.

    Args:
        ticket: of the request.
        text: puts the tokens together; `text.text` is whole in the end.

    Raises:
        Exception: the request's own error.
    """
    try:
        async for event in ticket:
            if isinstance(event, Token):
                yield TokenOut(id=event.id, text=text.add(event.id), depth=event.depth, confidence=event.confidence)
            elif isinstance(event, Failed):
                raise event.error
    finally:
        if not ticket.done:
            ticket.cancel()


def token_list(ticket: Ticket, text: Detokenizer) -> list[TokenOut]:
    """A finished ticket's tokens, each with what it adds to the text."""
    events = [event for event in ticket if isinstance(event, Token)]
    return [TokenOut(id=e.id, text=text.add(e.id), depth=e.depth, confidence=e.confidence) for e in events]


def generated(end: Finished) -> Generated:
    """A finished request as pipelines take it."""
    return Generated(list(end.tokens), list(end.depths))


def mean_depth(tokens: Sequence[TokenOut]) -> float | None:
    """Mean exit depth; None where there is no token that tells."""
    depths = [token.depth for token in tokens if token.depth]
    return sum(depths) / len(depths) if depths else None
