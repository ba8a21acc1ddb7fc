"""Where things are: OFA's relative buckets and the ids of patches and codes.

Tables of the original are square buffers (1024 x 1024, 1765 x 1765) that hold functions of a difference; here the
functions are computed for the positions at hand.
"""

from __future__ import annotations

import functools
import math

import torch

from .configuration_ofa import OFAConfig

# Distances that the logarithmic buckets of text cover, however long a model's texts may be.
REACH = 1024
# What the original pads its table of code positions with.
BEYOND_CODES = 1024


@functools.cache
def token_buckets(bucket_size: int, max_positions: int, device: torch.device) -> torch.Tensor:
    """Buckets of the distances `-(max_positions - 1) .. max_positions - 1`: `[2 * max_positions - 1]` long.

    Exact up to half of `bucket_size`, then logarithmic; from 0 to `2 * bucket_size - 2`.

    Args:
        bucket_size: the configuration's `token_bucket_size`.
        max_positions: how many positions there may be.
        device: of the result.
    """
    with torch.inference_mode(False):  # kept across calls, so it must not become an inference tensor
        distance = torch.arange(1 - max_positions, max_positions, device="cpu")
        middle = bucket_size // 2
        size = torch.where(distance.abs() < middle, middle - 1, distance.abs())
        # In float32, step by step as the original, since the ceiling shows the last bit.
        log = torch.ceil(torch.log(size / middle) / math.log((max_positions - 1) / middle) * (middle - 1)) + middle
        bucket = torch.where(size <= middle, distance, log.int() * torch.sign(distance))
        return (bucket.long() + bucket_size - 1).to(device)


def token_relative(start: int, stop: int, config: OFAConfig, device: torch.device) -> torch.Tensor:
    """Buckets of query positions start..stop against keys 0..stop: `[stop - start, stop]` long.

    Args:
        start: first query position.
        stop: position after the last query and key.
        config: of the model.
        device: of the result.
    """
    reach = max(REACH, config.max_position_embeddings)
    at = torch.arange(stop, device=device)
    distance = at[start:, None] - at[None, :]
    return token_buckets(config.token_bucket_size, reach, device)[distance + reach - 1]


def grid_ids(height: int, width: int, bucket_size: int, device: torch.device) -> torch.Tensor:
    """Position ids of a grid of patches, row by row: `[height * width]` long; row r, column c is `r * bucket_size + c + 1`.

    Args:
        height: patches in a column.
        width: patches in a row.
        bucket_size: side of the largest grid.
        device: of the result.

    Raises:
        ValueError: the grid is larger than the table's.
    """
    if max(height, width) > bucket_size:
        raise ValueError(
            f"patch_images give a grid of {height} x {width} patches, more than image_bucket_size {bucket_size} a side; "
            "resize the images"
        )
    rows = torch.arange(height, device=device)[:, None] * bucket_size
    return (rows + torch.arange(width, device=device)[None, :] + 1).flatten()


def image_relative(queries: torch.Tensor, keys: torch.Tensor, bucket_size: int) -> torch.Tensor:
    """Buckets of position ids `[q]` against `[k]`: `[q, k]` long, by the difference of rows and of columns.

    Id 0, which stands before the grid, has three buckets of its own: as query, as key, and towards itself.

    Args:
        queries: position ids `[q]` long, as `grid_ids` gives them.
        keys: position ids `[k]` long.
        bucket_size: side of the largest grid.
    """
    side = 2 * bucket_size - 1
    q, k = queries[:, None], keys[None, :]
    rows = (q - 1).div(bucket_size, rounding_mode="floor") - (k - 1).div(bucket_size, rounding_mode="floor")
    columns = (q - 1) % bucket_size - (k - 1) % bucket_size
    bucket = (rows + bucket_size - 1) * side + columns + bucket_size - 1
    first = side * side
    bucket = torch.where(q == 0, first, bucket)
    bucket = torch.where(k == 0, torch.where(q == 0, first + 2, first + 1), bucket)
    return bucket


def code_ids(length: int, config: OFAConfig, device: torch.device) -> torch.Tensor:
    """Position ids of an image written as codes, `[length]` long: 0 for the start, then the grid of codes, then, where
    there are more, one id for all.

    Args:
        length: how many positions.
        config: of the model.
        device: of the result.

    Raises:
        ValueError: a grid larger than the table's.
    """
    window, bucket_size = config.code_image_size // 8, config.image_bucket_size
    if window > bucket_size:
        raise ValueError(
            f"code_image_size {config.code_image_size} is {window} codes a side, more than image_bucket_size {bucket_size}"
        )
    grid = grid_ids(window, window, bucket_size, device)
    ids = torch.cat([grid.new_zeros(1), grid])
    return torch.nn.functional.pad(ids, (0, max(0, length - len(ids))), value=min(BEYOND_CODES, bucket_size**2))[
        :length
    ]


def position_scores(queries: torch.Tensor, keys: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """The absolute bias: `[1, q, d]` times `[1, k, d]`, per head and scaled, to `[1, heads, q, k]`.

    Args:
        queries: `[1, q, d]`.
        keys: `[1, k, d]`.
        heads: how many; they divide d.
        scale: of the queries.
    """
    q = queries.unflatten(-1, (heads, -1)).transpose(1, 2)
    k = keys.unflatten(-1, (heads, -1)).transpose(1, 2)
    return (q * scale) @ k.transpose(2, 3)


def look_up(table: torch.nn.Embedding, buckets: torch.Tensor) -> torch.Tensor:
    """A layer's relative bias: `[q, k]` buckets to `[1, heads, q, k]`."""
    return table(buckets).permute(2, 0, 1)[None]


__all__ = [
    "code_ids",
    "grid_ids",
    "image_relative",
    "look_up",
    "position_scores",
    "token_buckets",
    "token_relative",
]
