"""Values that more than one room has to agree on."""

from __future__ import annotations

from typing import Any, Final

__version__: Final = "0.1.0"

#: Label that no loss counts (PyTorch's own default, and Transformers').
IGNORE_INDEX: Final = -100

#: A threshold that no confidence reaches: the exit is not asked, every token takes full depth.
NEVER_EXIT: Final = 2.0

#: From which confidence on exact decoding drafts at first, where the exits' own threshold lets nothing leave early: what a
#: draft risks is time alone, and after a few cycles that is decided by what was measured.
FIRST_DRAFTS: Final = 0.5

#: Options of `generate()` for greedy decoding, whatever a model's own generation config says.
GREEDY: Final[dict[str, Any]] = {"do_sample": False, "num_beams": 1}
