"""What `forward` of a deed model does: the teacher-forced pass with a loss at every exit, and decoding steps."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from deed.constants import IGNORE_INDEX
from deed.engine.cache import StaircaseCache
from deed.engine.step import decode_step
from deed.exits.branches import branches_of, watched
from deed.exits.heads import own_logits_of

from .loss import check_allowed, combine, normalizer, token_loss_sum
from .outputs import DeedSeq2SeqLMOutput, with_exit_losses

# What `forward` takes beside the base class's own, for the loss: what its sums are divided by; per label the tokens it is
# chosen from (`loss.token_loss_sum`), as in a trie of answers; and the share of probability that goes to the others of them
# (Trainer would take a name with "label" in it for a column of labels).
LOSS: dict[str, Any] = {"num_items_in_batch": None, "allowed_tokens": None, "smoothing": 0.0}


def deed_forward(self: Any, base: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`forward` of a deed model: a decoding step, with labels the deep supervision's loss, otherwise the base's own.

    Args:
        self: a deed model.
        base: the plain class.
        args: positional arguments, in the order of the base's `forward`.
        kwargs: the others, those in `LOSS` among them.

    Raises:
        ValueError: arguments that early exit does not take, or labels that are missing.
    """
    base_forward = base.forward  # type: ignore[attr-defined]
    if args:
        names = [n for n in inspect.signature(base_forward).parameters if n != "self"]
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(kwargs.get("past_key_values"), StaircaseCache):
        return _decode_forward(self, kwargs)
    labels = kwargs.pop("labels", None)
    num_items, allowed, smoothing = (kwargs.pop(name, default) for name, default in LOSS.items())
    if labels is None:
        if num_items is not None:  # Trainer counts labels, and then keeps them to itself
            raise ValueError(
                "the labels were taken away from the model, so its exits would not be trained: set label_smoothing_factor "
                "to 0 and leave compute_loss_func out, or smooth labels with DeedTrainer, which does so at every exit"
            )
        return base_forward(self, **kwargs)

    return_dict = kwargs.pop("return_dict", None)
    kwargs["use_cache"] = False
    if kwargs.get("decoder_input_ids") is None and kwargs.get("decoder_inputs_embeds") is None:
        if hasattr(self, "prepare_decoder_input_ids_from_labels"):
            shifted = kwargs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
            if self.deed_family.hides_padding and kwargs.get("decoder_attention_mask") is None:
                kwargs["decoder_attention_mask"] = (shifted != self.config.pad_token_id).to(shifted.dtype)
        else:  # the base shifts them itself; its loss is not used
            kwargs["labels"] = labels
    out, states = exit_states(self, base_forward, kwargs)
    labels = labels.to(out.logits.device)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    if allowed is not None:
        check_allowed(allowed, labels, out.logits.shape[-1])
    divisor = normalizer(labels, num_items)
    n_exits = len(self.deed_config.exit_layers)
    kind = self.deed_config.loss
    # Selected once: every exit keeps its targets until the backward pass.
    teacher = out.logits.detach()[labels != IGNORE_INDEX] if kind == "distill" else None
    losses = []
    for depth, hidden in states.items():
        # In a conventional training ("last") the other exits are only watched.
        with torch.set_grad_enabled(torch.is_grad_enabled() and kind != "last"):
            head = ExitHead(self, depth)
            losses.append(token_loss_sum(head, hidden, labels, n_exits, teacher, allowed, smoothing) / divisor)
    last = token_loss_sum(_as_is, out.logits, labels, allowed=allowed, smoothing=smoothing)
    losses.append(last / divisor)
    exit_losses = torch.stack([x.to(losses[-1].device) for x in losses])
    loss = combine(exit_losses, kind)
    made: Any = type(out)
    result = with_exit_losses(made)(**{**out, "loss": loss, "exit_losses": exit_losses})
    wants_dict = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
    return result if wants_dict else result.to_tuple()


def _as_is(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


class ExitHead:
    """The model's own head on the state of one exit (`exit_states`), as a function; knows its vocabulary size. Also where
    exits have a draft head, which is fitted to what this one says."""

    def __init__(self, model: Any, depth: int) -> None:
        self.model, self.depth = model, depth
        self.vocab_size = model.deed_family.vocab_size(model)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return own_logits_of(self.model, self.depth, hidden)


def exit_states(self: Any, base_forward: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[int, torch.Tensor]]:
    """The base model's own teacher-forced pass and the hidden states of every exit but the last, keyed by depth: its layer's
    output, with `adapter="layer"` what the exit's own layer makes of it.

    Args:
        self: a deed model.
        base_forward: the plain class's `forward`.
        kwargs: its arguments.

    Raises:
        ValueError: layers were dropped, so that states are missing.
    """
    wanted = kwargs.pop("output_hidden_states", None)
    layers, own = self.deed_family.layers(self), branches_of(self)
    if own:
        with watched(layers[-1]) as call:
            out = base_forward(self, **kwargs, output_hidden_states=True, return_dict=True)
    else:
        out = base_forward(self, **kwargs, output_hidden_states=True, return_dict=True)
    states, n_layers = out.decoder_hidden_states, len(layers)
    if states is None or len(states) != n_layers + 1:
        raise ValueError(
            "deep supervision needs one hidden state per decoder layer; turn LayerDrop off (config.decoder_layerdrop = 0)"
        )
    if not (wanted if wanted is not None else getattr(self.config, "output_hidden_states", False)):
        hidden = ("decoder_hidden_states", "encoder_hidden_states")
        out = type(out)(**{k: v for k, v in out.items() if k not in hidden})
    found = {depth: states[depth] for depth in self.deed_config.exit_layers[:-1]}
    if own:
        # In a conventional training ("last") the exits are only watched.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.deed_config.loss != "last"):
            found = {d: call.again(layer, h) for layer, (d, h) in zip(own, found.items(), strict=True)}
    return out, found


def _decode_forward(self: Any, kwargs: dict[str, Any]) -> Any:
    encoder_outputs = kwargs.get("encoder_outputs")
    if encoder_outputs is None:
        raise ValueError("decoding with a StaircaseCache needs encoder_outputs")
    if kwargs.get("decoder_input_ids") is None:
        raise ValueError("decoding with a StaircaseCache needs decoder_input_ids (embeddings are not supported)")
    known = {*_DECODE_INPUTS, *self.deed_family.passes}
    unused = sorted(k for k, v in kwargs.items() if v is not None and k not in known)
    if unused:  # what the encoder was given comes along (token types, options of a ViT): it has been read
        unused = sorted(set(unused) - set(inspect.signature(self.get_encoder().forward).parameters))
    if unused:
        raise ValueError(f"decoding with early exit does not take {', '.join(unused)}")
    for name in ("output_attentions", "output_hidden_states"):
        if kwargs.get(name):
            raise ValueError(f"a step with a StaircaseCache leaves layers out: {name} needs forward() without a cache")
    cache = kwargs["past_key_values"]
    if cache.state is None:  # no generate() around: whoever calls forward() step by step
        cache.begin(self, encoder_outputs, encoder_mask=kwargs.get("attention_mask"))
    logits = decode_step(cache, kwargs["decoder_input_ids"], kwargs.get("decoder_attention_mask"))
    # Copied, so that the caller may write into them: a step's tensors are inference tensors.
    return DeedSeq2SeqLMOutput(
        logits=logits.clone(), past_key_values=cache, encoder_last_hidden_state=encoder_outputs[0]
    )


# What a decoding step reads, and what generate() passes along that changes nothing here.
_DECODE_INPUTS = {
    "encoder_outputs",
    "past_key_values",
    "decoder_input_ids",
    "attention_mask",
    "decoder_attention_mask",
    "input_ids",
    "inputs_embeds",
    "use_cache",
    "logits_to_keep",  # a step gives the newest position's
    "return_dict",
    "output_attentions",
    "output_hidden_states",  # T5Gemma's: 1
}
