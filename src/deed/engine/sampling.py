"""A decoding loop for greedy search and sampling: Transformers' `_sample` without the parts that early exit does not need.

Between two steps, Transformers' own loop prepares inputs for every kind of cache and model, copies logits, concatenates,
and asks stopping criteria by tensors: half a millisecond, as much as several small layers. This loop gives the same tokens,
scores and outputs. `generation.py` chooses it; a model whose class changes how a step is prepared gets Transformers' loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers.generation.logits_process import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from .cache import StaircaseCache
from .state import GenerationState
from .step import decode_greedily, decode_step


class Sampled(NamedTuple):
    """What `sample` decoded.

    Attributes:
        sequences: `[rows, prompt + new]` ids.
        scores, logits: per step `[rows, vocab]`, processed and raw; None where `generation_config` does not ask for them.
    """

    sequences: torch.Tensor
    scores: tuple[torch.Tensor, ...] | None
    logits: tuple[torch.Tensor, ...] | None


def sample(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any,
    model_kwargs: dict[str, Any],
) -> Sampled:
    """Decode until every row has finished.

    Args:
        model: a deed model.
        input_ids: `[rows, prompt]` decoder ids.
        logits_processor: Transformers' list.
        stopping_criteria: Transformers' list.
        generation_config: prepared.
        streamer: or None.
        model_kwargs: as `_sample` gets them: `past_key_values` (a `StaircaseCache` whose generation has begun), masks.

    Returns:
        What was decoded; depths are the state's.
    """
    cache: StaircaseCache = model_kwargs["past_key_values"]
    state = cache.state
    assert state is not None, "StaircaseCache.begin() first"
    decoder_mask = model_kwargs.get("decoder_attention_mask")
    wants = generation_config.return_dict_in_generate
    keeps_scores, keeps_logits = wants and generation_config.output_scores, wants and generation_config.output_logits
    all_scores: list[torch.Tensor] = []
    all_logits: list[torch.Tensor] = []
    pad = generation_config._pad_token_tensor
    stop = Stopping(stopping_criteria, state)
    greedy = not (generation_config.do_sample or keeps_scores or keeps_logits)

    def choose(logits: torch.Tensor) -> torch.Tensor:  # [rows, 1, vocab] to [rows, 1]
        scores = logits[:, -1].to(torch.float32)
        if keeps_logits:
            all_logits.append(scores.clone())
        if logits_processor or keeps_scores:
            scores = logits_processor(input_ids, scores.clone())
        if keeps_scores:
            all_scores.append(scores)
        if generation_config.do_sample:
            return torch.multinomial(torch.nn.functional.softmax(scores, dim=-1), num_samples=1)
        return best_token(scores)

    # Transformers prepares the first step: it knows which prompt tokens a continued cache has not seen yet.
    tokens = choose(model._prefill(input_ids, generation_config, model_kwargs).logits)
    while True:
        if decoder_mask is not None:
            decoder_mask = torch.cat([decoder_mask, decoder_mask.new_ones(decoder_mask.shape[0], 1)], dim=-1)
        if stop.by_token and state.finished is not None and any(state.finished):
            tokens = tokens.masked_fill(torch.tensor(state.finished, device=tokens.device)[:, None], pad)
        input_ids = torch.cat([input_ids, tokens], dim=-1)
        if streamer is not None:
            streamer.put(tokens[:, 0].cpu())
        if stop(input_ids, tuple(all_scores) if keeps_scores else None):
            break
        if state.constraints:
            state.token_ids = input_ids
        if greedy and _untouched(logits_processor, input_ids.shape[1]):
            tokens = decode_greedily(cache, tokens, decoder_mask)
        else:
            tokens = choose(decode_step(cache, tokens, decoder_mask))
    if streamer is not None:
        streamer.end()
    return Sampled(input_ids, tuple(all_scores) if keeps_scores else None, tuple(all_logits) if keeps_logits else None)


def best_token(scores: torch.Tensor) -> torch.Tensor:
    """The id of the largest score, the first of several: `[rows, vocab]` to `[rows, 1]`. On a CPU by NumPy, which takes 4 us
    for 50,000 scores where PyTorch takes 100 (a step of Whisper base: 5 ms)."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(scores.detach().numpy().argmax(-1, keepdims=True))
    return scores.argmax(-1, keepdim=True)


def _untouched(processors: Any, length: int) -> bool:
    """Whether logits processors leave the scores of the token after `length` others as they are."""
    return all(_idle(processor, length) for processor in processors)


def _idle(processor: Any, length: int) -> bool:
    kind = type(processor)
    if kind is ForcedEOSTokenLogitsProcessor:
        return length != processor.max_length - 1
    if kind is ForcedBOSTokenLogitsProcessor:
        return length > 1
    if kind is MinLengthLogitsProcessor:
        return length >= processor.min_length
    if kind is MinNewTokensLengthLogitsProcessor:
        return length >= processor.prompt_length_to_skip + processor.min_new_tokens
    return False


class Stopping:
    """Stopping criteria that tell the generation which rows are done; length and end tokens are compared as numbers.

    Args:
        criteria: Transformers' list.
        state: the running generation.

    Attributes:
        by_token: whether rows may end before others, which are then given the padding token.
    """

    def __init__(self, criteria: Any, state: GenerationState) -> None:
        self.criteria, self.state = criteria, state
        self.by_token = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        self.simple = all(type(criterion) is EosTokenCriteria or _is_length(criterion) for criterion in criteria)
        self.max_length: int | None = criteria.max_length
        self.end_token_ids: set[int] = set()
        for criterion in criteria:
            if type(criterion) is EosTokenCriteria:
                self.end_token_ids |= set(criterion.eos_token_id.tolist())

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> bool:
        """Whether every row is done with these tokens."""
        if self.simple:
            ended = self.max_length is not None and input_ids.shape[1] >= self.max_length
            done = [ended or token in self.end_token_ids for token in input_ids[:, -1].tolist()]
        else:
            done = self.criteria(input_ids, scores).tolist()
        self.state.note_finished(done)
        return all(self.state.finished or ())


def _is_length(criterion: Any) -> bool:
    if type(criterion) is not MaxLengthCriteria:
        return False
    limit = criterion.max_position_embeddings  # beyond it the criterion itself warns
    return limit is None or criterion.max_length <= limit
