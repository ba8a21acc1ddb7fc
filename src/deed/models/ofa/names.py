"""Names of OFA's tensors: the original's (fairseq) and the Transformers port's, which are ours, there and back.

They differ in six modules of a layer. Beside the weights the original keeps index tables as buffers; this model computes
them, so they are dropped on the way here and made anew on the way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .configuration_ofa import OFAConfig
from .positions import BEYOND_CODES, code_ids, image_relative, token_relative

# (side, original, port), all inside `<side>.layers.<n>.`
RENAMED = (
    ("encoder", "attn_ln", "self_attn_mid_layer_norm"),
    ("encoder", "ffn_layernorm", "ffn_layer_norm"),
    ("decoder", "self_attn_ln", "self_attn_mid_layer_norm"),
    ("decoder", "cross_attn_ln", "cross_attn_mid_layer_norm"),
    ("decoder", "encoder_attn", "cross_attn"),
    ("decoder", "encoder_attn_layer_norm", "cross_attn_layer_norm"),
    ("decoder", "ffn_layernorm", "ffn_layer_norm"),
)
TO_PORT = {(side, original): port for side, original, port in RENAMED}
TO_ORIGINAL = {(side, port): original for side, original, port in RENAMED}
INSIDE = re.compile(r"(encoder|decoder)(\.layers\.\d+\.)([^.]+)(.*)")

SHARED = "encoder.embed_tokens.weight"
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # the same tensor as SHARED
COUNTER = "num_batches_tracked"
POSITIONS = 1024  # side of the original's table of text distances, whatever the model's longest text
CODES_BEYOND = 769  # entries after the grid in the original's table of code positions; the port has 768
VERSION = 3.0


def to_port(name: str) -> str:
    """An original name as the port has it; the port's own come out as they are."""
    return _rename(name, TO_PORT)


def to_original_name(name: str) -> str:
    """A name of this model (or the port) as the original has it."""
    return _rename(name, TO_ORIGINAL)


def _rename(name: str, table: Mapping[tuple[str, str], str]) -> str:
    found = INSIDE.fullmatch(name)
    if found is None:
        return name
    side, layer, module, rest = found.groups()
    return f"{side}{layer}{table.get((side, module), module)}{rest}"


def is_index_buffer(name: str) -> bool:
    """Whether a tensor is one of the tables that this model computes."""
    return name in BUFFERS


BUFFERS = (
    "encoder.version",
    "encoder.token_rp_bucket",
    "encoder.image_rp_bucket",
    "decoder.version",
    "decoder.token_rp_bucket",
    "decoder.image_rp_bucket",
    "decoder.image_position_idx",
)


def index_buffer(name: str, config: OFAConfig) -> torch.Tensor:
    """One of `BUFFERS` as the original code makes it: int64, but for `version`, float32 `[1]`."""
    cpu = torch.device("cpu")
    kind = name.split(".")[1]
    if kind == "version":
        return torch.tensor([VERSION])
    if kind == "token_rp_bucket":
        return token_relative(0, POSITIONS, config, cpu)
    if kind == "image_rp_bucket":
        ids = torch.arange(config.image_bucket_size**2 + 1)
        return image_relative(ids, ids, config.image_bucket_size)
    grid = code_ids(1 + (config.code_image_size // 8) ** 2, config, cpu)
    return torch.cat([grid, torch.full((CODES_BEYOND,), BEYOND_CODES)])


def to_original(state_dict: Mapping[str, torch.Tensor], config: OFAConfig | None = None) -> dict[str, torch.Tensor]:
    """A state dict of `OFAForConditionalGeneration` (or the content of its `model.safetensors`) under the original's names,
    every tensor bit for bit; what fairseq's checkpoints have as `["model"]`.

    Args:
        state_dict: the two tied tensors may be missing, as they are in files; adaptation modules are left out.
        config: of the model; given, the original's index buffers are added.
    """
    state = {
        to_original_name(name): tensor for name, tensor in state_dict.items() if not name.startswith("deed_exits.")
    }
    for name in TIED:
        if SHARED in state:
            state.setdefault(name, state[SHARED])
    if config is not None:
        state |= {name: index_buffer(name, config) for name in BUFFERS}
    return state


__all__ = ["is_index_buffer", "to_original", "to_original_name", "to_port"]
