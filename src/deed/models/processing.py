"""What both processors share: every saved setting is checked, and a folder that cannot be used gives one clear error."""

from __future__ import annotations

import inspect
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from deed.errors import DeedLoadError
from deed.utils.locating import PLACE, check_place, file_of

LARGEST = 1_000_000  # of lengths and sizes
TRANSFORMERS_KEYS = ("auto_map", "chat_template", "processor_class", "transformers_version")


class CheckedProcessor(ProcessorMixin):
    """A `ProcessorMixin` of an image processor and a tokenizer whose loading says what is wrong."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """As Transformers' own.

        Args:
            pretrained_model_name_or_path: a folder, or a Hub id.
            kwargs: as for Transformers' own; those that are settings of the processor replace the saved ones.

        Raises:
            DeedLoadError: no such folder, or files that are missing, damaged or hold a setting that cannot be used.
        """
        place = {name: kwargs[name] for name in PLACE if kwargs.get(name) is not None}
        check_place(pretrained_model_name_or_path, place)
        try:
            cls._check_file(file_of(pretrained_model_name_or_path, "processor_config.json", place))
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except Exception as error:  # settings of any type fail in any way
            message = " ".join(str(error).split()) or type(error).__name__
            raise DeedLoadError(
                f"the {cls.__name__} in {pretrained_model_name_or_path} cannot be loaded: {message}"
            ) from error

    @classmethod
    def _check_file(cls, path: Path | None) -> None:
        values = {} if path is None else json.loads(path.read_bytes())
        if not isinstance(values, dict) or not isinstance(values.get("image_processor", {}), dict):
            raise ValueError("processor_config.json must be an object, and image_processor in it, too")
        known = {*inspect.signature(cls.__init__).parameters, *TRANSFORMERS_KEYS}
        if unknown := sorted(set(values) - known):
            warnings.warn(
                f"{path}: settings that a {cls.__name__} does not have, {unknown}, are ignored", stacklevel=4
            )

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        if image_processor is not None:
            check_image_processor(image_processor)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The value, where it is a whole number from `least` to a million.

    Args:
        name: of the setting, for the error.
        value: what was given.
        least: the smallest that is allowed.

    Raises:
        ValueError: anything else; names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise ValueError(f"{name} must be a whole number from {least} to {LARGEST}, got {_short(value)}")
    return value


def check_image_processor(processor: Any) -> None:
    """Check the settings that decide what becomes of a picture.

    Raises:
        ValueError: one that cannot be used; names it.
    """
    size = getattr(processor, "size", None)
    for side in ("height", "width"):
        check_count(f"image_processor.size.{side}", getattr(size, "get", lambda _: None)(side))
    for name in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if not isinstance(getattr(processor, name, None), bool | None):
            raise ValueError(f"image_processor.{name} must be true or false, got {_short(getattr(processor, name))}")
    needs = {name: bool(getattr(processor, name, None)) for name in ("do_resize", "do_rescale", "do_normalize")}
    for name, above in (("image_mean", -math.inf), ("image_std", 1e-6)):
        values = getattr(processor, name, None)
        numbers: Any = values if isinstance(values, (list, tuple)) else [values] * 3  # one number for all channels
        fits = len(numbers) == 3 and all(_is_number(x) and x > above for x in numbers)
        if not fits and (values is not None or needs["do_normalize"]):
            kind = "finite numbers" if above < 0 else "numbers above 0"
            raise ValueError(f"image_processor.{name} must be three {kind}, got {_short(values)}")
    factor: Any = getattr(processor, "rescale_factor", None)
    if not (_is_number(factor) and factor > 0) and (factor is not None or needs["do_rescale"]):
        raise ValueError(f"image_processor.rescale_factor must be a number above 0, got {_short(factor)}")
    resample = getattr(processor, "resample", None)
    fits = isinstance(resample, int) and not isinstance(resample, bool) and 0 <= resample <= 5
    if not fits and (resample is not None or needs["do_resize"]):
        raise ValueError(f"image_processor.resample must be one of Pillow's filters, 0 to 5, got {_short(resample)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e6  # nor NaN


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number out of all proportion"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


__all__ = ["CheckedProcessor", "check_count", "check_image_processor"]
