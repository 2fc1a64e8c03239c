"""Image encoders: a grey image to a coarse grid of features, the same for every scene."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GREY_MEAN, GREY_STD = 0.4, 0.25


def grey_input(image: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) uint8 or float in [0, 255] to normalised grey (B, 1, H, W)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device).reshape(1, 3, 1, 1)
    grey = (image.float() * weights).sum(1, keepdim=True) / 255.0
    return (grey - GREY_MEAN) / GREY_STD


class PublishedEncoder(nn.Module):
    """ACE's encoder (Brachmann et al., CVPR 2023): stride 8, 512 channels. Parameter names are the published ones.

    Its pre-trained file is not distributed with this package (non-commercial licence); it loads if you have it.
    """

    channels = 512
    stride = 8
    # ACE takes a cell for the 8x8 block of pixels it covers, whose centre lies half a cell from the convolution's.
    cell_offset = 3.5

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 2, 1)
        self.conv3 = nn.Conv2d(64, 128, 3, 2, 1)
        self.conv4 = nn.Conv2d(128, 256, 3, 2, 1)
        self.res1_conv1 = nn.Conv2d(256, 256, 3, 1, 1)
        self.res1_conv2 = nn.Conv2d(256, 256, 1)
        self.res1_conv3 = nn.Conv2d(256, 256, 3, 1, 1)
        self.res2_conv1 = nn.Conv2d(256, 512, 3, 1, 1)
        self.res2_conv2 = nn.Conv2d(512, 512, 1)
        self.res2_conv3 = nn.Conv2d(512, 512, 3, 1, 1)
        self.res2_skip = nn.Conv2d(256, 512, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 512, ceil(H/8), ceil(W/8))."""
        x = F.relu(self.conv1(grey))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        residual = F.relu(self.conv4(x))
        x = F.relu(self.res1_conv1(residual))
        x = F.relu(self.res1_conv2(x))
        x = F.relu(self.res1_conv3(x))
        residual = residual + x
        x = F.relu(self.res2_conv1(residual))
        x = F.relu(self.res2_conv2(x))
        x = F.relu(self.res2_conv3(x))
        return self.res2_skip(residual) + x


class CompactEncoder(nn.Module):
    """A small encoder for CPU and Jetson: stride 16, 128 channels, about 0.5 M parameters."""

    channels = 128
    stride = 16
    cell_offset = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 5, 2, 2)
        self.conv2 = nn.Conv2d(24, 48, 3, 2, 1)
        self.conv3 = nn.Conv2d(48, 96, 3, 2, 1)
        self.conv4 = nn.Conv2d(96, 128, 3, 2, 1)
        self.context1 = nn.Conv2d(128, 128, 3, 1, 1)
        self.context2 = nn.Conv2d(128, 128, 3, 1, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 128, ceil(H/16), ceil(W/16))."""
        x = F.relu(self.conv1(grey))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = self.conv4(x)
        return x + self.context2(F.relu(self.context1(F.relu(x))))


def make_encoder(name: str) -> PublishedEncoder | CompactEncoder:
    """The encoder of that name; see ``PoseNetworkConfig.encoder``."""
    return PublishedEncoder() if name == "published" else CompactEncoder()
