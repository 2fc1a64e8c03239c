"""Positional encodings of the pose transformer: of the 3D point a cell sees, and of the ray it sees it along."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

POINT_FREQUENCIES = 5
_CLIP = 50.0  # metres from the scene's centre
_RAY_SCALE = 400.0


def point_encoding(points: Tensor) -> Tensor:
    """NeRF encoding of points (B, 3, h, w) in metres: (B, 33, h, w) ``[x, sin 2^k x, cos 2^k x]``, k = 0..4."""
    x = points.clamp(-_CLIP, _CLIP) * (math.pi / _CLIP)
    parts = [x]
    for k in range(POINT_FREQUENCIES):
        parts += [torch.sin(2**k * x), torch.cos(2**k * x)]
    return torch.cat(parts, 1)


def ray_encoding(intrinsics: Tensor, height: int, width: int, stride: int, channels: int) -> Tensor:
    """Sinusoidal encoding of each cell's ray (B, channels, height, width).

    Args:
        intrinsics: (B, 4) ``fx fy cx cy`` of the full image in pixels, pixel centres at integers.
        height, width: of the grid; cell ``u`` stands for pixel ``stride * u``.
        channels: a multiple of 4; ``4k..4k+3`` are sin, cos of x and sin, cos of y at the k-th frequency.
    """
    fx, fy, cx, cy = intrinsics.unbind(-1)
    columns = torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) * stride
    rows = torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) * stride
    x = _RAY_SCALE * (columns - cx[:, None]) / fx[:, None]
    y = _RAY_SCALE * (rows - cy[:, None]) / fy[:, None]
    half = channels // 2
    step = torch.arange(0, half, 2, device=intrinsics.device, dtype=intrinsics.dtype)
    frequency = torch.exp(step * (-math.log(10_000.0) / half))[None, :, None]
    ax, ay = x[:, None] * frequency, y[:, None] * frequency
    shape = (-1, -1, height, width)
    parts = [
        torch.sin(ax)[:, :, None].expand(*shape),
        torch.cos(ax)[:, :, None].expand(*shape),
        torch.sin(ay)[..., None].expand(*shape),
        torch.cos(ay)[..., None].expand(*shape),
    ]
    return torch.stack(parts, 2).flatten(1, 2)


class PositionEncoding(nn.Module):
    """Adds up both encodings in ``channels`` channels (marepo, Chen et al., CVPR 2024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.pre_pe_dim_manipulator = nn.Conv2d(3 * (1 + 2 * POINT_FREQUENCIES), channels, 1)

    def forward(self, points: Tensor, intrinsics: Tensor, stride: int) -> Tensor:
        """Centred points (B, 3, h, w) and intrinsics (B, 4) to (B, channels, h, w)."""
        height, width = points.shape[-2:]
        rays = ray_encoding(intrinsics, height, width, stride, self.channels)
        return self.pre_pe_dim_manipulator(point_encoding(points)) + rays
