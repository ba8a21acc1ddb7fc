"""Low-rank additions to a decoder's linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685), by peft: added, merged, saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from deed.errors import DeedConfigError

NAME = "default"  # peft's name of an adapter that has none


def add_lora(model: Any, rank: int) -> Any:
    """Put LoRA on every linear layer of the decoder's layers, exits' own apart; at first it changes nothing.

    Args:
        model: a deed model; changed in place. What was frozen stays so, the additions learn.
        rank: of the additions; scaled by 2.

    Returns:
        peft's configuration.

    Raises:
        DeedConfigError: peft is not installed, or there are no linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise DeedConfigError("--recipe lora needs peft: pip install deed-transformers[peft]") from None
    inside = {
        id(m) for layer in model.deed_family.layers(model) for m in layer.modules() if type(m) is torch.nn.Linear
    }
    targets = [name for name, module in model.named_modules() if id(module) in inside]
    if not targets:
        raise DeedConfigError(f"the decoder of {type(model).__name__} has no linear layers for LoRA")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, p in model.named_parameters():  # peft freezes all else, exits too
        p.requires_grad_(id(p) in trainable or "lora_" in name)
    return config


def lora_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The additions of a model with LoRA, under the names that peft's files have."""
    return {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": p.detach().clone().contiguous()
        for name, p in model.named_parameters()
        if "lora_" in name
    }


def write_lora(tensors: Mapping[str, torch.Tensor], config: Any, base: str, folder: Path) -> None:
    """Write an adapter that peft and Transformers (`model.load_adapter`) read.

    Args:
        tensors: of `lora_tensors`.
        config: of `add_lora`.
        base: the untouched model's folder, for readers.
        folder: made here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
    config.inference_mode = False


def take_out_lora(model: Any, merge: bool) -> None:
    """Take peft's layers out of a model.

    Args:
        model: with LoRA; changed in place.
        merge: add the additions to the weights; else the model is as it was before.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            if merge:
                module.merge()  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(leftover, None)
