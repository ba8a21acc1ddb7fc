"""Whatever a caller calls a picture, as Pillow's 8-bit RGB: files, Pillow's own, and arrays as image processors take them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from deed.utils.images import load_image

CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def picture_list(images: Any, count: int, what: str) -> list[Any] | None:
    """One picture or None per text, from one picture, a list of them, or a batch as one array; None for none at all.

    Args:
        images: what the caller gave.
        count: how many texts there are.
        what: how the error calls these.

    Raises:
        ValueError: another number of pictures.
    """
    if images is None:
        return None
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
        given = list(images)
    else:
        given = [images]
    if len(given) != count:
        raise ValueError(f"{count} {what}, but images for {len(given)}")
    return given


def rgb_picture(picture: Any, upright: bool = True, data_format: str | None = None) -> Any:
    """A picture as a `PIL.Image.Image` of mode RGB.

    Transparency is laid on white; 16-bit gray is stretched to 8 bits, as `deed.utils.images.load_image` does it.

    Args:
        picture: a path, the bytes of a file, a `PIL.Image.Image` of any mode, or an array or tensor: `[height, width]`,
            channels first or last, one to four of them; bool, integers, or floats on 0..1 (else on 0..255).
        upright: turn a Pillow picture as its EXIF data say (files are turned always). Without it, boxes in pixels of the
            picture as the caller has it stay right.
        data_format: `"channels_first"` or `"channels_last"`; None: told by the shape, as Transformers does it.

    Raises:
        DataError: a file that is missing, broken, too large or no picture.
        TypeError: not a picture.
        ValueError: an array of another shape, or of numbers that are not on these scales.
    """
    from PIL import Image

    if isinstance(picture, Image.Image):
        return load_image(picture) if upright else _as_it_lies(picture)
    if isinstance(picture, (str, os.PathLike, bytes, bytearray, memoryview)):
        return load_image(picture)
    return load_image(_from_array(_to_numpy(picture), data_format))


def _as_it_lies(picture: Any) -> Any:
    """`load_image` without the turn that it makes for EXIF's orientation."""
    from PIL import Image

    back = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
    }
    back[8] = "ROTATE_270"
    try:
        turn = back.get(picture.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data, which load_image passes over
        turn = None
    loaded = load_image(picture)
    return loaded if turn is None else loaded.transpose(Image.Transpose[turn])


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, on any device and of any dtype
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        return value.numpy()
    if not hasattr(value, "__array__"):
        raise TypeError(
            f"a picture is a path, bytes, a PIL image, an array or a tensor, got {type(value).__name__}; lists of numbers: "
            "make them an array first"
        )
    return np.asarray(value)


def _from_array(array: np.ndarray, data_format: str | None) -> Any:
    from PIL import Image

    if array.ndim == 3:
        array = _channels_last(array, data_format)
    elif array.ndim != 2:
        raise ValueError(f"a picture has two or three dimensions, got an array of shape {list(array.shape)}")
    if not array.size:
        raise ValueError(f"a picture without pixels: an array of shape {list(array.shape)}")
    if array.dtype.kind in "iu" and array.itemsize > 1 and array.max() > 255:
        if array.min() < 0 or array.max() > 0xFFFF:
            raise ValueError(f"integers of a picture lie on 0..255 or 0..65535, got {array.min()}..{array.max()}")
        if array.ndim == 2:
            return Image.fromarray(array.astype(np.int32))  # 16-bit gray: stretched when it is loaded
        return Image.fromarray((array >> 8).astype(np.uint8), CHANNELS[array.shape[2]])
    array = _to_bytes(array)
    return Image.fromarray(array, "L" if array.ndim == 2 else CHANNELS[array.shape[2]])


def _to_bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"a picture has numbers as pixels, got an array of {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # NaN, too
        raise ValueError(
            f"floats of a picture lie on 0..1 or 0..255, got {low}..{high}; give pictures before they are normalized"
        )
    scale = 255 if array.dtype.kind == "f" and high <= 1 else 1
    return np.round(array * scale).astype(np.uint8)


def _channels_last(array: np.ndarray, data_format: str | None) -> np.ndarray:
    """`[height, width]` or `[height, width, channels]`."""
    if data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be 'channels_first' or 'channels_last', got {data_format!r}")
    if data_format is None:
        data_format = _format(array.shape)
    array = np.moveaxis(array, 0, -1) if data_format == "channels_first" else array
    if array.shape[2] not in CHANNELS:
        raise ValueError(f"a picture has one to four channels, got an array of shape {list(array.shape)}")
    return array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array)


def _format(shape: Sequence[int]) -> str:
    """Where the channels are: of usual counts (1, 3, then 4 and 2) the first place that has one, the front before the back."""
    for usual in ((1, 3), (4, 2)):
        if shape[0] in usual:
            return "channels_first"
        if shape[2] in usual:
            return "channels_last"
    raise ValueError(f"a picture has one to four channels, first or last, got an array of shape {list(shape)}")


__all__ = ["picture_list", "rgb_picture"]
