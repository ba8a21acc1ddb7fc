"""Values that more than one room has to agree on."""

from __future__ import annotations

from typing import Any, Final

__version__: Final = "0.1.0"

#: Label that no loss counts (PyTorch's own default, and Transformers').
IGNORE_INDEX: Final = -100

#: A threshold that no confidence reaches: the exit is not asked, every token takes full depth.
NEVER_EXIT: Final = 2.0

#: Options of `generate()` for greedy decoding, whatever a model's own generation config says.
GREEDY: Final[dict[str, Any]] = {"do_sample": False, "num_beams": 1}
