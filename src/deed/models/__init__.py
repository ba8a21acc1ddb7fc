"""Models that Transformers does not have, in its style: LaTr++ and OFA (registration.py: in its Auto classes)."""

from __future__ import annotations

from deed.utils.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, {"latr": "latr", "ofa": "ofa"})
