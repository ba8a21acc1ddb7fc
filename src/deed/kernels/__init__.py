"""Linear layers at decoding time; knows nothing of models or exits.

The contract: a kernel prepares a weight `[out, in]` and a bias `[out]` once and gives a function from `[…, in]` to
`[…, out]` (`contract.py`). Implementations: `float32.py` and `int8.py`. Which one runs is measured on the machine
(`choosing.py`), or said by the environment variable `DEED_KERNELS`.
"""

from .choosing import choose

__all__ = ["choose"]
