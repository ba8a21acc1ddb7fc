"""CUDA graphs for what a step runs between two attentions and at an exit: on a GPU a small decoder layer is 35 launches
that take longer to issue than to run.

What lies between attentions works on positions one by one: its shapes are the block's alone, whatever the lengths and
stairs of its rows. So each layer's three segments (`families.parts`) and each exit's logits are recorded once per shape of
block and replayed. Attention, and who is where, stays as it is: caches may grow, rows may leave.

Recorded graphs read weights where they lay: once weights are changed, replaced or moved, they are recorded anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from deed.exits.branches import SHARED
from deed.exits.draft_head import NAME as DRAFT_HEAD
from deed.exits.heads import DirectExits
from deed.families.parts import Attends, LayerParts, after, before, between, plain, run_parts

LARGEST = 64  # positions of a block; larger blocks keep a GPU busy without graphs
SHAPES = 24  # recorded per layer at most
KEPT = "_deed_graphs"  # attribute of a model that holds its recordings
OURS = ("torch.nn.", "transformers.", "deed.")  # packages whose modules run the same kernels every time

Tensors = tuple[torch.Tensor, ...]


def use_cuda_graphs(model: Any, enabled: bool = True) -> Any:
    """Decode with CUDA graphs: the same tokens and depths, fewer launches. Graphs are recorded while decoding, when a shape
    of block comes up for the second time, once per thread; they take memory for the activations of a few positions.

    Layers with adapters (LoRA), hooks or classes of your own run as before, since what they do may change from call to
    call: merge adapters first.

    Args:
        model: a model from `get_deed_model`, on a GPU.
        enabled: False lets go of what was recorded.

    Returns:
        The same model.

    Raises:
        ValueError: the model is not on a CUDA device.

    Example:
        ```python
        model = deed.use_cuda_graphs(model.to("cuda"))
        tokens = model.generate(**inputs.to("cuda"), max_new_tokens=8)
        ```
    """
    if not enabled:
        vars(model).pop(KEPT, None)
        return model
    if model.device.type != "cuda":
        raise ValueError(f"CUDA graphs need a model on a GPU; this one is on {str(model.device)!r}: model.to('cuda')")
    vars(model)[KEPT] = Recordings()
    return model


def recorded(
    model: Any, parts: list[LayerParts] | None, exits: DirectExits
) -> tuple[list[RecordedLayer], RecordedExits] | None:
    """The model's layers and exits for one generation, or None where they are to be run as they are.

    Args:
        model: a deed model.
        parts: of its layers, None where they are run by themselves.
        exits: its exits.
    """
    kept = vars(model).get(KEPT)
    return None if kept is None or parts is None else kept.of(model, parts, exits)


class Recordings:
    """What was recorded of one model, apart for every thread: replays overwrite each other's results."""

    def __init__(self) -> None:
        self.here = threading.local()

    def __reduce__(self) -> tuple[type, tuple[()]]:  # a copy of the model records its own
        return type(self), ()

    def of(
        self, model: Any, parts: list[LayerParts], exits: DirectExits
    ) -> tuple[list[RecordedLayer], RecordedExits] | None:
        """As `recorded`; what was recorded before with the same modules and weights is used again.

        Args:
            model: a deed model.
            parts: of its layers.
            exits: its exits.
        """
        found = signature(model)
        if found is None:
            return None
        if getattr(self.here, "signature", None) != found:
            self.here.signature = found
            self.here.made = [RecordedLayer(p) for p in parts], RecordedExits(exits)
        made: tuple[list[RecordedLayer], RecordedExits] = self.here.made
        return made


def signature(model: Any) -> tuple[int, ...] | None:
    """What a recording depends on: modules, and where their weights lie, as of which change. None if a module may do
    something else the next time."""
    found: list[int] = []
    names = [*map(str, model.deed_config.exit_layers), SHARED, *([DRAFT_HEAD] if model.deed_config.draft_head else [])]
    adapters = [model.deed_exits[name] for name in names if name in model.deed_exits]
    used = [model.deed_family.decoder(model), *adapters, model.get_output_embeddings()]
    for module in (inner for outer in used for inner in outer.modules()):
        if not type(module).__module__.startswith(OURS) or not plain([module]):
            return None
        found.append(id(module))
        found += _state(module)
    return (*found, *_state(model))  # BART's bias on the logits


def _state(module: Any) -> list[int]:
    """Of the tensors that are a module's own."""
    tensors = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
    return [at for t in tensors for at in (t.data_ptr(), 0 if t.is_inference() else t._version)]


class Recorded:
    """Functions of tensors, recorded by shape of the first argument."""

    def __init__(self) -> None:
        self.shapes: dict[torch.Size, Any] = {}

    def known(self, x: torch.Tensor) -> Any:
        """What was recorded for such an `x`; False where it comes for the second time and should be recorded now, None where
        it is to be computed as it is."""
        found = self.shapes.get(x.shape)
        if found is None and x[..., 0].numel() <= LARGEST and len(self.shapes) < SHAPES:
            self.shapes[x.shape] = False
        return found


class RecordedLayer(Recorded):
    """One decoder layer: `families.parts.run_parts`, its segments replayed."""

    def __init__(self, parts: LayerParts) -> None:
        super().__init__()
        self.parts = parts

    def __call__(
        self, hidden: torch.Tensor, attention: Attends, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[r, q, d_model]` in and out; the result is overwritten by the next call with this shape.

        Args:
            hidden: the layer's input.
            attention: keeps keys and values.
            positions: of the block's cells, `[1 or r, q]`, where the layer rotates its queries and keys by them.
        """
        found = self.known(hidden)
        if found is None:
            return run_parts(self.parts, hidden, attention, positions)
        given = (hidden,) if positions is None else (hidden, positions.expand(hidden.shape[:2]))
        if found is False:
            found = self.shapes[hidden.shape] = self._record(*given)
        self_attn, cross = self.parts.self_attn, self.parts.cross
        first, second, third = found
        q, k, v = first(*given)
        residual, q = second(first.inputs[0], attention.attend_self(q, k, v, self_attn.scale))
        return third(residual, attention.attend_cross(q, cross.scale))[0]

    def _record(self, *given: torch.Tensor) -> tuple[Replay, Replay, Replay]:
        first = Replay(lambda *x: before(self.parts, *x), *(x.clone() for x in given))
        q = first.outputs[0]
        # Attention keeps the form of its query: no need to attend, which writes keys and values.
        second = Replay(lambda x, a: between(self.parts, x, a), first.inputs[0], torch.zeros_like(q))
        third = Replay(lambda x, a: (after(self.parts, x, a),), second.outputs[0], torch.zeros_like(second.outputs[1]))
        return first, second, third


class RecordedExits:
    """`DirectExits` whose logits of whole features are replayed."""

    def __init__(self, exits: DirectExits) -> None:
        self.exits = exits
        self.features, self.logits_of, self.draft = exits.features, exits.logits_of, exits.draft
        self.depths: dict[int, Recorded] = {}

    def logits(self, depth: int, hidden: torch.Tensor) -> torch.Tensor:
        """`[…, vocab]`, the caller's to keep."""
        at = self.depths.setdefault(depth, Recorded())
        found = at.known(hidden)
        if found is None:
            return self.exits.logits(depth, hidden)
        if found is False:
            found = at.shapes[hidden.shape] = Replay(lambda x: (self.exits.logits(depth, x),), hidden.clone())
        return found(hidden)[0].clone()


class Replay:
    """A function, recorded.

    Args:
        inputs: where it reads, its own from now on; what a call gives is copied there, unless it is that very tensor.

    Attributes:
        outputs: where it writes, overwritten by each call. Outside the graph's own memory, which graphs share.
    """

    def __init__(self, function: Callable[..., Tensors], *inputs: torch.Tensor) -> None:
        self.inputs = inputs
        self.outputs: Tensors = ()
        self.run = record(function, self)

    def __call__(self, *given: torch.Tensor) -> Tensors:
        for place, x in zip(self.inputs, given, strict=True):
            if place is not x:
                place.copy_(x)
        self.run()
        return self.outputs


def record(function: Callable[..., Tensors], replay: Replay) -> Callable[[], None]:
    """Record `function` of `replay.inputs`, set `replay.outputs`, and return what runs it again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # run once without recording, so that libraries initialize
        replay.outputs = tuple(x.clone() for x in function(*replay.inputs))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        for place, x in zip(replay.outputs, function(*replay.inputs), strict=True):
            place.copy_(x)
    return graph.replay


_POOLS = threading.local()


def _pool() -> Any:
    """One for all graphs of a thread on a device: they run one after the other and keep no data in it."""
    pools: dict[int, Any] = _POOLS.__dict__.setdefault("of", {})
    device = torch.cuda.current_device()
    if device not in pools:
        pools[device] = torch.cuda.graph_pool_handle()
    return pools[device]
