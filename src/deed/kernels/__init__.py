"""Linear layers at decoding time; knows nothing of models or exits.

The contract: a kernel prepares a weight `[out, in]` and a bias `[out]` once and gives a function from `[…, in]` to
`[…, out]` (`contract.py`). Implementations: PyTorch's (`float32.py`, `int8.py`) and a C++ library of ours that is built where
a compiler is (`native/`). Which one runs is measured on the machine (`choose`, `choosing.py`), or said by the environment
variable `DEED_KERNELS`. `chain.py` runs several linears with what stands between them as one call.
"""

from .chain import Chain, Link, RowNorm, chain, fused_norm_linear, runs_natively
from .choice import choose

__all__ = ["Chain", "Link", "RowNorm", "chain", "choose", "fused_norm_linear", "runs_natively"]
