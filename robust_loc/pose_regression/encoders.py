"""Image encoders: an image to a coarse grid of features, the same for every scene.

All take RGB images (B, 3, H, W), float in [0, 255], and convert inside to what they were made for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_loc.errors import WeightsError
from robust_loc.features import FINE_STRIDE, HandmadeConfig, HandmadeFeatures
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.exported import Description, ExportedNetwork, export
from robust_loc.features.network import CompactFeatures, fingerprint, normalised

GREY_MEAN, GREY_STD = 0.4, 0.25


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

    def forward(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 255] to (B, 512, ceil(H/8), ceil(W/8))."""
        grey = (images * images.new_tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True) / 255
        x = F.relu(self.conv1((grey - GREY_MEAN) / GREY_STD))
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
    """The coarse half of the relocalizer's compact network: stride 16, 128 channels; its weights may be shared."""

    stride = 16
    cell_offset = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.network = CompactNetwork()
        # the fine head is never run here
        del self.network.fine_mix, self.network.fine_head
        self.channels = self.network.coarse_channels

    def forward(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 255] to (B, 128, ceil(H/16), ceil(W/16))."""
        return self.network.trunk(normalised(images))[2]

    def load_features(self, path: str | Path) -> None:
        """Take the weights of a compact descriptor file; WeightsError says what is wrong with it."""
        network = CompactFeatures.from_file(path).network
        if network.coarse_channels != self.channels:
            raise WeightsError(f"{path}: has {network.coarse_channels} coarse channels; expected {self.channels}")
        del network.fine_mix, network.fine_head
        self.network = network


class HandmadeEncoder(nn.Module):
    """Coarse and fine hand-made descriptors of each cell: nothing to train, stride 16, 208 channels.

    The coarse one sees a third of the image, the fine one some twenty pixels about the cell's centre.
    """

    stride = 16
    cell_offset = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = HandmadeFeatures(HandmadeConfig(coarse_temperature=0.01, fine_temperature=0.01))
        self.channels = self.descriptor.coarse_channels + self.descriptor.fine_channels

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 255] to (B, 208, ceil(H/16), ceil(W/16))."""
        cells = []
        for image in images.clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy():
            maps = self.descriptor.extract(np.ascontiguousarray(image))
            step = self.stride // FINE_STRIDE
            fine = maps.fine[::step, ::step]
            cells.append(torch.cat([maps.coarse, fine], -1))
        # descriptors are about ten long; unit variance suits the head's initialisation
        return torch.stack(cells).permute(0, 3, 1, 2).to(images.device)


class ExportedEncoder(nn.Module):
    """An encoder as an exported file, in place of the one whose weights it was made from."""

    KIND = "regressor encoder"

    def __init__(self, path: str | Path, replaced: nn.Module, device: str = "cpu", threads: int = 1) -> None:
        super().__init__()
        self._run = ExportedNetwork(path, self.KIND, device, threads)
        if self._run.description.facts != {"weights": fingerprint(replaced)}:
            raise WeightsError(f"{path}: exported from another encoder than the scene's: export it again")
        self.stride, self.cell_offset, self.channels = replaced.stride, replaced.cell_offset, replaced.channels

    @classmethod
    def export(cls, encoder: nn.Module, height: int, width: int, path: str | Path) -> None:
        """Write ``encoder`` for images of this size."""
        if isinstance(encoder, HandmadeEncoder):
            raise WeightsError(f"{path}: the hand-made encoder has no network to export")
        export(encoder, Description(cls.KIND, (1, 3, height, width), {"weights": fingerprint(encoder)}), path)

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)[0]


def make_encoder(name: str) -> PublishedEncoder | CompactEncoder | HandmadeEncoder:
    """The encoder of that name; see ``PoseNetworkConfig.encoder``."""
    if name == "published":
        return PublishedEncoder()
    return CompactEncoder() if name == "compact" else HandmadeEncoder()
