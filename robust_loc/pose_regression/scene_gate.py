"""Is this image of the training scene? Two tests, because an aleatoric covariance cannot say.

*Similarity*: cosine between the image's pooled features and those of the training images, about their mean.
*Agreement*: fraction of the cells whose predicted 3D point lies on the cell's ray under the predicted pose. A scene the
network does not know gives points that no single pose explains.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANK_SIZE = 256
_AGREEMENT_PIXELS_PER_FOCAL = 0.05  # about 3 degrees


class SceneGate(nn.Module):
    """Remembers the training images of one scene; an empty gate accepts everything.

    Buffers: ``bank`` (256, C) centred unit descriptors (unused rows are zero), ``centre`` (C,), ``minimum_similarity``
    and ``minimum_agreement`` (scalars).
    """

    bank: Tensor
    centre: Tensor
    minimum_similarity: Tensor
    minimum_agreement: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(BANK_SIZE, 2 * channels))
        self.register_buffer("centre", torch.zeros(2 * channels))
        self.register_buffer("minimum_similarity", torch.tensor(0.0))
        self.register_buffer("minimum_agreement", torch.tensor(0.0))

    @torch.no_grad()
    def remember(self, descriptors: Tensor) -> None:
        """Keep at most 256 of the training images' descriptors (n, C), spread evenly."""
        rows = torch.linspace(0, len(descriptors) - 1, min(BANK_SIZE, len(descriptors))).round().long()
        self.centre.copy_(descriptors.mean(0))
        self.bank.zero_()
        self.bank[: len(rows)] = F.normalize(descriptors[rows] - self.centre, dim=-1)

    @torch.no_grad()
    def set_limits(self, similarity: Tensor, agreement: Tensor) -> None:
        """Limits from held-out images of the scene (n,): two thirds of their 2nd percentiles."""
        self.minimum_similarity.copy_(0.67 * torch.quantile(similarity, 0.02).clamp_min(0.0))
        self.minimum_agreement.copy_(0.67 * torch.quantile(agreement, 0.02))

    def similarity(self, descriptors: Tensor) -> Tensor:
        """Best match of descriptors (n, C) in the bank: (n,) in [0, 1]; 1 when the gate is empty."""
        if not bool(self.bank.any()):
            return torch.ones(len(descriptors), device=descriptors.device)
        queries = F.normalize(descriptors - self.centre, dim=-1)
        return (queries @ self.bank.T).amax(-1).clamp(0.0, 1.0)


def describe(features: Tensor) -> Tensor:
    """Encoder features (B, C, h, w) to a descriptor (B, 2C): mean and spread of the unit-length cell features."""
    unit = F.normalize(features.float(), dim=1).flatten(2)
    return torch.cat([unit.mean(-1), unit.std(-1)], -1)


def agreement(points: Tensor, world_T_cam: Tensor, intrinsics: Tensor, pixels: Tensor) -> Tensor:
    """Fraction of cells whose point lies within about 3 degrees of the cell's ray: (B,).

    Args:
        points: (B, 3, h, w) world points; pixels: (2, h, w); intrinsics: (B, 4).
    """
    R, t = world_T_cam[:, :3, :3], world_T_cam[:, :3, 3:]
    camera = R.transpose(-1, -2) @ (points.flatten(2) - t)
    depth = camera[:, 2]
    ray = (pixels.flatten(1) - intrinsics[:, 2:, None]) / intrinsics[:, :2, None]
    offset = (camera[:, :2] / depth.clamp_min(0.1)[:, None] - ray).norm(dim=1)
    return ((offset < _AGREEMENT_PIXELS_PER_FOCAL) & (depth > 0.1)).float().mean(-1)
