"""Buffers `[rows, …]` with room for more rows, so that a row that joins or leaves moves its own memory and not everyone's.

A buffer is a view of the first rows of a larger one, which it carries as an attribute. A tensor without it has no room, and
belongs to someone else: it is copied, never written to.
"""

from __future__ import annotations

import torch

ROOM = "deed_room"
LEAST = 4  # rows of room at least, and a quarter of what there are


def _with_room(whole: torch.Tensor, rows: int) -> torch.Tensor:
    view = whole[:rows]
    setattr(view, ROOM, whole)
    return view


def room_of(buffer: torch.Tensor) -> int:
    """Rows that the buffer could have without moving."""
    whole = getattr(buffer, ROOM, None)
    return buffer.shape[0] if whole is None else int(whole.shape[0])


def held_bytes(buffer: torch.Tensor | None) -> int:
    """Bytes that a buffer holds, its room included."""
    return 0 if buffer is None else int(getattr(buffer, ROOM, buffer).nbytes)


def grown(buffer: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """The buffer with an axis (not the first) of another size: filled up with zeros, or cut.

    Args:
        buffer: `[rows, …]`.
        axis: which.
        size: of it in the result.
    """
    old = buffer.shape[axis]
    if old == size:
        return buffer
    shape = list(buffer.shape)
    shape[0], shape[axis] = room_of(buffer), size
    whole = buffer.new_zeros(shape)
    kept = min(old, size)
    whole[: buffer.shape[0]].narrow(axis, 0, kept).copy_(buffer.narrow(axis, 0, kept))
    return _with_room(whole, buffer.shape[0]) if hasattr(buffer, ROOM) else whole


def appended(
    a: torch.Tensor | None, b: torch.Tensor | None, n_a: int, n_b: int, axis: int, size: int
) -> torch.Tensor | None:
    """The rows of `a`, then those of `b`, as one buffer; `a` is not to be used any more.

    Args:
        a: `[n_a, …]`, or None where these rows have nothing yet.
        b: `[n_b, …]`, or None.
        n_a: rows of `a`.
        n_b: rows of `b`.
        axis: filled up with zeros to `size`.
        size: of that axis in the result, at least as long as in `a` and `b`.
    """
    if a is None and b is None:
        return None
    like: torch.Tensor = b if a is None else a  # type: ignore[assignment]
    n = n_a + n_b
    if a is not None and a.shape[axis] == size and hasattr(a, ROOM) and room_of(a) >= n:
        whole = getattr(a, ROOM)
        whole[n_a:n].zero_()
    else:
        shape = [n + max(LEAST, n // 4), *like.shape[1:]]
        shape[axis] = size
        whole = like.new_zeros(shape)
        if a is not None:
            whole[:n_a].narrow(axis, 0, a.shape[axis]).copy_(a)
    if b is not None:
        whole[n_a:n].narrow(axis, 0, b.shape[axis]).copy_(b)
    return _with_room(whole, n)


def kept(buffer: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The buffer with rows `order` of it, in that order; it is not to be used any more. In place where it has room and no
    row moves up (`order_without` gives such an order).

    Args:
        buffer: `[rows, …]`.
        order: row numbers.
    """
    if not hasattr(buffer, ROOM) or any(r < i for i, r in enumerate(order)) or len(set(order)) < len(order):
        return buffer.index_select(0, torch.tensor(order, dtype=torch.long, device=buffer.device))
    whole = getattr(buffer, ROOM)
    if len(whole) > 4 * (len(order) + LEAST):  # much of it has been empty since a crowd left
        return appended(whole[torch.tensor(order, device=whole.device)], None, len(order), 0, 1, whole.shape[1])  # type: ignore[return-value]
    for i, r in enumerate(order):
        if r != i:
            whole[i].copy_(whole[r])
    return _with_room(whole, len(order))


def reordered(buffer: torch.Tensor, axis: int, order: torch.Tensor, length: int) -> torch.Tensor:
    """The buffer with rows `order` of it; in place where it keeps as many as it has, as beams do at every step.

    Args:
        buffer: `[rows, …]`, not to be used any more.
        axis: of positions.
        order: row numbers, on the buffer's device.
        length: positions in use; the others are not moved.
    """
    if len(order) != buffer.shape[0]:
        return kept(buffer, order.tolist())
    used = buffer.narrow(axis, 0, length)
    used.copy_(used.index_select(0, order))
    return buffer


def order_without(rows: int, gone: set[int]) -> list[int]:
    """The order in which `kept` leaves rows out by moving as few as there are gone: the last ones fill the gaps.

    Args:
        rows: how many there are.
        gone: which are left out.
    """
    left = rows - len(gone)
    last = iter(r for r in range(rows - 1, left - 1, -1) if r not in gone)
    return [next(last) if i in gone else i for i in range(left)]
