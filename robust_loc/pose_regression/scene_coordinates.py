"""The scene-coordinate head: features of a cell to the 3D point seen there (ACE, Brachmann et al., CVPR 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_SCALE, MIN_SCALE = 4.0, 0.01


def dehomogenize(values: Tensor) -> Tensor:
    """Four numbers to a point ``x / h``: (B, 4, ...) to (B, 3, ...).

    ``h = softplus(x_4) + 1/4``, at most 100; the softplus is scaled so that ``x_4 = 0`` gives ``h = 1``.
    """
    beta = math.log(2.0) / (1.0 - 1.0 / MAX_SCALE)
    h = (F.softplus(values[:, 3:], beta=beta) + 1.0 / MAX_SCALE).clamp(max=1.0 / MIN_SCALE)
    return values[:, :3] / h


class SceneCoordinateHead(nn.Module):
    """Per-scene head of 1x1 convolutions. Parameter and buffer names are those of a published ACE map file.

    Args:
        in_channels: of the encoder.
        channels: of the hidden layers (512 in the published layout).
        blocks: residual blocks after the first.
        homogeneous: four outputs instead of three.
    """

    mean: Tensor

    def __init__(self, in_channels: int, channels: int = 512, blocks: int = 1, homogeneous: bool = True) -> None:
        super().__init__()
        self.homogeneous = homogeneous
        self.head_skip = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        self.res3_conv1 = nn.Conv2d(in_channels, channels, 1)
        self.res3_conv2 = nn.Conv2d(channels, channels, 1)
        self.res3_conv3 = nn.Conv2d(channels, channels, 1)
        self.blocks = blocks
        for block in range(blocks):
            for layer in range(3):
                self.add_module(f"{block}c{layer}", nn.Conv2d(channels, channels, 1))
        self.fc1 = nn.Conv2d(channels, channels, 1)
        self.fc2 = nn.Conv2d(channels, channels, 1)
        self.fc3 = nn.Conv2d(channels, 4 if homogeneous else 3, 1)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        if homogeneous:
            self.register_buffer("max_scale", torch.tensor([MAX_SCALE]))
            self.register_buffer("min_scale", torch.tensor([MIN_SCALE]))
            self.register_buffer("max_inv_scale", torch.tensor([1.0 / MAX_SCALE]))
            self.register_buffer("h_beta", torch.tensor([math.log(2.0) / (1.0 - 1.0 / MAX_SCALE)]))
            self.register_buffer("min_inv_scale", torch.tensor([1.0 / MIN_SCALE]))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to world points (B, 3, h, w) in metres."""
        x = F.relu(self.res3_conv1(features))
        x = F.relu(self.res3_conv2(x))
        x = F.relu(self.res3_conv3(x))
        residual = self.head_skip(features) + x
        for block in range(self.blocks):
            x = residual
            for layer in range(3):
                x = F.relu(self.get_submodule(f"{block}c{layer}")(x))
            residual = residual + x
        x = F.relu(self.fc1(residual))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return (dehomogenize(x) if self.homogeneous else x) + self.mean
