"""Exact decoding: tokens exit early, but each is what the last layer says.

A token that exits early is a *draft*. The staircase owes the deeper features of its position anyway; when they are made up
for, up to the last layer, that layer gives its verdict on every drafted position at once. Drafts stand up to the first that
the last layer does not agree with: its token is taken there, and the row is rolled back to it. So no token is ever another
than full depth would give, whatever the exits, thresholds and draft lengths; only time depends on them. Rows of a batch
accept different numbers of drafts, and have lengths of their own.

Greedy search compares with the best token. Sampling draws, as `torch.multinomial` does, the token with the largest ratio of
its probability to an exponential number; the numbers of a step are drawn once, and serve the draft and the verdict. A draft
stands where both give the same token. Each token is thus a sample of the last layer's distribution, and the very one that
decoding at full depth draws with the same seed (drafter-invariant speculative decoding, Daliri et al. 2024,
arXiv 2408.07978; the speculative sampling of Leviathan et al. 2023 keeps the distribution but not the sample, which would
then depend on how far was drafted, and so on the machine's load).
"""

from __future__ import annotations

import time
from typing import Any

import torch

from deed.policies.exit_checks.gate import Gate
from deed.policies.measures import needs_history
from deed.policies.policy import ThresholdPolicy
from deed.policies.query import ExitQuery

from . import exact_replay
from .cache import StaircaseCache
from .exact_ask import by_policy, by_worth
from .exact_choice import Choice, Noise, verdicts
from .exact_pass import draft_pass, feed, fill_source, verify_pass
from .exact_replay import Replay
from .exact_result import Exact, counts_of, side_by_side
from .exact_row import Row
from .exact_tuning import LONGEST, WARM, Tuner, borrow, give_back
from .sampling import Stopping


def decode_exactly(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any,
    model_kwargs: dict[str, Any],
) -> Exact:
    """Decode until every row has finished, each token as the last layer says.

    Args:
        model: a deed model.
        input_ids: `[rows, prompt]` decoder ids.
        logits_processor: Transformers' list.
        stopping_criteria: Transformers' list.
        generation_config: prepared.
        streamer: or None.
        model_kwargs: as `_sample` gets them: `past_key_values` (a `StaircaseCache` whose generation has begun), masks.

    Raises:
        ValueError: a logits processor that remembers earlier steps.
    """
    cache: StaircaseCache = model_kwargs["past_key_values"]
    mask = model_kwargs.get("decoder_attention_mask")
    known = mask.shape[1] if mask is not None else getattr(generation_config, "_mask_length", -1)
    missing = None  # as in Transformers' `_prefill`: these are all tokens, or only those that the cache has not seen
    if known == input_ids.shape[1]:
        missing = input_ids.shape[1] - cache.get_seq_length()
    prepared = model.prepare_inputs_for_generation(input_ids, missing, is_first_iteration=True, **model_kwargs)
    decoding = Decoding(
        model,
        input_ids,
        prepared["decoder_input_ids"],
        logits_processor,
        stopping_criteria,
        generation_config,
        streamer,
        cache,
        mask,
    )
    return decoding.run()


class Decoding:
    """One exact generation; `run` does it.

    Args:
        model: a deed model.
        input_ids: `[rows, prompt]` decoder ids.
        new_ids: those of them that the cache does not hold yet.
        processors: Transformers' list.
        criteria: Transformers' list.
        config: the prepared generation configuration.
        streamer: or None.
        cache: whose generation has begun.
        decoder_mask: `[rows, prompt]`, 1 keeps; None keeps all.
    """

    def __init__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        new_ids: torch.Tensor,
        processors: Any,
        criteria: Any,
        config: Any,
        streamer: Any,
        cache: StaircaseCache,
        decoder_mask: torch.Tensor | None,
    ) -> None:
        state = cache.state
        assert state is not None
        self.model, self.cache, self.state, self.config, self.streamer = model, cache, state, config, streamer
        self.device, self.dtype, self.plan = input_ids.device, state.encoder_hidden.dtype, state.plan
        self.n_layers, self.prompt = len(state.plan.layers), input_ids.shape[1]
        self.rows = [Row(ids, len(ids)) for ids in input_ids.tolist()]
        self.new_ids = new_ids.tolist()
        self.criteria, self.stop = criteria, Stopping(criteria, state)
        self.constraints = Replay(state.constraints, len(self.rows)) if state.constraints else None
        if decoder_mask is not None and bool(decoder_mask.all()):
            decoder_mask = None
        self.decoder_mask = decoder_mask
        wants = config.return_dict_in_generate
        self.keeps_scores, self.keeps_logits = wants and config.output_scores, wants and config.output_logits
        noise = Noise(len(self.rows), self.plan.vocab, self.device) if config.do_sample else None
        self.choice = Choice(Replay(processors, len(self.rows)), noise, self.prompt)
        policy = state.policy
        exits = [d for d in self.plan.exit_of if d < self.n_layers]
        self.asked = frozenset(exits if getattr(policy, "exits_early", True) else [])
        self.tuned = type(policy) is ThresholdPolicy and not isinstance(policy.threshold, torch.Tensor)
        self.gate = getattr(policy, "confidence", None)
        self.gate = self.gate if self.tuned and isinstance(self.gate, Gate) else None
        measure = repr(policy.confidence) if isinstance(policy, ThresholdPolicy) else type(policy).__name__
        self.key = (len(self.rows), measure, bool(self.choice.replay), config.do_sample)
        self.tuner: Tuner = borrow(model, self.key, exits)
        self.streamed = self.prompt
        self.decoding = len(self.rows)  # rows that have not finished
        self.began = self.since = 0.0
        self.passes = self.rolled_back = self.near_ties = 0
        state.steps = [0] * len(self.rows)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> Exact:
        """Decode until every row has finished."""
        with torch.inference_mode():
            while True:
                while drafting := self.who_drafts():
                    self.draft(drafting)
                self.verify()
                self.stream()
                if not self.decoding:
                    break
        give_back(self.model, self.key, self.tuner)
        if self.streamer is not None:
            self.streamer.end()
        return self.result()

    def finished(self, row: Row) -> bool:
        """Whether a row needs no more tokens. Without an end token rows go on until the last of them has ended."""
        longest = self.stop.max_length is not None and row.verified >= self.stop.max_length
        if row.ended is None or self.stop.by_token or longest:
            return row.ended is not None
        return all(r.ended is not None for r in self.rows) and row.verified >= max(r.ended or 0 for r in self.rows)

    def at_end(self, row: Row) -> bool:
        """Whether nothing can follow the row's newest token."""
        longest = self.stop.max_length is not None and len(row.tokens) >= self.stop.max_length
        return longest or (row.drafts > 0 and row.tokens[-1] in self.stop.end_token_ids)

    def who_drafts(self) -> list[int]:
        """Rows for another drafting pass; none where it is time to verify."""
        if not self.asked:
            return []
        able = [
            r
            for r, row in enumerate(self.rows)
            if not row.waits and row.drafts < LONGEST and not self.finished(row) and not self.at_end(row)
        ]
        if not self.tuner.warm:
            return [r for r in able if self.rows[r].drafts < WARM]
        able = [r for r in able if self.rows[r].chain * self.rows[r].trust > 0.1]
        pays = self.tuner.drafts_on([self.rows[r].chain * self.rows[r].trust for r in able], self.decoding)
        for r in able:
            self.rows[r].stopped = not pays and self.rows[r].drafts == 0
        return able if pays else []

    def feed(self, rows: list[int]) -> None:
        """Hand the rows' newest tokens to the cache; at first the prompts."""
        if self.new_ids:
            rows = list(range(len(self.rows)))
            feed(self.cache, self.new_ids, rows, self.decoder_mask)
            fill_source(self.cache, rows)
            self.new_ids = []
            self.began = self.since = time.perf_counter()  # what a generation begins with is not a pass's cost
            return
        if self.decoder_mask is not None:
            length = self.cache.stairs.length + 1
            if self.decoder_mask.shape[1] < length:
                more = self.decoder_mask.new_ones(len(self.rows), length + LONGEST - self.decoder_mask.shape[1])
                self.decoder_mask = torch.cat([self.decoder_mask, more], 1)
        feed(self.cache, [[self.rows[r].tokens[-1]] for r in rows], rows, self.decoder_mask)

    # -- drafting -------------------------------------------------------------------------------------------------

    def draft(self, rows: list[int]) -> None:
        """One drafting pass: every one of the rows gets a draft, or waits."""
        self.began = time.perf_counter()
        self.feed(rows)
        for r in rows:
            self.rows[r].asked.append([])
            self.state.steps[r] = len(self.rows[r].tokens) - self.prompt  # type: ignore[index]
        self.deepest = 0
        allowed = self.allowed if self.constraints is not None else None
        history = needs_history(self.state.policy)
        for r in draft_pass(self.cache, rows, self.asked, self.ask, self.decoder_mask, allowed, history):
            self.rows[r].waits = True
        self.tuner.drafted(self.decoding, self.deepest, time.perf_counter() - self.began)

    def ask(self, query: ExitQuery, rows: list[int]) -> tuple[list[bool], bool]:
        """See `exact_pass.Ask`."""
        self.deepest, policy = query.depth, self.state.policy
        known = [self.rows[r] for r in rows]
        if self.tuned:
            trusts, sparing = [row.chain * row.trust for row in known], bool(self.choice.replay)
            found = by_worth(query, policy, self.gate, self.tuner, trusts, self.decoding, sparing)
        else:
            found = by_policy(query, policy, self.tuner)
        self.state.checked_rows += found.checked + query.computed * len(rows)
        drafted = found.drafted
        if not drafted:
            return found.exits, found.go_on
        if found.best is not None and self.choice.plain and query.allowed is None:
            tokens = found.best[drafted] if len(drafted) < len(rows) else found.best
        else:
            assert found.logits is not None
            tokens = self.choice.tokens(found.logits, [known[i].tokens for i in drafted], [rows[i] for i in drafted])
        for i, token in zip(drafted, tokens.tolist(), strict=True):
            row = known[i]
            row.asked[-1].append((query.exit_index, found.bins[i], token))
            if found.exits[i]:
                row.tokens.append(token)
                row.depths.append(query.depth)
                row.chain *= found.chances[i]
                row.expected += found.chances[i]
                row.drafted += 1
        return found.exits, found.go_on

    def allowed(self, rows: list[int]) -> torch.Tensor | None:
        """`[r, vocab]` bool: tokens that the constraints leave open."""
        assert self.constraints is not None
        zeros = torch.zeros(len(rows), self.plan.vocab, device=self.device)
        open_tokens = self.constraints([self.rows[r].tokens for r in rows], rows, zeros) > -torch.inf
        return open_tokens | ~open_tokens.any(-1, keepdim=True)

    # -- verifying ------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """The verifying pass for all rows that have not finished."""
        self.began = time.perf_counter()
        stairs = self.cache.stairs
        rows = [r for r, row in enumerate(self.rows) if not self.finished(row)]
        # The newest token's own features give one more; nothing follows an end.
        new = [r for r in rows if not self.rows[r].waits and not self.at_end(self.rows[r])]
        if self.new_ids or new:
            self.feed(new)
        drafted = any(row.drafts for row in self.rows)
        before = sum(self.rows[r].verified for r in rows)
        wanted = [stairs.lengths[r] - self.rows[r].verified + 1 for r in rows]
        logits = verify_pass(self.cache, rows, wanted, self.decoder_mask)
        cells = [(r, j) for r, n in zip(rows, wanted, strict=True) for j in range(n)]
        owners = [r for r, _ in cells]
        prefixes: list[list[int]] = []
        if not self.choice.plain:
            prefixes = [self.rows[r].tokens[: self.rows[r].verified + j] for r, j in cells]
        scores = self.choice.processed(logits, prefixes, owners)
        tokens, near = verdicts(self.choice.values(scores, prefixes, owners), self.dtype)
        self.passes += 1
        self.state.checked_rows += len(cells)
        at = 0
        gone = [0] * stairs.n_rows
        for r, n in zip(rows, wanted, strict=True):
            row = self.rows[r]
            known = row.verified
            self.judge(r, tokens[at : at + n], scores[at : at + n], logits[at : at + n])
            self.near_ties += sum(near[at : at + row.verified - known])
            gone[r] = max(0, stairs.lengths[r] - (row.verified - 1))
            at += n
        self.rolled_back += sum(gone)
        stairs.rollback(gone)
        now, final = time.perf_counter(), sum(self.rows[r].verified for r in rows) - before
        since = now - self.since if drafted else 0.0
        self.tuner.verified(len(rows), max(wanted), now - self.began, final, since)
        self.since = now
        self.decoding = sum(not self.finished(row) for row in self.rows)

    def judge(self, r: int, verdicts: list[int], scores: torch.Tensor, logits: torch.Tensor) -> None:
        """Take the last layer's verdicts on a row, up to and with the first that differs.

        Args:
            r: its number.
            verdicts: the last layer's tokens, from the first that is not verified.
            scores, logits: of each of them.
        """
        row = self.rows[r]
        for j, token in enumerate(verdicts):
            drafted = row.drafts > 0
            stands = drafted and row.tokens[row.verified] == token
            if j < len(row.asked):
                self.tuner.verdict(row.asked[j], token)
            if drafted:
                self.tuner.judge(stands)
            if stands:
                row.accepted += 1
            else:
                del row.tokens[row.verified :], row.depths[row.verified - self.prompt :]
                row.tokens.append(token)
                row.depths.append(self.n_layers)
            row.verified += 1
            if self.keeps_scores:
                row.scores.append(scores[j])
            if self.keeps_logits:
                row.logits.append(logits[j].to(torch.float32))
            if row.ended is None and self.ends(r):
                row.ended = row.verified
            if not stands or (row.ended is not None and self.finished(row)):
                break
        del row.tokens[row.verified :], row.depths[row.verified - self.prompt :]
        row.asked, row.chain, row.waits = [], 1.0, False

    def ends(self, r: int) -> bool:
        """Whether a stopping criterion ends a row with its newest verified token."""
        row = self.rows[r]
        if self.stop.simple:
            longest = self.stop.max_length is not None and row.verified >= self.stop.max_length
            return longest or row.tokens[row.verified - 1] in self.stop.end_token_ids
        scores = row.scores if self.keeps_scores else None
        prefix = row.tokens[: row.verified]
        return exact_replay.stops(self.criteria, prefix, r, len(self.rows), scores, self.device)

    # -- what comes of it -----------------------------------------------------------------------------------------

    @property
    def pad(self) -> int:
        """What follows a row's end."""
        pad = self.config._pad_token_tensor
        return 0 if pad is None else int(pad)

    def stream(self) -> None:
        """Steps that every row has verified go to the streamer, and their numbers are not needed any more."""
        ready = min((row.verified for row in self.rows if not self.finished(row)), default=None)
        if ready is None:
            ready = max(row.ended or 0 for row in self.rows)
        if self.choice.noise is not None:
            self.choice.noise.forget(ready - self.prompt)
        if self.streamer is None:
            return
        for t in range(self.streamed, ready):
            self.streamer.put(torch.tensor([row.tokens[t] if t < row.verified else self.pad for row in self.rows]))
        self.streamed = max(self.streamed, ready)

    def result(self) -> Exact:
        """Rows side by side; the generation's state is told what they came to."""
        found = side_by_side(self.rows, self.prompt, self.pad, self.device, self.keeps_scores, self.keeps_logits)
        depths = found.exit_layers.T.tolist()
        self.state.depths += depths
        self.state.answered += sum(d > 0 for step in depths for d in step)
        self.state.exact = {
            **counts_of(self.rows),
            "verifying_passes": self.passes,
            "rolled_back_positions": self.rolled_back,
            "near_ties": self.near_ties,
        }
        if self.choice.noise is not None:
            self.choice.noise.leave(found.sequences.shape[1] - self.prompt)
        return found
