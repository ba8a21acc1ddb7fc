"""The image stem: a ResNet without its last stage, 16 pixels a patch.

Convolutions, strides and norms are built by Transformers' ResNet classes (stride on the 3x3, as in v1.5, which is the
one OFA uses). Their blocks nest a convolution four names deep, while every OFA checkpoint has torchvision's flat names
(`layer1.0.conv1`). A renaming at loading would reach `from_pretrained` only; here the blocks are flattened once after
they are built, so that parameters are called the same in `state_dict()`, optimizers, LoRA targets and files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer, ResNetEmbeddings

from .configuration_ofa import OFAConfig

BLOCKS = {"bottleneck": ResNetBottleNeckLayer, "basic": ResNetBasicLayer}


class OFAStemBlock(nn.Module):
    """A residual block: `conv1`, `bn1`, `conv2`, `bn2` … and, where the shape changes, `downsample`.

    Args:
        block: Transformers' block, whose convolutions and norms are taken over.
        drop_path: chance of leaving the block out for an image, in training.
    """

    def __init__(self, block: Any, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.count = len(block.layer)
        for i, step in enumerate(block.layer, 1):
            setattr(self, f"conv{i}", step.convolution)
            setattr(self, f"bn{i}", step.normalization)
        short = block.shortcut
        self.downsample = (
            None if isinstance(short, nn.Identity) else nn.Sequential(short.convolution, short.normalization)
        )
        self.activation = block.activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, channels, height, width]` to the block's width and stride."""
        short = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.count + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.count:
                x = self.activation(x)
        return self.activation(short + drop_path(x, self.drop_path, self.training))


class OFAStem(nn.Module):
    """Images `[batch, 3, height, width]` to features `[batch, channels, height / 16, width / 16]`, rounded up."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        first, *widths = config.stem_widths or []
        depths = config.stem_depths or []
        embeddings = ResNetEmbeddings(ResNetConfig(embedding_size=first))
        self.conv1 = embeddings.embedder.convolution
        self.bn1 = embeddings.embedder.normalization
        self.activation = embeddings.embedder.activation
        self.maxpool = embeddings.pooler
        kind = BLOCKS[config.stem_layer_type]
        incoming = first
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            rates = torch.linspace(0, config.resnet_drop_path_rate, depth, device="cpu").tolist()
            blocks = [kind(incoming, width, stride=1 if stage == 1 else 2)]
            blocks += [kind(width, width) for _ in range(depth - 1)]
            flat = [OFAStemBlock(block, rate) for block, rate in zip(blocks, rates, strict=True)]
            setattr(self, f"layer{stage}", nn.Sequential(*flat))
            incoming = width
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.eps = config.batch_norm_eps
                if config.freeze_resnet:
                    self.set_submodule(name, DetrFrozenBatchNorm2d(module.num_features))

    def forward(self, patch_images: torch.Tensor) -> torch.Tensor:
        """`patch_images` `[batch, 3, height, width]` to features; see the class."""
        x = self.maxpool(self.activation(self.bn1(self.conv1(patch_images))))
        return self.layer3(self.layer2(self.layer1(x)))


def drop_path(x: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: with chance `rate` a row of `x` `[batch, …]` becomes zeros; the others grow to make up for it.

    Args:
        x: `[batch, …]`.
        rate: from 0 up to, not including, 1.
        training: False leaves everything as it is.
    """
    if rate == 0.0 or not training:
        return x
    return x * nn.functional.dropout(x.new_ones(x.shape[0], *[1] * (x.ndim - 1)), rate)


__all__ = ["OFAStem", "OFAStemBlock", "drop_path"]
