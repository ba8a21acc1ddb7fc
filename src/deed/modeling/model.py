"""`get_deed_model`: puts early exit on a Transformers encoder-decoder model, which keeps its class and its methods.

The model's class becomes a subclass of what it was (isinstance, `generate()`, `Trainer` and the saved `architectures`
stay as they were); what is added is `deed_config`, `deed_exits` (the adaptation modules) and the methods below.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import TYPE_CHECKING, Any, overload

import torch

from deed.config import DeedConfig
from deed.engine.cuda_graphs import KEPT as GRAPHS
from deed.exits.adapters import build_adapters
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.exits.draft_head import new_draft_head
from deed.exits.head_rows import HeadCopies
from deed.exits.heads import exit_logits_of
from deed.families import DecoderFamily, family_of

from . import exits_folder, saving
from .classes import model_class
from .forward import LOSS, deed_forward, exit_states
from .generation import EarlyExitGeneration

DRAFT_PREFIX = f"{saving.PREFIX}{DRAFT_HEAD}."

if TYPE_CHECKING:
    from transformers import (
        BartForConditionalGeneration,
        MT5ForConditionalGeneration,
        PreTrainedModel,
        T5ForConditionalGeneration,
        WhisperForConditionalGeneration,
    )
    from typing_extensions import Self

    from .typed import DeedBart, DeedMT5, DeedPreTrainedModel, DeedT5, DeedWhisper


@overload
def get_deed_model(model: T5ForConditionalGeneration, config: DeedConfig | None = None) -> DeedT5: ...  # type: ignore[overload-overlap]
@overload
def get_deed_model(model: MT5ForConditionalGeneration, config: DeedConfig | None = None) -> DeedMT5: ...  # type: ignore[overload-overlap]
@overload
def get_deed_model(model: BartForConditionalGeneration, config: DeedConfig | None = None) -> DeedBart: ...  # type: ignore[overload-overlap]
@overload
def get_deed_model(model: WhisperForConditionalGeneration, config: DeedConfig | None = None) -> DeedWhisper: ...  # type: ignore[overload-overlap]
@overload
def get_deed_model(model: PreTrainedModel, config: DeedConfig | None = None) -> DeedPreTrainedModel: ...
def get_deed_model(model: Any, config: DeedConfig | None = None) -> Any:
    """Put early exit on `model`, in place, and return it: still of its class, with the methods of `DeedMixin` (what type
    checkers are told of it: modeling/typed.py).

    Args:
        model: an encoder-decoder `PreTrainedModel` with a registered decoder family.
        config: defaults to `DeedConfig()`: every layer an exit, residual linear adapters, threshold 0.9.

    Raises:
        TypeError: no model, no family for its class, it is a deed model already, or it is spread over devices by hooks.
        DeedConfigError: the configuration does not fit the decoder.

    Example:
        ```python
        from transformers import AutoModelForSeq2SeqLM

        hf_model = AutoModelForSeq2SeqLM.from_pretrained("google-t5/t5-small")
        model = deed.get_deed_model(hf_model, deed.DeedConfig(exit_layers=[2, 4], threshold=0.9))
        assert model.deed_config.exit_layers == [2, 4, 6]  # the last layer is always an exit
        ```
    """
    if isinstance(model, str):
        raise TypeError(
            f"get_deed_model takes a model, not a name: load it first (AutoModelForSeq2SeqLM.from_pretrained({model!r})), or "
            f"use deed.from_pretrained({model!r}) for one saved with early exit"
        )
    if isinstance(model, DeedMixin):
        raise TypeError("this model has early exit already; change model.deed_config, or start from the plain model")
    if hasattr(model, "_hf_hook"):
        raise TypeError("accelerate's hooks (device_map over several devices) bypass early exit; load onto one device")
    family = family_of(model)
    n_layers = len(family.layers(model))
    resolved = (config or DeedConfig()).resolve(n_layers)
    layers: Any = family.layers(model)
    depths: list[int] = (resolved.exit_layers or [])[:-1]
    adapters = build_adapters(
        resolved.adapter, depths, family.d_model(model), resolved.adapter_dim, layers, resolved.adapter_shared
    )
    if resolved.adapter != "layer":  # a copy is like its original
        reference = next(layers.parameters())
        adapters.to(device=reference.device, dtype=reference.dtype)
    if resolved.draft_head is not None:
        adapters[DRAFT_HEAD] = new_draft_head(model, family, resolved.draft_head)
    model.__class__ = deed_class(type(model))  # type: ignore[arg-type]
    model.deed_family = family
    model.deed_exits = adapters
    model.deed_config = resolved
    model.deed_head_copies = HeadCopies()
    ignored = list(getattr(model.config, "keys_to_ignore_at_inference", None) or [])
    model.config.keys_to_ignore_at_inference = [*ignored, *({"exit_losses"} - set(ignored))]
    model.train(model.training)
    return model


@overload
def unwrap(model: DeedT5) -> T5ForConditionalGeneration: ...
@overload
def unwrap(model: DeedMT5) -> MT5ForConditionalGeneration: ...
@overload
def unwrap(model: DeedBart) -> BartForConditionalGeneration: ...
@overload
def unwrap(model: DeedWhisper) -> WhisperForConditionalGeneration: ...
@overload
def unwrap(model: DeedPreTrainedModel) -> PreTrainedModel: ...
def unwrap(model: Any) -> Any:
    """Take early exit off `model` again, in place, and return it: the plain class, with the weights it has.

    The exits' own weights are dropped (save the model first where they are still needed), the configuration forgets them, and
    a backbone frozen by `freeze_backbone` is trainable again as it was.

    Raises:
        TypeError: a model without early exit.

    Example:
        ```python
        plain = deed.unwrap(model)  # the plain class again, its weights unchanged
        tokens = plain.generate(**inputs, max_new_tokens=8)
        ```
    """
    if not isinstance(model, DeedMixin):
        raise TypeError(f"{type(model).__name__} has no early exit to take off; it is not from get_deed_model")
    base, config = type(model).deed_base, model.config  # type: ignore[attr-defined]
    for name, trainable in (model.deed_trainable or {}).items():
        model.get_parameter(name).requires_grad_(trainable)  # type: ignore[attr-defined]
    training = model.training  # type: ignore[attr-defined]
    for name in (
        "deed_exits",
        "deed_family",
        "deed_config",
        "deed_head_copies",
        "deed_backbone_frozen",
        "deed_trainable",
        "deed_exits_from",
    ):
        if name in vars(model) or name in model._modules:  # type: ignore[attr-defined]
            delattr(model, name)
    vars(model).pop(GRAPHS, None)
    model.__class__ = base  # type: ignore[assignment]
    model.train(training)  # type: ignore[attr-defined, misc]
    vars(config).pop("deed_config", None)
    ignored = [key for key in config.keys_to_ignore_at_inference or [] if key != "exit_losses"]
    if ignored == list(getattr(type(config), "keys_to_ignore_at_inference", None) or []):
        vars(config).pop("keys_to_ignore_at_inference", None)
    else:
        config.keys_to_ignore_at_inference = ignored
    return model


@functools.cache
def deed_class(base: Any) -> type:
    """The early-exit subclass of a Transformers model class; same `__name__`, so that what goes by names still works."""

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return deed_forward(self, base, args, kwargs)

    signature = inspect.signature(base.forward)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in LOSS.items()
    ]
    parameters = list(signature.parameters.values())
    at = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    forward.__signature__ = signature.replace(parameters=[*parameters[:at], *extra, *parameters[at:]])  # type: ignore[attr-defined]
    names = {
        "forward": forward,
        "deed_base": base,
        "__module__": __name__,
        "__qualname__": f"Deed{base.__name__}",
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (DeedMixin, base), names)


def __getattr__(name: str) -> type:
    # Lets pickle find DeedT5ForConditionalGeneration and the like in a fresh process.
    base = model_class(name[4:]) if name.startswith("Deed") else None
    if isinstance(base, type):
        return deed_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class DeedMixin(EarlyExitGeneration):
    """The methods early exit adds to, or overrides on, a Transformers model (generation: generation.py)."""

    accepts_loss_kwargs = True  # Trainer: forward divides by num_items_in_batch itself
    deed_base: type  # the plain model's class
    deed_family: DecoderFamily
    deed_config: DeedConfig
    deed_exits: torch.nn.ModuleDict
    deed_head_copies: HeadCopies
    deed_backbone_frozen = False
    deed_trainable: dict[str, bool] | None = None  # of base parameters, before they were frozen
    deed_exits_from: str | None = None  # where the exits were loaded from; None: they were made here

    def exit_head(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[…, vocab]` of the exit at `depth` from its layer's output `[…, d_model]`: final norm, adaptation
        module, the model's own head.

        Args:
            depth: 1-based; one of `deed_config.exit_layers`.
            hidden: any leading axes; the model's dtype.

        Raises:
            ValueError: `adapter="layer"`, whose exits need the positions before.
        """
        if self.deed_config.adapter == "layer" and depth != self.deed_config.exit_layers[-1]:  # type: ignore[index]
            raise ValueError(
                'exit_head: with adapter="layer" an exit reads the positions before as well; use exit_logits(**inputs)'
            )
        return exit_logits_of(self, depth, hidden)

    def exit_logits(self, **inputs: Any) -> torch.Tensor:
        """Logits of every exit, teacher-forced and without a cache: `[n_exits, batch, length, vocab]`.

        Args:
            inputs: what `forward` takes: encoder inputs (or `encoder_outputs`) and `decoder_input_ids`.

        Example:
            ```python
            logits = model.exit_logits(**inputs, decoder_input_ids=labels)
            assert logits.shape[:3] == (len(model.deed_config.exit_layers), *labels.shape)
            agree = logits.argmax(-1) == logits[-1].argmax(-1)  # where each exit's best token is the last exit's
            ```
        """
        inputs = {**inputs, "use_cache": False}
        out, states = exit_states(self, type(self).deed_base.forward, inputs)  # type: ignore[attr-defined]
        return torch.stack([*(exit_logits_of(self, depth, h) for depth, h in states.items()), out.logits])

    def freeze_backbone(self) -> None:
        """Train the adaptation modules only: every base tensor, and so full-depth output, stays bit for bit what it is (a
        draft head, too: it is fitted afterwards).
        The backbone also stays in evaluation mode, so that self-distillation has a teacher without dropout."""
        parameters = dict(self.named_parameters())  # type: ignore[attr-defined]
        if self.deed_trainable is None:
            self.deed_trainable = {
                n: p.requires_grad for n, p in parameters.items() if not n.startswith(saving.PREFIX)
            }
        for name, parameter in parameters.items():
            parameter.requires_grad_(name.startswith(saving.PREFIX) and not name.startswith(DRAFT_PREFIX))
        self.deed_backbone_frozen = True
        self.train(self.training)  # type: ignore[attr-defined, has-type]

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen backbone stays in evaluation mode."""
        super().train(mode)  # type: ignore[misc]
        if self.deed_backbone_frozen:
            for name, child in self.named_children():  # type: ignore[attr-defined]
                if name != "deed_exits":
                    child.eval()
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Transformers' `save_pretrained`, plus `deed_exits.safetensors` and `deed_config` in `config.json`. The folder
        still loads as the plain model.

        Args:
            save_directory: made where it does not exist.
            args: as Transformers takes them.
            kwargs: as Transformers takes them.

        Raises:
            DeedLoadError: `save_directory` is a file.
        """
        saving.save_pretrained(self, super().save_pretrained, save_directory, *args, **kwargs)  # type: ignore[misc]

    def save_exits(self, folder: str | os.PathLike[str], dtype: Any = None) -> None:
        """Save the exits alone: their parameters, `deed_config` with thresholds and calibration, and which base weights they
        belong to. `deed.load_exits(base, folder)` puts them on that base again.

        Args:
            folder: made where it does not exist; not that of a whole model.
            dtype: of the saved tensors, such as `torch.float16`; None: as they are. Calibrate with what was loaded again where
                thresholds are to hold for rounded exits.

        Raises:
            DeedLoadError: `folder` is a file, or holds a whole model.
            ValueError: another dtype, numbers too large for it, or an int8 model.
        """
        exits_folder.save_exits(self, folder, dtype)
