"""The stride-4 convolutional encoder of DPVO (Teed, Lipson, Deng 2023, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OUTPUT_SCALE = 0.25  # both encoders divide their output by four


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection; ReLU after each convolution and after the sum."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, normalized: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm1, self.norm2 = _norm(channels_out, normalized), _norm(channels_out, normalized)
        self.downsample: nn.Module | None = None
        if stride != 1:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride=stride)
            self.downsample = nn.Sequential(convolution, _norm(channels_out, normalized))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + y)


class Encoder(nn.Module):
    """Images [n, 3, H, W] -> features [n, channels, H/4, W/4].

    Args:
        channels: of the output.
        width: channels of the first stage; the second stage has twice as many.
        normalized: instance normalisation (matching features) or none (context features).
    """

    def __init__(self, channels: int, *, width: int, normalized: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3)
        self.norm1 = _norm(width, normalized)
        self.layer1 = nn.Sequential(
            ResidualBlock(width, width, stride=1, normalized=normalized),
            ResidualBlock(width, width, stride=1, normalized=normalized),
        )
        self.layer2 = nn.Sequential(
            ResidualBlock(width, 2 * width, stride=2, normalized=normalized),
            ResidualBlock(2 * width, 2 * width, stride=1, normalized=normalized),
        )
        self.conv2 = nn.Conv2d(2 * width, channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: Tensor) -> Tensor:
        """Everything up to the last, 1x1 convolution: [n, 2 width, H/4, W/4]."""
        return self.layer2(self.layer1(torch.relu(self.norm1(self.conv1(images)))))

    def forward(self, images: Tensor) -> Tensor:
        return OUTPUT_SCALE * self.conv2(self.trunk(images))

    def head(self, features: Tensor) -> Tensor:
        """The last convolution on single positions: trunk features [k, 2 width] -> [k, channels]."""
        return OUTPUT_SCALE * nn.functional.linear(features, self.conv2.weight[:, :, 0, 0], self.conv2.bias)


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1, without parameters.

    On a CPU the sums over channels-last pixels are matrix products with a row of ones: five times faster than torch's
    own instance normalisation.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return nn.functional.instance_norm(x)
        n, C, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, C)
        mean = x.new_full((n, 1, h * w), 1 / (h * w))
        centred = pixels - mean @ pixels
        normalized = centred * torch.rsqrt(mean @ (centred * centred) + 1e-5)
        return normalized.reshape(n, h, w, C).permute(0, 3, 1, 2)


def _norm(channels: int, normalized: bool) -> nn.Module:
    return InstanceNorm() if normalized else nn.Identity()
