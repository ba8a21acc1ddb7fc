"""`generate()` with early exit: has the options checked, makes the cache, and reports the exit depth of every token.

`generate()` gets a `StaircaseCache` to carry through Transformers' own code; `_sample` and `_beam_search` are entered after
all preparation, when processors, stopping criteria and the number of rows are known. Beam search is Transformers' loop;
greedy search and sampling have one of ours (`engine/sampling.py`; `engine/exact.py` for `exact=True`), with the same
results.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from deed.config import DeedConfig
from deed.constants import FIRST_DRAFTS
from deed.engine.cache import StaircaseCache
from deed.engine.exact import decode_exactly
from deed.engine.lean_processors import lean_processors
from deed.engine.sampling import sample
from deed.engine.state import GenerationState
from deed.families import DecoderFamily
from deed.policies.exit_checks.build import with_exit_check
from deed.policies.policy import ExitPolicy

from . import encoding, whisper
from .answer_confidence import exit_settings, generate_watched
from .generate_arguments import check_arguments, exit_policy_of
from .outputs import DeedGenerateBeamOutput, DeedGenerateOutput
from .promise import exits_early, warn_of_broken_promise
from .request import Request, current, running


class EarlyExitGeneration:
    """The part of a deed model that generates."""

    deed_family: DecoderFamily
    deed_config: DeedConfig

    def generate(
        self,
        *args: Any,
        exit_threshold: float | list[float] | torch.Tensor | None = None,
        exit_policy: ExitPolicy | None = None,
        confidence_over: str | None = None,
        exit_check: str | dict[str, Any] | None = None,
        asking: str | dict[str, Any] | None = None,
        answer_confidence: bool = False,
        exact: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Transformers' `generate()`, leaving the decoder early.

        Args:
            exit_threshold: overrides `deed_config.threshold`; a tensor `[requests]` is a threshold per request.
            exit_policy: replaces the threshold altogether, e.g. `deed.FixedSchedule([3, 1, 6])`.
            confidence_over: overrides `deed_config.confidence_over`.
            exit_check: overrides `deed_config.exit_check`.
            asking: the former name of `exit_check`.
            answer_confidence: also say how likely each answer is to be right, by what `deed.calibrate_answers` has found.
            exact: every token is the full depth's: what exits early is a draft that the last layer verifies. Greedy search
                and sampling (docs/exact.md).
            args: as Transformers takes them.
            kwargs: as Transformers takes them.

        Returns:
            As Transformers; with `return_dict_in_generate=True` the output has `exit_layers`
            `[sequences, new tokens]` (with `exact` also `accepted` `[sequences]`) and its `past_key_values.stats()` the work
            done. With `answer_confidence=True` it is such an output, with `answer_features` and, where answers are
            calibrated, `confidence` `[sequences]`.

        Raises:
            TypeError: a cache that cannot hold a staircase.
            ValueError: an option that early exit does not work with, or a threshold that does not fit; `answer_confidence`
                with beams, or with other settings than answers were calibrated with.

        Warns:
            UserWarning: once, the calibrated threshold is used with another exit check, measure or `confidence_over` than
                it was calibrated with.

        Example:
            ```python
            out = model.generate(**inputs, exit_threshold=0.8, max_new_tokens=8, return_dict_in_generate=True)
            out.exit_layers  # [sequences, new tokens]: the layer that produced each token
            full = model.generate(**inputs, exit_threshold=2.0, max_new_tokens=8)  # the plain model's tokens
            each = model.generate(**inputs, exit_threshold=torch.tensor([0.7, 0.95]), max_new_tokens=8)  # per request
            ```
        """
        if asking is not None:
            if exit_check is not None:
                raise ValueError("asking is the former name of exit_check; pass one of the two")
            exit_check = asking
        drafts = exit_threshold
        if exact and exit_threshold is None and exit_policy is None and not exits_early(self.deed_config.threshold):
            drafts = FIRST_DRAFTS
        policy = exit_policy_of(self, drafts, exit_policy)
        exit_check = self.deed_config.exit_check if exit_check is None else exit_check
        policy = with_exit_check(policy, exit_check, self)
        over = confidence_over or self.deed_config.confidence_over
        if over not in ("all", "allowed"):
            raise ValueError(f"confidence_over must be 'all' or 'allowed', got {over!r}")
        if exit_threshold is None and exit_policy is None and not exact:
            warn_of_broken_promise(self, exit_check, over)
        check_arguments(self, args, kwargs)
        cache = kwargs.get("past_key_values")
        if isinstance(cache, StaircaseCache):
            cache.request(policy, over)
        if answer_confidence:
            if exact:
                raise ValueError("answer_confidence is of answers that leave early; leave exact out")
            if whisper.splits_outputs(self):
                raise ValueError(
                    "answer_confidence is of one answer per row, and Whisper's generate() puts several together"
                )
            if cache is None:
                cache = StaircaseCache(len(self.deed_family.layers(self)), policy, over)  # type: ignore[arg-type]
            settings = exit_settings(self.deed_config, exit_threshold, exit_policy, exit_check, over)
            kwargs = {**kwargs, "past_key_values": cache}
            return generate_watched(self, super().generate, cache, settings, args, kwargs)  # type: ignore[misc]
        runs = whisper.eager_copy(self) if whisper.wants_word_times(self, kwargs) else self
        told = whisper.tells_segments(self, kwargs)
        with running(Request(runs, policy, over, exact, told)) as request:
            out = super(EarlyExitGeneration, runs).generate(*args, **kwargs)  # type: ignore[misc]
        return whisper.with_depths(out, request) if whisper.splits_outputs(self) else out

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        """Transformers asks for the cache here, once for every inner generation. Class by class it is overridden; the
        override, too, is for caches of Transformers' own."""
        cache, request = model_kwargs.get("past_key_values"), current(self)
        if cache is None and request is not None:
            cache = model_kwargs["past_key_values"] = request.new_cache()
        if not isinstance(cache, StaircaseCache):
            return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)  # type: ignore[misc]
        generation_config.cache_implementation = None  # "dynamic" is what a StaircaseCache is
        return None

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Any, model_kwargs: dict[str, Any], model_input_name: Any, generation_config: Any
    ) -> dict[str, Any]:
        request = current(self)
        if request is not None and request.taker is not None and model_kwargs.get("encoder_outputs") is None:
            call = {
                "inputs_tensor": inputs_tensor,
                "model_kwargs": model_kwargs,
                "model_input_name": model_input_name,
                "generation_config": generation_config,
            }
            return request.taker.encode(self, call)
        arguments = (inputs_tensor, model_kwargs, model_input_name, generation_config)
        return super()._maybe_prepare_encoder_kwargs_for_generation(*arguments)  # type: ignore[misc, no-any-return]

    def _prepare_text_encoder_decoder_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Transformers runs the encoder here, whatever the class does around it."""
        masked = kwargs.get("model_kwargs", {}).get("attention_mask") is not None
        with encoding.lean_where_possible(self, kwargs.get("generation_config"), masked):
            return super()._prepare_text_encoder_decoder_kwargs_for_generation(*args, **kwargs)  # type: ignore[misc]

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The model's encoder. While `generate()` prepares, a lean copy of it that shares its modules."""
        return encoding.encoder_of(self, super().get_encoder(*args, **kwargs))  # type: ignore[misc]

    # Transformers' decoding loops, entered after all preparation: here processors, criteria and rows are known.

    def _sample(
        self,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        cache, request = kwargs.get("past_key_values"), current(self)
        if isinstance(cache, StaircaseCache):
            logits_processor = lean_processors(logits_processor)
        if request is not None and request.taker is not None:
            call = {
                "input_ids": input_ids,
                "logits_processor": logits_processor,
                "stopping_criteria": stopping_criteria,
                "generation_config": generation_config,
                "streamer": streamer,
                "model_kwargs": kwargs,
            }
            return request.taker.decode(self, request, call)
        arguments = (generation_config, synced_gpus, streamer)
        if not isinstance(cache, StaircaseCache):
            return super()._sample(input_ids, logits_processor, stopping_criteria, *arguments, **kwargs)  # type: ignore[misc]
        has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        state = self._begin(cache, kwargs, logits_processor, has_eos, stopping_criteria)
        if self._is_exact():
            if synced_gpus or not self._steps_directly():
                raise ValueError(
                    "exact=True decodes in a loop of its own: it goes without synced_gpus, hooks on the model and classes "
                    "that prepare their steps themselves"
                )
            exactly = decode_exactly(
                self, input_ids, logits_processor, stopping_criteria, generation_config, streamer, kwargs
            )
            if not self._returns_fields(generation_config):
                return exactly.sequences
            fields = {**exactly._asdict(), "past_key_values": cache}
            return self._output(DeedGenerateOutput, fields, generation_config, kwargs)
        if not synced_gpus and generation_config.use_cache and self._steps_directly():
            found = sample(self, input_ids, logits_processor, stopping_criteria, generation_config, streamer, kwargs)
            result: Any = {**found._asdict(), "past_key_values": cache}
            if not self._returns_fields(generation_config):
                return found.sequences
        else:
            watched = _WatchedCriteria(stopping_criteria, state)
            result = super()._sample(input_ids, logits_processor, watched, *arguments, **kwargs)  # type: ignore[misc]
            if isinstance(result, torch.Tensor):
                return result
        exit_layers = torch.tensor(state.depths, device=result["sequences"].device).T
        return self._output(DeedGenerateOutput, {**result, "exit_layers": exit_layers}, generation_config, kwargs)

    def _returns_fields(self, generation_config: Any) -> bool:
        """Whether an inner generation returns an output instead of tokens: asked for, or to tell segments of depths."""
        request = current(self)
        if generation_config.return_dict_in_generate or request is None or not request.in_segments:
            return bool(generation_config.return_dict_in_generate)
        request.tokens_asked = True
        return True

    def _is_exact(self) -> bool:
        request = current(self)
        return request is not None and request.exact

    def _steps_directly(self) -> bool:
        """Whether nothing but this class says how a step is prepared and run: then `engine/sampling.py` decodes."""
        ours = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
        return (
            all(getattr(type(self), name) is getattr(EarlyExitGeneration, name) for name in ours)
            and hasattr(type(self), "deed_base")
            and "forward" not in vars(self)  # as accelerate leaves it for autocast
            and not self._forward_hooks  # type: ignore[attr-defined]
            and not self._forward_pre_hooks  # type: ignore[attr-defined]
        )

    def _beam_search(
        self, input_ids: Any, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **kwargs: Any
    ) -> Any:
        cache, request = kwargs.get("past_key_values"), current(self)
        if request is not None and request.taker is not None:
            raise ValueError("a scheduler decodes one continuation per request: use num_beams=1")
        arguments = (input_ids, logits_processor, stopping_criteria, generation_config)
        if not isinstance(cache, StaircaseCache):
            return super()._beam_search(*arguments, **kwargs)  # type: ignore[misc]
        if self._is_exact():
            raise ValueError(
                "exact=True verifies one continuation per row, and beams have several: use num_beams=1, or "
                "exit_threshold=2.0 for the full depth's beams"
            )
        state = self._begin(cache, kwargs, logits_processor, False, stopping_criteria)
        result = super()._beam_search(*arguments, **kwargs)  # type: ignore[misc]
        if isinstance(result, torch.Tensor):
            return result
        rows = result.beam_indices.long()  # [sequences, new tokens], -1 after the end
        depths = torch.tensor(state.depths, device=rows.device)
        steps = torch.arange(rows.shape[1], device=rows.device)
        exit_layers = torch.where(rows >= 0, depths[steps, rows.clamp(min=0)], torch.zeros_like(rows))
        return self._output(DeedGenerateBeamOutput, {**result, "exit_layers": exit_layers}, generation_config, kwargs)

    def _output(self, kind: type, fields: dict[str, Any], generation_config: Any, model_kwargs: dict[str, Any]) -> Any:
        """What an inner generation returns.

        Args:
            kind: class of the output.
            fields: its fields.
            generation_config: as it was prepared.
            model_kwargs: as the loop got them.
        """
        request = current(self)
        if request is not None:
            request.exit_layers.append(fields["exit_layers"])
            if fields.get("accepted") is not None:
                request.accepted.append(fields["accepted"])
                request.stats.append(model_kwargs["past_key_values"].stats())
        if not generation_config.use_cache or whisper.splits_outputs(self):
            fields["past_key_values"] = None
        if getattr(generation_config, "return_token_timestamps", False):
            fields["decoder_attentions"] = None  # the loop has gathered what steps do not give
            fields["cross_attentions"] = whisper.cross_attentions(self, fields, model_kwargs)
        return kind(**fields)

    def _begin(
        self,
        cache: StaircaseCache,
        model_kwargs: dict[str, Any],
        processors: LogitsProcessorList,
        may_skip: bool,
        criteria: Any,
    ) -> GenerationState:
        if cache.stairs.ragged:  # as exact decoding leaves it
            raise ValueError("past_key_values has rows of different length and cannot be continued: start without it")
        return cache.begin(
            self,
            model_kwargs["encoder_outputs"],
            encoder_mask=model_kwargs.get("attention_mask"),
            processors=processors,
            may_skip_finished=may_skip,
            max_length=criteria.max_length,
        )

    # Between two steps, Transformers prepares for caches, masks and modalities that a StaircaseCache has none of. At small
    # model sizes that costs as much as a layer, so what a step needs is handed over directly.

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, next_sequence_length: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What one step is run with.

        Args:
            input_ids: `[rows, length]`, all tokens so far.
            next_sequence_length: how many of them are new; None: all, or those that a continued cache has not seen.
            kwargs: as Transformers hands them on.

        Raises:
            ValueError: a continued cache that holds all of `input_ids` already.
        """
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, StaircaseCache):
            return super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)  # type: ignore[misc]
        if cache.state is not None and cache.state.constraints:
            cache.state.token_ids = input_ids
        if kwargs.get("use_cache") is False:  # nothing is kept: the whole prefix is decoded anew
            cache.crop(cache.get_seq_length())
        past = cache.get_seq_length()
        if past and next_sequence_length is None and kwargs.get("is_first_iteration"):
            # A cache is continued, and no decoder_attention_mask says whether these are all tokens or the new ones.
            if input_ids.shape[1] <= past:
                raise ValueError(
                    f"the cache holds {past} positions and decoder_input_ids only {input_ids.shape[1]}; pass the whole "
                    "sequence so far, or a decoder_attention_mask as long as it"
                )
            next_sequence_length = input_ids.shape[1] - past
        new = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
        # Seq2SeqTrainer hands its labels to generate(); Whisper's asks for attentions that come at the end (whisper.py).
        dropped = ("is_first_iteration", "labels", "output_attentions", "output_hidden_states")
        return {**{k: v for k, v in kwargs.items() if k not in dropped}, "decoder_input_ids": new}

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        if not isinstance(model_kwargs.get("past_key_values"), StaircaseCache):
            return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        mask = model_kwargs.get("decoder_attention_mask")
        if mask is not None:
            model_kwargs["decoder_attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=-1)
        return model_kwargs


class _WatchedCriteria(StoppingCriteriaList):
    """Stopping criteria that tell the generation which rows are done."""

    def __init__(self, criteria: StoppingCriteriaList, state: GenerationState) -> None:
        super().__init__(criteria)
        self.state = state

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = super().__call__(input_ids, scores, **kwargs)
        self.state.note_finished(done.tolist())
        return done
