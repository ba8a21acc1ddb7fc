"""What a call of `generate()` asks for: the exit policy that its threshold makes, and arguments that early exit refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from deed.engine.cache import StaircaseCache
from deed.policies.measures import build_confidence
from deed.policies.policy import ExitPolicy, ThresholdPolicy

from . import whisper


def exit_policy_of(model: Any, threshold: Any = None, policy: ExitPolicy | None = None) -> ExitPolicy:
    """The policy that rows of a generation leave by.

    Args:
        model: a deed model.
        threshold: `exit_threshold` of `generate()`; None: the model's own.
        policy: `exit_policy` of `generate()`, which takes the threshold's place.

    Raises:
        TypeError: something that is not a policy.
        ValueError: both are given, or a list of thresholds that is not one per exit.
    """
    if policy is not None:
        if threshold is not None:
            raise ValueError("pass exit_threshold or exit_policy, not both")
        if not hasattr(policy, "leaves"):
            raise TypeError(f"exit_policy must have a leaves(query) method, got {type(policy).__name__}")
        if hasattr(policy, "check_layers"):
            policy.check_layers(len(model.deed_family.layers(model)))
        return policy
    config = model.deed_config
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


def check_arguments(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse what early exit does not work with, before Transformers acts on it.

    Args:
        model: a deed model.
        args, kwargs: of `generate()`, without what is deed's own; what they leave out, its generation config says.

    Raises:
        TypeError: a cache that cannot hold a staircase.
        ValueError: an argument that early exit cannot be combined with.
    """
    given = next((c for c in (kwargs.get("generation_config"), *args) if isinstance(c, GenerationConfig)), None)

    def asked(name: str) -> Any:
        if name in kwargs:
            return kwargs[name]
        value = getattr(given, name, None)
        return getattr(model.generation_config, name, None) if value is None else value

    cache = kwargs.get("past_key_values")
    if cache is not None and not isinstance(cache, StaircaseCache):
        raise TypeError(
            f"past_key_values is a {type(cache).__name__}, which cannot hold rows of different depth; leave it out, "
            "or pass the StaircaseCache of an earlier generate()"
        )
    if cache is not None and asked("use_cache") is False:
        raise ValueError("use_cache=False keeps nothing from step to step; leave past_key_values out")
    if cache is not None and whisper.splits_outputs(model):
        raise ValueError(
            "Whisper's generate() decodes piece after piece, each with a cache of its own; leave past_key_values out"
        )
    if kwargs.get("assistant_model") is not None or asked("prompt_lookup_num_tokens"):
        raise ValueError("assisted decoding and early exit cannot be combined; leave assistant_model out")
    if asked("assistant_early_exit"):
        raise ValueError(
            "assistant_early_exit drafts with the first layers of a plain model; here tokens leave early by themselves: "
            "leave it out and use exit_threshold"
        )
    if model.deed_family.decoder(model).training and getattr(model, "is_activation_checkpointing", False):
        raise ValueError("gradient checkpointing has no cache in training mode: call model.eval() before generate()")
    if asked("cache_implementation") not in (None, "dynamic"):
        raise ValueError(
            f"cache_implementation={asked('cache_implementation')!r} cannot hold rows of different depth; leave it out"
        )
    if asked("prefill_chunk_size"):
        raise ValueError("prefill_chunk_size cannot be combined with early exit; leave it out")
    if kwargs.get("decoder_inputs_embeds") is not None:
        raise ValueError("decoder_inputs_embeds cannot be combined with early exit; pass decoder_input_ids")
    for name in ("output_attentions", "output_hidden_states"):
        if asked(name):
            raise ValueError(f"{name}=True has no meaning when tokens leave at different depths; use forward() for it")
    implementation = model.deed_family.attention(model)
    if implementation not in ("eager", "sdpa"):
        raise ValueError(f"early exit decodes with attn_implementation 'eager' or 'sdpa', not {implementation!r}")
    for name in ("use_mtp", "custom_generate", "is_assistant"):
        if asked(name):
            raise ValueError(f"{name} brings a decoding loop of its own, which knows no exits; leave it out")
