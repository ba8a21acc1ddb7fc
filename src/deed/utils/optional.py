"""Libraries that come with an extra: imported where used, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from deed.errors import DataError

INSTALL = 'pip install "deed-transformers[ocr]"'


def need(module: str, fix: str = INSTALL) -> Any:
    """The module, imported.

    Raises:
        DataError: it is not installed, or a library that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{module} cannot be imported ({error}): {fix}") from None
