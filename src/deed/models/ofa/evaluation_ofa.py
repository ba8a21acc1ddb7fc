"""`generate()` as the original's evaluation scripts have it, and two processors for what Transformers' beams do otherwise.

Read in OFA-Sys/OFA main a36b91c: `run_scripts/*/evaluate_*.sh` and `models/sequence_generator.py`, which is fairseq's with the
trie of answers. Three differences matter for which hypothesis is the best:

- at the length limit fairseq ends a hypothesis with the end token at its own probability; Transformers' `forced_eos_token_id`
  gives it probability one, which favors long hypotheses (`EndAtLimit`);
- answers from a trie are masked before the softmax, so that probabilities are those among the allowed tokens, and a beam with
  nothing left to say does not count as finished (`AmongCandidates`);
- fairseq stops once it has as many finished hypotheses as beams (`early_stopping=True`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from .candidates import Candidates

#: By task: the plain options of `generate()`, and how many tokens may come before the end token.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "vqa": ({"num_beams": 5, "length_penalty": 0.0, "min_new_tokens": 1}, 200),
    "caption": ({"num_beams": 5, "length_penalty": 1.0, "min_new_tokens": 1, "no_repeat_ngram_size": 3}, 16),
    "refer": ({"num_beams": 5, "length_penalty": 1.0, "min_new_tokens": 4, "no_repeat_ngram_size": 3}, 4),
}


def original_settings(
    task: str,
    candidates: Candidates | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    start: int = 1,
    eos_token_id: int = 2,
    pad_token_id: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of `generate()` that make a model answer as the original does when its authors evaluate it.

    Args:
        task: `"vqa"`, `"caption"` or `"refer"`. Visual entailment is evaluated by `score_candidates`, not by generating.
        candidates: the closed list of answers (VQA); None leaves the answer open.
        prompts: what the decoder is told per row of the batch, start token first (`OFAProcessor.decoder_prompts`), where it
            is told something; with candidates only.
        start: ids that every row of `decoder_input_ids` has, where these are passed to `generate()`.
        eos_token_id, pad_token_id: of the tokenizer.

    Raises:
        ValueError: another task, or prompts without candidates.
    """
    if task not in SETTINGS:
        raise ValueError(
            f"task must be one of {', '.join(SETTINGS)}, got {task!r} (snli_ve is evaluated by score_candidates)"
        )
    if prompts is not None and candidates is None:
        raise ValueError("prompts need candidates; without them pass decoder_input_ids to generate() and start here")
    options, most = SETTINGS[task]
    options = {**options, "do_sample": False, "early_stopping": True, "suppress_tokens": [pad_token_id]}
    if candidates is None:
        limit = EndAtLimit(start + most, eos_token_id)
        return {**options, "max_new_tokens": most + 1, "logits_processor": LogitsProcessorList([limit])}
    told = start if prompts is None else max(map(len, prompts))
    longest = max(map(len, candidates.ids)) + (told - start)
    return {
        **options,
        "min_new_tokens": None,  # the candidates say how short an answer may be
        "max_new_tokens": longest,
        "prefix_allowed_tokens_fn": candidates.prefix_allowed_tokens_fn(start, prompts),
        "logits_processor": LogitsProcessorList([AmongCandidates(options["num_beams"], candidates.eos, start)]),
    }


class EndAtLimit(LogitsProcessor):
    """Leaves only the end token once a row has `length` ids, start token included; its score stays what it is."""

    def __init__(self, length: int, eos_token_id: int) -> None:
        self.length, self.eos_token_id = length, eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] < self.length:
            return scores
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self.eos_token_id] = scores[:, self.eos_token_id]
        return ended


class AmongCandidates(LogitsProcessor):
    """Log-probabilities among the tokens that other processors left open; for use after them.

    Transformers fills up its beams where a trie has fewer branches than there are beams: with copies of other beams and with
    beams that have ended, at scores of -1e9, and counts them as finished at the next end token. Here they get nothing, so
    that, as in fairseq, only real hypotheses count.

    Args:
        num_beams: rows that belong together.
        eos_token_id: what ends a beam.
        start: ids at the front that were told to the decoder.
    """

    def __init__(self, num_beams: int, eos_token_id: int, start: int = 1) -> None:
        self.num_beams, self.eos_token_id, self.start = num_beams, eos_token_id, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        groups = input_ids.unflatten(0, (-1, self.num_beams))
        same = (groups[:, :, None] == groups[:, None]).all(-1)  # [rows, beams, beams]
        fillers = same.tril(-1).any(-1).flatten() | (input_ids[:, self.start :] == self.eos_token_id).any(-1)
        return scores.log_softmax(-1).masked_fill(fillers[:, None], -torch.inf)


__all__ = ["SETTINGS", "AmongCandidates", "EndAtLimit", "original_settings"]
