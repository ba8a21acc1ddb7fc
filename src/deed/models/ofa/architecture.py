"""How a released OFA is built: its configuration from fairseq's arguments or the port's `config.json`.

Arguments come first, then what the architecture's name stands for, then the tensors' shapes; the converter compares the
outcome with every tensor. What no tensor shows (`disable_entangle`, scales, bucket rules) is as the original's code
defaults it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from .configuration_ofa import RESNET_DEPTHS, OFAConfig
from .names import SHARED, TIED

# Configuration field: fairseq's argument.
ARGUMENTS = {
    "d_model": "encoder_embed_dim",
    "encoder_ffn_dim": "encoder_ffn_embed_dim",
    "encoder_layers": "encoder_layers",
    "encoder_attention_heads": "encoder_attention_heads",
    "decoder_ffn_dim": "decoder_ffn_embed_dim",
    "decoder_layers": "decoder_layers",
    "decoder_attention_heads": "decoder_attention_heads",
    "max_position_embeddings": "max_source_positions",
    "token_bucket_size": "token_bucket_size",
    "image_bucket_size": "image_bucket_size",
    "resnet_type": "resnet_type",
    "scale_attn": "scale_attn",
    "scale_fc": "scale_fc",
    "scale_heads": "scale_heads",
    "scale_resids": "scale_resids",
    "add_type_embedding": "add_type_embedding",
    "layernorm_embedding": "layernorm_embedding",
    "patch_layernorm_embedding": "patch_layernorm_embedding",
    "code_layernorm_embedding": "code_layernorm_embedding",
    "encoder_normalize_before": "encoder_normalize_before",
    "decoder_normalize_before": "decoder_normalize_before",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "encoder_layerdrop",
    "decoder_layerdrop": "decoder_layerdrop",
    "encoder_drop_path_rate": "encoder_drop_path_rate",
    "decoder_drop_path_rate": "decoder_drop_path_rate",
    "resnet_drop_path_rate": "resnet_drop_path_rate",
    "activation_function": "activation_fn",
    "attn_scale_factor": "attn_scale_factor",
    "code_image_size": "code_image_size",
    "orig_patch_image_size": "orig_patch_image_size",
    "interpolate_position": "interpolate_position",
    "entangle_position_embedding": "entangle_position_embedding",
    "disable_entangle": "disable_entangle",
}
# What the original's code takes where an argument is missing and no tensor shows it. The decoder then adds positions to
# its input: only disable_entangle, which the released scripts set, keeps them out.
DEFAULTS: dict[str, Any] = {
    "disable_entangle": False,
    "entangle_position_embedding": False,
    "interpolate_position": False,
    "attn_scale_factor": 2.0,
    "activation_function": "gelu",
    "code_image_size": 128,
    "orig_patch_image_size": 256,
    "dropout": 0.0,
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
}
SIZES = ("d_model", "encoder_ffn_dim", "decoder_ffn_dim", "encoder_layers", "decoder_layers")
# Settings of the original that change the model and that this one does not have.
REFUSED = (
    "no_cross_attention",
    "cross_self_attention",
    "encoder_prompt",
    "decoder_prompt",
    "adapter",
    "adaptive_input",
    "no_token_positional_embeddings",
)
# Pixels of the released models' pictures, by width, where nothing says (their model cards).
IMAGE_SIZES = {256: 256, 512: 256, 768: 384, 1024: 480, 1280: 480}


def config_from_arguments(values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> OFAConfig:
    """From a fairseq checkpoint's arguments and its tensors, by the port's names.

    Raises:
        ValueError: an architecture that this model does not have; names the argument.
    """
    for name in REFUSED:
        if values.get(name):
            raise ValueError(f"{name} is set in the checkpoint's arguments; OFA here has no such thing")
    given = {field: values[arg] for field, arg in ARGUMENTS.items() if values.get(arg) is not None}
    if str(given.get("resnet_type", "resnet50")) not in RESNET_DEPTHS:
        raise ValueError(f"resnet_type must be one of {', '.join(RESNET_DEPTHS)}, got {given['resnet_type']!r}")
    targets = values.get("max_target_positions")
    if targets is not None and targets != given.get("max_position_embeddings", targets):
        raise ValueError(
            f"max_source_positions ({given['max_position_embeddings']}) and max_target_positions ({targets}) must be equal"
        )
    if values.get("no_scale_embedding") is not None:
        given["scale_embedding"] = not values["no_scale_embedding"]
    # Synchronized batch norms of the original have another eps, and come before frozen ones.
    sync = bool(values.get("sync_bn"))
    given["batch_norm_eps"] = 1e-3 if sync else 1e-5
    given["freeze_resnet"] = bool(values.get("freeze_resnet")) and not sync
    shown = _from_tensors(tensors)
    named = _from_name(values.get("arch") or values.get("_name"))
    # The vocabulary is the dictionary's, which is not in the file: its size is the embedding's.
    fields = {**DEFAULTS, **shown, **named, **given, "vocab_size": shown.get("vocab_size", values.get("vocab_size"))}
    fields["normformer"] = bool(fields["scale_attn"] and fields["scale_fc"])
    return _build(fields)


def config_from_port(values: Mapping[str, Any]) -> OFAConfig:
    """From a port folder's `config.json`; fields that this model does not know are left out.

    Raises:
        ValueError: a field with a wrong value.
    """
    known = {name for name, kind in OFAConfig.__annotations__.items() if not str(kind).startswith("ClassVar")}
    fields = {name: value for name, value in values.items() if name in known and value is not None}
    # The port adds positions to the decoder's input only where it does so to the encoder's, and has no field for it.
    fields.setdefault("disable_entangle", not fields.get("entangle_position_embedding", False))
    return _build(fields)


def image_size_of(values: Mapping[str, Any], config: OFAConfig) -> int:
    """Side of the pictures in pixels: the task's `patch_image_size`, or the released model's of that width."""
    size = values.get("patch_image_size")
    return (
        size if isinstance(size, int) and size > 0 else IMAGE_SIZES.get(config.d_model, config.orig_patch_image_size)
    )


KINDS: dict[str, Any] = {
    "int": int,
    "bool": (bool, int),
    "bool | None": (bool, int),
    "float | int": (float, int),
    "str": str,
}


def _build(fields: dict[str, Any]) -> OFAConfig:
    for name, value in fields.items():
        kind = str(OFAConfig.__annotations__.get(name))
        if not isinstance(value, KINDS.get(kind, object)) or (
            kind != "bool" and kind != "bool | None" and value is True
        ):
            raise ValueError(f"{ARGUMENTS.get(name, name)} must be of type {kind}, got {value!r}")
    for name in (*SIZES, "encoder_attention_heads", "decoder_attention_heads", "vocab_size"):
        most = 1000 if name.endswith("layers") else 10_000_000  # before a model of that size is built
        if not 1 <= fields.get(name, 1) <= most:
            raise ValueError(f"{ARGUMENTS.get(name, name)} must be from 1 to {most}, got {fields[name]}")
    return OFAConfig(**fields, architectures=["OFAForConditionalGeneration"], dtype="float32")


def _from_name(name: Any) -> dict[str, Any]:
    """Sizes of `ofa_base` and the like; nothing for other names."""
    preset = str(name).removeprefix("ofa_")
    if preset not in OFAConfig.PRESETS:
        return {}
    config = OFAConfig.preset(preset)
    heads = ("encoder_attention_heads", "decoder_attention_heads", "resnet_type")
    return {field: getattr(config, field) for field in (*SIZES, *heads)}


def _from_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What shapes and names show; nothing for tensors that are missing."""
    shown: dict[str, Any] = {}

    def size(name: str, dim: int) -> int | None:
        tensor = tensors.get(name)
        return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else None

    def put(field: str, value: int | None) -> None:
        if value is not None:
            shown[field] = value

    # Three names of one tensor, one of which may be what is wrong with the file.
    embeddings = Counter(tuple(tensors[name].shape) for name in (SHARED, *TIED) if name in tensors)
    rows_and_width = next((shape for shape, _ in embeddings.most_common() if len(shape) == 2), None)
    if rows_and_width is not None:
        shown |= {"vocab_size": rows_and_width[0], "d_model": rows_and_width[1]}
    for side in ("encoder", "decoder"):
        put(f"{side}_ffn_dim", size(f"{side}.layers.0.fc1.weight", 0))
        put(f"{side}_attention_heads", size(f"{side}.token_rel_pos_table_list.0.weight", 1))
        put(f"{side}_layers", _count(tensors, f"{side}.layers.") or None)
    rows = size("encoder.embed_positions.weight", 0)
    put("max_position_embeddings", None if rows is None else rows - 2)
    rows = size("encoder.token_rel_pos_table_list.0.weight", 0)
    put("token_bucket_size", None if rows is None else (rows + 1) // 2)
    rows = size("encoder.embed_image_positions.weight", 0)
    put("image_bucket_size", None if rows is None else math.isqrt(max(0, rows - 1)))
    depths = [_count(tensors, f"encoder.embed_images.layer{stage}.") for stage in (1, 2, 3)]
    named = [name for name, known in RESNET_DEPTHS.items() if known == depths and name != "resnet34"]
    shown |= {"resnet_type": named[0]} if named else {}
    layer = "encoder.layers.0."
    shown["scale_attn"] = f"{layer}self_attn_mid_layer_norm.weight" in tensors
    shown["scale_fc"] = f"{layer}ffn_layer_norm.weight" in tensors
    shown["scale_heads"] = f"{layer}self_attn.c_attn" in tensors
    shown["scale_resids"] = f"{layer}w_resid" in tensors
    for name in ("layernorm_embedding", "patch_layernorm_embedding"):
        shown[name] = f"encoder.{name}.weight" in tensors
    shown["code_layernorm_embedding"] = "decoder.code_layernorm_embedding.weight" in tensors
    shown["add_type_embedding"] = "encoder.type_embedding.weight" in tensors
    return shown


def _count(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)}
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


__all__ = ["config_from_arguments", "config_from_port", "image_size_of"]
