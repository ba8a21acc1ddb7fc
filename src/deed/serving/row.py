"""`Row`: a request inside the scheduler, from its submission to its last token."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria

from deed.engine.batch import NewRow
from deed.engine.constraints import is_constraint
from deed.engine.drafting import Drafts, Pace
from deed.engine.exact_replay import BY_NUMBER, ROW_ALONE
from deed.modeling.answer_confidence import answer_confidence_of
from deed.modeling.answer_watch import pooled_states
from deed.modeling.prepared import FULL_DEPTH, Prepared

from .ticket import Failed, Finished, Ticket, Token


class Row:
    """A request and its tokens so far.

    Args:
        ticket: the caller's.
        prepared: what `generate()` would run.
        order: `(priority, number)`, smaller is served first.
        deadline: `time.monotonic()` after which it fails; None: never.
        seed: of sampling, or the generator itself.
        confidence: whether tokens come with theirs.

    Attributes:
        tokens: prompt and new tokens.
        depths: of the new ones.
        kept: processed scores and raw logits of the new ones, each `[1, vocab]`, where the configuration asks for them.
        source: positions of its source, 1 as long as only the encoder could say.
        counts: whether it is a request, rather than part of one.
    """

    def __init__(
        self,
        ticket: Ticket,
        prepared: Prepared,
        order: tuple[int, int],
        deadline: float | None,
        seed: int | torch.Generator | None,
        confidence: bool,
    ) -> None:
        self.ticket, self.prepared, self.order = ticket, prepared, order
        self.deadline, self.confidence = deadline, confidence
        self.tokens: list[int] = prepared.input_ids[0].tolist()
        self.prompt = len(self.tokens)
        self.depths: list[int] = []
        self.began = self.first = 0.0  # time.monotonic() of its encoder, and of its first token
        self.stepped: float | None = None  # when it last took part in a step
        self.samples = bool(prepared.config.do_sample)
        self.generator: torch.Generator | None = None
        if self.samples:
            self.generator = seed if isinstance(seed, torch.Generator) else torch.Generator(prepared.input_ids.device)
            if seed is None:
                self.generator.seed()
            elif isinstance(seed, int):
                self.generator.manual_seed(seed)
        wants = prepared.config.return_dict_in_generate
        self.keeps = (wants and prepared.config.output_scores, wants and prepared.config.output_logits)
        self.kept: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        self.counts, self.source = True, prepared.source_length or 1
        self.drafts: Drafts | None = None  # of an exact row that runs
        self._drafting: torch.Generator | None = None  # draws for drafts what `generator` will draw for verdicts
        self._ids = prepared.input_ids.new_empty(1, prepared.max_length + 1)
        self._ids[:, : self.prompt] = prepared.input_ids
        self._source: tuple[torch.Tensor, torch.Tensor] | None = None  # of a watched row: mean state, positions
        self._ends: set[int] = set()
        self._criteria = []  # those that are more than a length or an end token
        for criterion in prepared.criteria:
            if type(criterion) is EosTokenCriteria:
                self._ends |= set(criterion.eos_token_id.tolist())
            elif type(criterion) is not MaxLengthCriteria:
                self._criteria.append(criterion)

    @property
    def ids(self) -> torch.Tensor:
        """`[1, length]`, as processors and criteria see the row."""
        return self._ids[:, : len(self.tokens)]

    @property
    def newest(self) -> int:
        """The token that the next step is fed, be it a draft."""
        return self.drafts.tokens[-1] if self.drafts is not None and self.drafts.tokens else self.tokens[-1]

    def start(self, pace: Pace) -> NewRow:
        """The row as it joins a running batch.

        Args:
            pace: of the model's drafts, for an exact row.
        """
        for criterion in self._criteria:
            if isinstance(criterion, MaxTimeCriteria):  # counts from where decoding begins, not from the queue
                criterion.initial_timestamp = time.time()
        prepared = self.prepared
        if prepared.exact:
            self.drafts = Drafts(pace, able=all(map(_by_prefix_alone, prepared.processors)))
            self._drafting = self._generator_again()
        kwargs, allowed = prepared.model_kwargs, None
        if prepared.watch is not None:
            hidden = kwargs["encoder_outputs"][0]
            mask = kwargs.get("attention_mask")
            keep = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
            self._source = pooled_states(hidden, keep.to(hidden.device)), keep.sum(1)
        if prepared.confidence_over == "allowed" and any(is_constraint(p) for p in prepared.processors):
            allowed = self.open_tokens
        row = NewRow(
            kwargs["encoder_outputs"],
            kwargs.get("attention_mask"),
            self.tokens[: self.prompt],
            FULL_DEPTH if prepared.exact else prepared.policy,
            prepared.max_length,
            None if prepared.exact else allowed,
            self.drafts,
        )
        prepared.model_kwargs = {}  # the batch has it now
        return row

    def open_tokens(self) -> torch.Tensor:
        """`[1, vocab]` bool: tokens that constraints leave open; all where none is."""
        model = self.prepared.model
        scores = torch.zeros(1, model.deed_family.vocab_size(model), device=self._ids.device)
        for processor in self.prepared.processors:
            if is_constraint(processor):
                scores = processor(self.ids, scores)
        found = scores > -torch.inf
        return found | ~found.any(-1, keepdim=True)

    @property
    def is_plain(self) -> bool:
        """Whether its next token is the one with the largest logit."""
        return not self.prepared.processors and not self.samples and not any(self.keeps)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, given raw logits `[1, vocab]`."""
        scores = logits.to(torch.float32)
        if self.keeps[1]:
            self.kept[1].append(scores.clone())
        if self.prepared.processors or self.keeps[0]:
            scores = self.prepared.processors(self.ids, scores.clone())
        if self.keeps[0]:
            self.kept[0].append(scores)
        if self.samples:
            return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
        return int(scores.argmax(-1))

    def take(self, token: int, depth: int, confidence: float | None, now: float) -> str | None:
        """Take a token; why the row ends with it, or None.

        Args:
            token: the new one.
            depth: its.
            confidence: its, where it was asked for.
            now: `time.monotonic()`.
        """
        self._ids[0, len(self.tokens)] = token
        self.tokens.append(token)
        self.depths.append(depth)
        if not self.first:
            self.first = now
        reason = None
        if token in self._ends:
            reason = "stop"
        elif len(self.tokens) >= self.prepared.max_length:
            reason = "length"
        elif any(bool(criterion(self.ids, None)[0]) for criterion in self._criteria):
            reason = "stop"
        self.ticket.put(Token(token, depth, confidence, now - self.ticket.submitted))
        return reason

    # -- an exact row's steps -------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """Of an exact row: decide whether it may draft in the step that comes."""
        assert self.drafts is not None
        drafted = self.drafts.tokens
        ended = bool(drafted) and drafted[-1] in self._ends
        self.drafts.begin(0 if ended else self.prepared.max_length - len(self.tokens) - len(drafted))

    def draft(self, logits: torch.Tensor, depth: int) -> None:
        """Of an exact row: take a draft.

        Args:
            logits: `[1, vocab]`, raw, of the exit.
            depth: of the exit.
        """
        assert self.drafts is not None
        length = len(self.tokens) + len(self.drafts.tokens)
        scores = logits.to(torch.float32)
        if self.prepared.processors:
            scores = self.prepared.processors(self._ids[:, :length], scores.clone())
        if self.samples:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._drafting))
        else:
            token = int(scores.argmax(-1))
        self._ids[0, length] = token
        self.drafts.took(token, depth)

    def verified(self, logits: torch.Tensor, now: float) -> tuple[str | None, int]:
        """Of an exact row: take what the last layer says, up to the first draft that does not stand.

        Args:
            logits: `[drafts + 1, vocab]`, raw, of the last layer.
            now: `time.monotonic()`.

        Returns:
            Why the row ends, or None; and how many positions are to be rolled back.
        """
        assert self.drafts is not None
        drafted, depths = self.drafts.tokens, self.drafts.depths
        best = logits.to(torch.float32).argmax(-1).tolist() if self.is_plain else None
        verdicts: list[int] = []
        reason, stands = None, True
        while reason is None and stands and len(verdicts) <= len(drafted):
            j = len(verdicts)
            token = self.choose(logits[j : j + 1]) if best is None else best[j]
            stands = j < len(drafted) and drafted[j] == token
            chance = float(logits[j].to(torch.float32).log_softmax(-1)[token].exp()) if self.confidence else None
            verdicts.append(token)
            reason = self.take(token, depths[j] if stands else self.drafts.pace.n_layers, chance, now)
        gone = len(drafted) + 1 - len(verdicts)
        self.drafts.verified(verdicts)
        self._drafting = self._generator_again()
        return reason, gone

    def _generator_again(self) -> torch.Generator | None:
        if self.generator is None:
            return None
        again = self._drafting or torch.Generator(self.generator.device)
        again.set_state(self.generator.get_state())
        return again

    # -- its end --------------------------------------------------------------------------------------------------

    def finish(self, reason: str) -> None:
        """Tell the ticket that the answer is complete."""
        at, now = self.ticket.submitted, time.monotonic()
        new, prompt = self.tokens[self.prompt :], self.tokens[: self.prompt]
        times: dict[str, Any] = {
            "queued_s": self.began - at,
            "first_token_s": self.first - at,
            "total_s": now - at,
        }
        sure = self._answer_confidence()
        accepted = None if self.drafts is None else self.drafts.accepted
        self.ticket.put(
            Finished(new, list(self.depths), reason, prompt, accepted=accepted, answer_confidence=sure, **times)
        )

    def _answer_confidence(self) -> float | None:
        """How likely the answer is to be right, as `generate(answer_confidence=True)` says it; None where not asked."""
        prepared, stored = self.prepared, answer_confidence_of(self.prepared.model.deed_config)
        if prepared.watch is None or stored is None or self._source is None or not self.depths:
            return None
        states, length = self._source
        first = min(prepared.model.deed_config.exit_layers)
        newest, depths = self.ids[:, -1], [[depth] for depth in self.depths]
        return float(stored(prepared.watch.features_of(newest, depths, first, length), states)[0])

    def fail(self, error: BaseException) -> None:
        """Tell the ticket what went wrong."""
        self.ticket.put(Failed(error, self.tokens[self.prompt :], list(self.depths)))


def _by_prefix_alone(processor: Any) -> bool:
    """Whether a logits processor may be asked about drafts, some of which it is asked about again."""
    known = type(processor).__name__ in ROW_ALONE | BY_NUMBER
    return bool(getattr(processor, "is_stateless", known))
