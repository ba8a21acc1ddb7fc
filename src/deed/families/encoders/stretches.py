"""The two stretches of an int8 encoder layer around its attention as one call each (`deed.kernels.chain`): norm, rounding,
products, activation and residual sums in one pass over the rows. Of T5-base's 256 rows, what stands between the products took
as long as half of them. In float32 the modules run one by one: there oneDNN is the fastest for an encoder's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from deed.kernels.chain import Chain, Link, RowNorm, chain, runs_natively
from deed.kernels.int8_linear import Int8Linear

from ..chains import ACTIVATIONS
from ..parts import is_bare


class Stretches(NamedTuple):
    """Both, of a layer.

    Attributes:
        before: norm, query, key and value projection: the three side by side.
        after: output projection of the attention, residual sum, norm, feed-forward, residual sum.
    """

    before: Chain
    after: Chain


def stretches(
    norms: Sequence[RowNorm | None],
    qkv: Sequence[Any],
    out: Any,
    up: Sequence[Any],
    activation: Any,
    down: Any,
    post_norm: bool = False,
) -> Stretches | None:
    """The stretches of a layer; None where it is not in int8 by the native library, or has modules that the library does not
    know.

    Args:
        norms: `row_norm` of the norms of attention and feed-forward.
        qkv: query, key and value projection.
        out: output projection.
        up: the feed-forward's first linear; gated: the one under the activation, then the one that it multiplies.
        activation: module.
        down: the feed-forward's last linear.
        post_norm: see `EncoderLayer`.
    """
    linears = (*qkv, out, *up, down)
    known = all(type(one) is Int8Linear and is_bare(one) and runs_natively(one) for one in linears)
    named = ACTIVATIONS.get(type(activation).__name__)
    first, second = norms
    if not known or named is None or not is_bare(activation) or first is None or second is None:
        return None
    before = chain([Link(linear, before=None if post_norm else first) for linear in qkv])
    opening = Link(up[0], activation=named, before=None if post_norm else second)
    after = chain(
        [
            Link(out, "residual", after=first if post_norm else None),
            opening,
            *(Link(linear, "gate", before=opening.before) for linear in up[1:]),
            Link(down, "residual", after=second if post_norm else None),
        ]
    )
    return Stretches(before, after) if before.native and after.native else None
