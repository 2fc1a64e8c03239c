"""A compact descriptor network for a small computer: a shared trunk, a coarse and a fine head (strides 16 and 2).

The trunk halves the resolution four times; the fine head joins its stride-2 and upsampled stride-4 layers. Strided
layers have odd kernels with half padding, so cell ``i`` is centred on pixel ``stride * i``, as in the large networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_loc.features.inception import Conv

FIRST_SCORES = 2.0  # nats; from one nat the scale, which Adam moves slowly, would hold the first steps back


class Residual(nn.Module):
    """Depthwise 3x3 and pointwise convolutions around an identity."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.reduce = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(torch.relu_(self.expand(self.norm(self.depthwise(x)))))


class CompactNetwork(nn.Module):
    """Both descriptors of images [B, 3, H, W]: about 0.4 million parameters.

    Args:
        coarse_channels, fine_channels: lengths of the descriptors.
    """

    def __init__(self, coarse_channels: int = 128, fine_channels: int = 48) -> None:
        super().__init__()
        self.coarse_channels, self.fine_channels = coarse_channels, fine_channels
        self.stride2 = Conv(3, 16, 5, 2)
        self.stride4 = nn.Sequential(Conv(16, 32, 3, 2), Conv(32, 32, 3))
        self.stride8 = nn.Sequential(Conv(32, 64, 3, 2), Residual(64), Residual(64))
        self.stride16 = nn.Sequential(Conv(64, 128, 3, 2), Residual(128), Residual(128, 2), Residual(128, 3))
        self.coarse_head = _head(128, coarse_channels)
        self.fine_mix = nn.Sequential(Conv(48, 48, 3))
        self.fine_head = _head(48, fine_channels)

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stride-2 and stride-4 layers and the coarse descriptors [B, Cc, ceil(H / 16), ceil(W / 16)]."""
        two = self.stride2(standardised(images))
        four = self.stride4(two)
        return two, four, self.coarse_head(self.stride16(self.stride8(four)))

    def fine(self, two: Tensor, four: Tensor) -> Tensor:
        """Fine descriptors [B, Cf, ceil(H / 2), ceil(W / 2)] from the trunk's layers."""
        return self.fine_head(self.fine_mix(torch.cat([two, _doubled(four, two.shape[-2:])], 1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        two, four, coarse = self.trunk(images)
        return coarse, self.fine(two, four)


def standardised(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] with mean 0 and deviation 1 in each channel: exposure and white balance leave no trace."""
    centred = images - images.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + 0.05)


def _head(cin: int, cout: int) -> nn.Module:
    """The descriptor layer; its scale makes the first scores deviate by about ``FIRST_SCORES`` nats."""
    norm = nn.BatchNorm2d(cout)
    nn.init.constant_(norm.weight, (FIRST_SCORES / cout**0.5) ** 0.5)
    return nn.Sequential(nn.Conv2d(cin, cout, 1, bias=False), norm)


def _doubled(x: Tensor, size: torch.Size) -> Tensor:
    """Upsampled by two with cell ``i`` landing on cell ``2 i``; the last row and column repeat where needed."""
    height, width = x.shape[-2:]
    up = nn.functional.interpolate(x, size=(2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=True)
    pad = (0, max(size[1] - up.shape[-1], 0), 0, max(size[0] - up.shape[-2], 0))
    return nn.functional.pad(up, pad, mode="replicate")[..., : size[0], : size[1]]
