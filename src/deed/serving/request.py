"""`GenerationRequest`: what a scheduler is asked for, one row of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class GenerationRequest:
    """One row to generate.

    Attributes:
        inputs: encoder inputs of one row, `[1, …]` tensors, as `model.generate(**inputs)` takes them; also
            `decoder_input_ids`.
        options: of `generate()`: `max_new_tokens`, `exit_threshold`, `exit_policy`, `exit_check`, `do_sample`, `temperature`,
            `top_k`, `top_p`, `repetition_penalty`, `logits_processor`, `prefix_allowed_tokens_fn`, `stop_strings` with
            `tokenizer`, `generation_config` and so on. Not beams, several sequences, a streamer or a cache. Processors and
            criteria that keep a state must be the request's own.
        exact: every token is the full depth's, as by `generate(exact=True)`.
        seed: of sampling; the tokens are those of `torch.manual_seed(seed)` and `generate()` alone. None: a random one.
        deadline_s: seconds from its submission after which it fails with `DeadlinePassed`; None: no deadline.
        priority: smaller is served first; equal ones in the order of their submission.
        confidence: whether tokens come with the probability that their exit gave them.
        metadata: the caller's own; comes back with the ticket.
    """

    inputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False
    seed: int | None = None
    deadline_s: float | None = None
    priority: int = 0
    confidence: bool = True
    metadata: Any = None
