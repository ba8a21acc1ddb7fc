"""OFA's image stem (`models/ofa/stem.py`) with its norms folded into the convolutions, channels last, by oneDNN.

A norm that does not learn any more is a factor and a summand per channel: the factor goes into the weights, the summand
becomes the bias. What is left of a residual block are its convolutions, and oneDNN adds and rectifies as it writes. The
result differs from the stem's by rounding. The folded weights are a copy, kept as long as the stem does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from ..kept import kept
from ..parts import is_bare, plain

Step = Callable[[torch.Tensor], torch.Tensor]
Convolution = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]
STEM = "OFAStem"
FROZEN_EPS = 1e-5  # DetrFrozenBatchNorm2d's


class LeanStem(nn.Module):
    """A stem by its folded convolutions, called as the stem is.

    Args:
        stem: the stem.
        run: of images `[batch, 3, height, width]`.
    """

    def __init__(self, stem: nn.Module, run: Step) -> None:
        super().__init__()
        self.lean_of, self.run = stem, run
        self.training = False

    def forward(self, patch_images: torch.Tensor) -> torch.Tensor:
        """`[batch, 3, height, width]` to features `[batch, channels, height / 16, width / 16]`."""
        if patch_images.dtype != torch.float32 or patch_images.device.type != "cpu":
            return self.lean_of(patch_images)  # type: ignore[no-any-return]
        return self.run(patch_images)


def lean_stem(stem: nn.Module) -> nn.Module:
    """A lean stem, or `stem` itself where it is none of OFA's, in training, not float32, or does more than its class says."""
    if type(stem).__name__ != STEM or not type(stem).__module__.startswith("deed.models."):
        return stem
    run = kept(stem, "folded", lambda: _folded(stem))
    return stem if run is None else LeanStem(stem, run)


def _folded(stem: Any) -> Step | None:
    stages = (stem.layer1, stem.layer2, stem.layer3)
    blocks = [block for stage in stages for block in stage]
    relus = [stem.activation, *(block.activation for block in blocks)]
    leaves = [m for m in stem.modules() if not list(m.children())]
    if (
        not all(is_bare(m) for m in leaves)
        or not plain([*stem.modules()])
        or any(type(r) is not nn.ReLU for r in relus)
    ):
        return None
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in (*stem.parameters(), *stem.buffers())):
        return None
    if not all(type(m) in (nn.Conv2d, nn.BatchNorm2d, DetrFrozenBatchNorm2d, nn.ReLU, nn.MaxPool2d) for m in leaves):
        return None
    first, pool = _convolution(stem.conv1, stem.bn1, rectifies=True), stem.maxpool
    made = [_block(block) for block in blocks]

    def run(images: torch.Tensor) -> torch.Tensor:
        x = pool(first(images.contiguous(memory_format=torch.channels_last), None))
        for block in made:
            x = block(x)
        return x

    return run


def _block(block: Any) -> Step:
    *steps, last = (
        _convolution(getattr(block, f"conv{i}"), getattr(block, f"bn{i}"), rectifies=True)
        for i in range(1, block.count + 1)
    )
    down = block.downsample
    short = None if down is None else _convolution(down[0], down[1], rectifies=False)

    def run(x: torch.Tensor) -> torch.Tensor:
        beside = x if short is None else short(x, None)
        for step in steps:
            x = step(x, None)
        return last(x, beside)

    return run


@torch.no_grad()
def _convolution(conv: Any, norm: Any, rectifies: bool) -> Convolution:
    """`relu(norm(conv(x)) + other)` as a function of `x` and `other` (None: nothing is added), without the relu unless it
    `rectifies`."""
    eps = norm.eps if type(norm) is nn.BatchNorm2d else FROZEN_EPS
    factor = norm.weight.double() / (norm.running_var.double() + eps).sqrt()  # [channels]
    bias = norm.bias.double() - norm.running_mean.double() * factor
    if conv.bias is not None:
        bias += conv.bias.double() * factor
    weight = (conv.weight.double() * factor[:, None, None, None]).float().contiguous(memory_format=torch.channels_last)
    bias = bias.float()
    stride, padding, dilation, groups = conv.stride, conv.padding, conv.dilation, conv.groups
    mkldnn = torch.ops.mkldnn
    usable = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    if usable and hasattr(mkldnn, "_convolution_pointwise"):
        alone, summed = mkldnn._convolution_pointwise.default, mkldnn._convolution_pointwise.binary
        at = (list(padding), list(stride), list(dilation), groups)

        def by_onednn(x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
            if other is None:
                return alone(x, weight, bias, *at, "relu" if rectifies else "none", [], "")
            return summed(x, other, weight, bias, *at, "add", 1.0, "relu" if rectifies else None, [], None)

        return by_onednn

    def by_torch(x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        y = nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
        y = y if other is None else y.add_(other)
        return y.relu_() if rectifies else y

    return by_torch
