"""`get_deed_model`: puts early exit on a Transformers encoder-decoder model, which keeps its class and its methods.

The model's class becomes a subclass of what it was (isinstance, `generate()`, `Trainer` and the saved `architectures`
stay as they were); what is added is `deed_config`, `deed_exits` (the adaptation modules) and the methods below.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import torch
import transformers
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.utils import logging

from . import saving
from .cache import StaircaseCache
from .confidence import ExitPolicy, FixedSchedule, ThresholdPolicy, build_confidence
from .config import DeedConfig
from .decode import decode_step
from .exits import build_adapters
from .families import DecoderFamily, family_of
from .loss import combine, normaliser, token_loss_sum
from .outputs import DeedGenerateBeamOutput, DeedGenerateOutput, DeedSeq2SeqLMOutput

logger = logging.get_logger(__name__)
EXITS_PREFIX = "deed_exits."


def get_deed_model(model: Any, config: DeedConfig | None = None) -> Any:
    """Put early exit on `model`, in place, and return it.

    Args:
        model: an encoder-decoder `PreTrainedModel` with a registered decoder family.
        config: defaults to `DeedConfig()`: every layer an exit, residual linear adapters, threshold 0.9.

    Raises:
        TypeError: no family for this class, or it is a deed model already.
        DeedConfigError: the configuration does not fit the decoder.
    """
    if isinstance(model, DeedMixin):
        raise TypeError("this model has early exit already; change model.deed_config, or start from the plain model")
    family = family_of(model)
    n_layers = len(family.layers(model))
    resolved = (config or DeedConfig()).resolve(n_layers)
    adapters = build_adapters(resolved, family.d_model(model))
    reference = next(family.layers(model).parameters())
    adapters.to(device=reference.device, dtype=reference.dtype)
    model.__class__ = deed_class(type(model))  # type: ignore[arg-type]
    model.deed_family = family
    model.deed_exits = adapters
    model.deed_config = resolved
    ignored = list(getattr(model.config, "keys_to_ignore_at_inference", None) or [])
    model.config.keys_to_ignore_at_inference = [*ignored, *({"exit_losses"} - set(ignored))]
    model.train(model.training)
    return model


@functools.cache
def deed_class(base: Any) -> type:
    """The early-exit subclass of a Transformers model class; same `__name__`, so that what goes by names still works."""

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _forward(self, base, args, kwargs)

    signature = inspect.signature(base.forward)
    extra = inspect.Parameter("num_items_in_batch", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = list(signature.parameters.values())
    at = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    forward.__signature__ = signature.replace(parameters=[*parameters[:at], extra, *parameters[at:]])  # type: ignore[attr-defined]
    names = {
        "forward": forward,
        "__module__": __name__,
        "__qualname__": f"Deed{base.__name__}",
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (DeedMixin, base), names)


def __getattr__(name: str) -> type:
    # Lets pickle find DeedT5ForConditionalGeneration and the like in a fresh process.
    base = getattr(transformers, name[4:], None) if name.startswith("Deed") else None
    if isinstance(base, type):
        return deed_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _forward(self: Any, base: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    base_forward = base.forward  # type: ignore[attr-defined]
    if args:
        names = [n for n in inspect.signature(base_forward).parameters if n != "self"]
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(kwargs.get("past_key_values"), StaircaseCache):
        return _decode_forward(self, kwargs)
    labels = kwargs.pop("labels", None)
    num_items = kwargs.pop("num_items_in_batch", None)
    if labels is None:
        return base_forward(self, **kwargs)

    return_dict = kwargs.pop("return_dict", None)
    kwargs["use_cache"] = False
    if kwargs.get("decoder_input_ids") is None and kwargs.get("decoder_inputs_embeds") is None:
        kwargs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
    out, states = _exit_states(self, base_forward, kwargs)
    labels = labels.to(out.logits.device)
    divisor = normaliser(labels, num_items)
    n_exits = len(self.deed_config.exit_layers)
    # In a conventional training ("last") the other exits are only watched.
    watch_only = self.deed_config.loss == "last"
    losses = []
    for depth, hidden in states.items():
        with torch.set_grad_enabled(torch.is_grad_enabled() and not watch_only):
            losses.append(token_loss_sum(ExitHead(self, depth), hidden, labels, n_exits) / divisor)
    losses.append(token_loss_sum(_as_is, out.logits, labels) / divisor)
    exit_losses = torch.stack([x.to(losses[-1].device) for x in losses])
    loss = combine(exit_losses, self.deed_config.loss)
    result = DeedSeq2SeqLMOutput(**{**out, "loss": loss, "exit_losses": exit_losses.detach()})
    wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
    return result if wants_dict else result.to_tuple()


def _as_is(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


class ExitHead:
    """The head of one exit as a function of its layer's output; knows its vocabulary size."""

    def __init__(self, model: Any, depth: int) -> None:
        self.model, self.depth = model, depth
        self.vocab_size = model.deed_family.vocab_size(model)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.exit_head(self.depth, hidden)


def _exit_states(self: Any, base_forward: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[int, torch.Tensor]]:
    """The base model's own teacher-forced pass and the hidden states of every exit but the last, keyed by depth."""
    wanted = kwargs.pop("output_hidden_states", None)
    out = base_forward(self, **kwargs, output_hidden_states=True, return_dict=True)
    states = out.decoder_hidden_states
    n_layers = len(self.deed_family.layers(self))
    if states is None or len(states) != n_layers + 1:
        raise ValueError(
            "deep supervision needs one hidden state per decoder layer; turn LayerDrop off (config.decoder_layerdrop = 0)"
        )
    if not (wanted if wanted is not None else getattr(self.config, "output_hidden_states", False)):
        hidden = ("decoder_hidden_states", "encoder_hidden_states")
        out = type(out)(**{k: v for k, v in out.items() if k not in hidden})
    return out, {depth: states[depth] for depth in self.deed_config.exit_layers[:-1]}


def _decode_forward(self: Any, kwargs: dict[str, Any]) -> Any:
    encoder_outputs = kwargs.get("encoder_outputs")
    if encoder_outputs is None:
        raise ValueError("decoding with a StaircaseCache needs encoder_outputs")
    if kwargs.get("decoder_input_ids") is None:
        raise ValueError("decoding with a StaircaseCache needs decoder_input_ids (embeddings are not supported)")
    cache = kwargs["past_key_values"]
    encoder_hidden = encoder_outputs[0]
    logits = decode_step(
        self,
        cache,
        kwargs["decoder_input_ids"],
        encoder_hidden,
        kwargs.get("attention_mask"),
        kwargs.get("decoder_attention_mask"),
    )
    return DeedSeq2SeqLMOutput(logits=logits, past_key_values=cache, encoder_last_hidden_state=encoder_hidden)


class DeedMixin:
    """The methods early exit adds to, or overrides on, a Transformers model."""

    accepts_loss_kwargs = True  # Trainer: forward divides by num_items_in_batch itself
    deed_family: DecoderFamily
    deed_config: DeedConfig
    deed_exits: torch.nn.ModuleDict

    def exit_head(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[…, vocab]` of the exit at `depth` from its layer's output `[…, d_model]`: final norm, adaptation
        module, the model's own head."""
        features = self.deed_family.finish(self, hidden)  # type: ignore[arg-type]
        adapter = str(depth)
        if adapter in self.deed_exits:
            features = self.deed_exits[adapter](features)
        return self.deed_family.head(self, features)  # type: ignore[arg-type]

    def exit_logits(self, **inputs: Any) -> torch.Tensor:
        """Logits of every exit, teacher-forced and without a cache: `[n_exits, batch, length, vocab]`.

        Args:
            inputs: what `forward` takes: encoder inputs (or `encoder_outputs`) and `decoder_input_ids`.
        """
        inputs = {**inputs, "use_cache": False}
        out, states = _exit_states(self, type(self).__mro__[2].forward, inputs)  # type: ignore[attr-defined]
        return torch.stack([*(self.exit_head(depth, h) for depth, h in states.items()), out.logits])

    def generate(
        self,
        *args: Any,
        exit_threshold: float | list[float] | torch.Tensor | None = None,
        exit_policy: ExitPolicy | None = None,
        confidence_over: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Transformers' `generate()`, leaving the decoder early.

        Args:
            exit_threshold: overrides `deed_config.threshold`; a tensor `[requests]` is a threshold per request.
            exit_policy: replaces the threshold altogether, e.g. `deed.FixedSchedule([3, 1, 6])`.
            confidence_over: overrides `deed_config.confidence_over`.

        Returns:
            As Transformers; with `return_dict_in_generate=True` the output has `exit_layers`
            `[sequences, new tokens]` and its `past_key_values.stats()` the work done.

        Raises:
            TypeError: a cache that cannot hold a staircase.
            ValueError: an option that early exit does not work with, or a threshold that does not fit.
        """
        policy = self._exit_policy(exit_threshold, exit_policy)
        over = confidence_over or self.deed_config.confidence_over
        if over not in ("all", "allowed"):
            raise ValueError(f"confidence_over must be 'all' or 'allowed', got {over!r}")
        given = kwargs.get("generation_config") or (args[1] if len(args) > 1 else None)
        self._check_generate(kwargs, given)
        cache = kwargs.get("past_key_values")
        if cache is None:
            cache = StaircaseCache(len(self.deed_family.layers(self)), policy, over)  # type: ignore[arg-type]
        elif not isinstance(cache, StaircaseCache):
            raise TypeError(
                f"past_key_values is a {type(cache).__name__}, which cannot hold rows of different depth; leave it out, "
                "or pass the StaircaseCache of an earlier generate()"
            )
        cache.policy, cache.confidence_over = policy, over
        return super().generate(*args, **{**kwargs, "past_key_values": cache, "use_cache": True})  # type: ignore[misc]

    def _exit_policy(self, threshold: Any, policy: ExitPolicy | None) -> ExitPolicy:
        if policy is not None:
            if threshold is not None:
                raise ValueError("pass exit_threshold or exit_policy, not both")
            if not hasattr(policy, "leaves"):
                raise TypeError(f"exit_policy must have a leaves(ask) method, got {type(policy).__name__}")
            return policy
        config = self.deed_config
        value = config.threshold if threshold is None else threshold
        if isinstance(value, (list, tuple)) and len(value) not in (
            len(config.exit_layers or []) - 1,
            len(config.exit_layers or []),
        ):
            raise ValueError(
                f"exit_threshold has {len(value)} values, one per exit before the last is {len(config.exit_layers or []) - 1}"
                " (a threshold per request is a tensor)"
            )
        return ThresholdPolicy(build_confidence(config.confidence), value, config.threshold_decay)

    def _check_generate(self, kwargs: dict[str, Any], generation_config: Any) -> None:
        def asked(name: str) -> Any:
            return kwargs.get(name, getattr(generation_config or self.generation_config, name, None))  # type: ignore[attr-defined]

        if kwargs.get("assistant_model") is not None or asked("prompt_lookup_num_tokens"):
            raise ValueError("assisted decoding and early exit cannot be combined; leave assistant_model out")
        if asked("cache_implementation") not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={asked('cache_implementation')!r} cannot hold rows of different depth; leave it out"
            )
        if asked("prefill_chunk_size"):
            raise ValueError("prefill_chunk_size cannot be combined with early exit; leave it out")
        for name in ("output_attentions", "output_hidden_states"):
            if asked(name):
                raise ValueError(
                    f"{name}=True has no meaning when tokens leave at different depths; use forward() for it"
                )
        implementation = getattr(self.config, "_attn_implementation", "eager")  # type: ignore[attr-defined]
        if implementation not in ("eager", "sdpa"):
            raise ValueError(f"early exit decodes with attn_implementation 'eager' or 'sdpa', not {implementation!r}")

    # Transformers' decoding loops, entered after all preparation: here processors, criteria and rows are known.

    def _sample(self, input_ids: Any, logits_processor: Any, stopping_criteria: Any, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, StaircaseCache):
            return super()._sample(input_ids, logits_processor, stopping_criteria, *args, **kwargs)  # type: ignore[misc]
        has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        self._begin(cache, input_ids.shape[0], logits_processor, has_eos)
        watched = _WatchedCriteria(stopping_criteria, cache)
        result = super()._sample(input_ids, logits_processor, watched, *args, **kwargs)  # type: ignore[misc]
        if isinstance(result, torch.Tensor):
            return result
        depths = torch.tensor(cache.depths, device=result.sequences.device).T
        return DeedGenerateOutput(**result, exit_layers=depths)  # type: ignore[arg-type]

    def _beam_search(self, input_ids: Any, logits_processor: Any, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, StaircaseCache):
            return super()._beam_search(input_ids, logits_processor, *args, **kwargs)  # type: ignore[misc]
        self._begin(cache, input_ids.shape[0], logits_processor, False)
        result = super()._beam_search(input_ids, logits_processor, *args, **kwargs)  # type: ignore[misc]
        if isinstance(result, torch.Tensor):
            return result
        rows = result.beam_indices.long()  # [sequences, new tokens], -1 after the end
        depths = torch.tensor(cache.depths, device=rows.device)
        steps = torch.arange(rows.shape[1], device=rows.device)
        exit_layers = torch.where(rows >= 0, depths[steps, rows.clamp(min=0)], torch.zeros_like(rows))
        return DeedGenerateBeamOutput(**result, exit_layers=exit_layers)  # type: ignore[arg-type]

    def _begin(self, cache: StaircaseCache, n_rows: int, processors: LogitsProcessorList, may_skip: bool) -> None:
        policy = cache.policy
        if isinstance(policy, ThresholdPolicy) and isinstance(policy.threshold, torch.Tensor):
            given = policy.threshold.numel()
            if given == 0 or n_rows % given:
                raise ValueError(f"exit_threshold has {given} values, but {n_rows} rows are decoded")
            policy.threshold = policy.threshold.repeat_interleave(n_rows // given)
        if isinstance(policy, FixedSchedule):
            policy.check_rows(n_rows)
        cache.begin(processors, may_skip)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, StaircaseCache) and cache.constraints:
            cache.token_ids = input_ids
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Transformers' `save_pretrained`, plus `deed_exits.safetensors` and `deed_config` in `config.json`. The folder
        still loads as the plain model."""
        saving.save_pretrained(self, super().save_pretrained, save_directory, *args, **kwargs)  # type: ignore[misc]


class _WatchedCriteria(StoppingCriteriaList):
    """Stopping criteria that tell the cache which rows are done."""

    def __init__(self, criteria: StoppingCriteriaList, cache: StaircaseCache) -> None:
        super().__init__(criteria)
        self.cache = cache

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = super().__call__(input_ids, scores, **kwargs)
        self.cache.note_finished(done.tolist())
        return done
