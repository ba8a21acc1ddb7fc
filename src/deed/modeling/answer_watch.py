"""What a generation tells about its answers, written down while it runs: the features that answer confidence is made from.

Nothing is computed twice and no pass is added. The exit policy is wrapped, so that what each checked exit would have said is
seen where it is computed anyway; a logits processor sees the probabilities that tokens are chosen by; depths and the encoder's
output are the generation's own. `generate(answer_confidence=True)` uses this; without it, nothing of it exists.
"""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from deed.engine.state import GenerationState
from deed.policies import policy as policies
from deed.policies.measures import needs_history
from deed.policies.policy import ExitPolicy
from deed.policies.query import ExitDecision, ExitQuery

#: What is known of every answer. Logarithms are natural; depths are shares of the decoder's.
FEATURES = (
    "log_tokens",  # of the number of tokens, end token included
    "log_prob_sum",  # of the answer: the sum of its tokens' log-probabilities at the exits taken
    "log_prob_mean",
    "log_prob_min",
    "margin_min",  # smallest gap between a token's probability and the runner-up's
    "depth_mean",
    "depth_max",
    "first_exit_share",  # share of tokens that left at the first exit
    "disagreement_mean",  # share of all exits that were checked before a token left and would have said another one
    "disagreement_max",
    "first_log_prob_min",  # smallest log-probability that the first exit gave its own token
    "log_source",  # of the number of source positions
)


class AnswerWatch(LogitsProcessor):
    """Watches one greedy or sampled generation.

    Args:
        n_layers: of the decoder.
        n_exits: how many of them are exits.
    """

    def __init__(self, n_layers: int, n_exits: int) -> None:
        self.n_layers, self.n_exits = n_layers, n_exits
        self._log_probs: torch.Tensor | None = None  # [rows, vocab] of the newest step, whose token is not yet known
        self._said: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # of this step: rows, tokens, log-probs
        self._token_log_probs: list[torch.Tensor] = []  # per step, each [rows]
        self._margins: list[torch.Tensor] = []
        self._disagreements: list[torch.Tensor] = []
        self._first: list[torch.Tensor] = []

    def policy(self, policy: ExitPolicy) -> ExitPolicy:
        """The policy that decides as `policy` does and is watched doing so."""
        return _WatchedPolicy(self, policy)

    def saw(self, query: ExitQuery, decision: ExitDecision) -> None:
        """Take note of the logits that an exit computed to decide."""
        if decision.logits is None:
            return
        at = slice(None) if decision.rows is None else decision.rows
        logits = decision.logits.float()
        if query.allowed is not None:
            logits = logits.masked_fill(~query.allowed[at], -torch.inf)
        best, token = logits.max(-1)
        self._said.append((query.rows[at], token, best - logits.logsumexp(-1)))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A step's scores `[rows, vocab]`, before its token is chosen; they are handed on as they are."""
        self._choose(input_ids[:, -1])
        self._log_probs = scores.log_softmax(-1)
        top, tokens = self._log_probs.topk(min(2, scores.shape[-1]), dim=-1)
        first = top[:, 0].clone()  # where no exit was checked, that of the exit taken
        disagreement = torch.zeros_like(first)
        for i, (rows, token, log_prob) in enumerate(self._said):
            if i == 0:
                first[rows] = log_prob.to(first.dtype)
            disagreement[rows] += (token != tokens[rows, 0]).to(first.dtype)
        self._said = []
        probs = top.exp()
        self._margins.append(probs[:, 0] - (probs[:, 1] if probs.shape[1] > 1 else 0.0))
        self._disagreements.append(disagreement / max(1, self.n_exits - 1))
        self._first.append(first)
        return scores

    def _choose(self, tokens: torch.Tensor) -> None:
        """Note the log-probability of the tokens `[rows]` that the last step's scores led to."""
        if self._log_probs is not None:
            self._token_log_probs.append(self._log_probs.gather(1, tokens[:, None])[:, 0])
            self._log_probs = None

    def features(self, sequences: torch.Tensor, state: GenerationState) -> torch.Tensor:
        """`[rows, len(FEATURES)]` float64.

        Args:
            sequences: `[rows, length]`, as generated.
            state: of the generation, which has ended.
        """
        source = _source_keep(state).sum(1)
        return self.features_of(sequences[:, -1], state.depths, min(state.plan.exit_of), source)

    def features_of(
        self, newest: torch.Tensor, step_depths: list[list[int]], first_exit: int, source: torch.Tensor
    ) -> torch.Tensor:
        """As `features`, from plain values.

        Args:
            newest: `[rows]`, the last tokens.
            step_depths: per step the depths of the rows, 0 once finished.
            first_exit: its layer.
            source: `[rows]`, source positions that are no padding.
        """
        self._choose(newest)
        depths = torch.tensor(step_depths, dtype=torch.float64).T  # [rows, steps]
        given = depths > 0
        count = given.sum(1).clamp(min=1).double()

        def steps(values: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(values, 1).double().cpu().clamp(min=-50.0)

        def mean(values: torch.Tensor) -> torch.Tensor:
            return values.masked_fill(~given, 0).sum(1) / count

        def least(values: torch.Tensor) -> torch.Tensor:
            return values.masked_fill(~given, torch.inf).amin(1).clamp(max=1.0)

        log_probs, disagreements = steps(self._token_log_probs), steps(self._disagreements)
        values = {
            "log_tokens": count.log(),
            "log_prob_sum": mean(log_probs) * count,
            "log_prob_mean": mean(log_probs),
            "log_prob_min": least(log_probs),
            "margin_min": least(steps(self._margins)),
            "depth_mean": mean(depths) / self.n_layers,
            "depth_max": depths.amax(1) / self.n_layers,
            "first_exit_share": mean((depths == first_exit).double()),
            "disagreement_mean": mean(disagreements),
            "disagreement_max": -least(-disagreements),
            "first_log_prob_min": least(steps(self._first)),
            "log_source": source.clamp(min=1).double().cpu().log(),
        }
        return torch.stack([values[name] for name in FEATURES], 1)


def source_states(state: GenerationState) -> torch.Tensor:
    """`[rows, d_model]` float64: the encoder's output, the mean over the source positions that are no padding."""
    keep = _source_keep(state)
    return pooled_states(state.encoder_hidden.index_select(0, torch.tensor(state.sources, device=keep.device)), keep)


def pooled_states(hidden: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`[rows, d_model]` float64, the mean over the positions kept.

    Args:
        hidden: `[rows, source, d_model]`.
        keep: `[rows, source]` bool.
    """
    pooled = (hidden.double() * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
    return pooled.cpu()


def _source_keep(state: GenerationState) -> torch.Tensor:
    """`[rows, source]` bool."""
    if state.encoder_keep is not None:
        return state.encoder_keep
    shape = (len(state.sources), state.encoder_hidden.shape[1])
    return torch.ones(shape, dtype=torch.bool, device=state.encoder_hidden.device)


class _WatchedPolicy:
    """Decides as another policy does; the watch is told."""

    def __init__(self, watch: AnswerWatch, policy: ExitPolicy) -> None:
        self.watch, self.wrapped = watch, policy
        self.exits_early = getattr(policy, "exits_early", True)
        self.needs_history = needs_history(policy)

    def begin(self, n_rows: int) -> _WatchedPolicy:
        return _WatchedPolicy(self.watch, policies.begin(self.wrapped, n_rows))

    def leaves(self, query: ExitQuery) -> torch.Tensor:
        return self.decide(query).leave

    def decide(self, query: ExitQuery) -> ExitDecision:
        decision = policies.decide(self.wrapped, query)
        self.watch.saw(query, decision)
        return decision
