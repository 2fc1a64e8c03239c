"""Patches: 3x3 windows of the quarter-resolution grid, each with one inverse depth.

A patch is a tensor [3 (x, y, inverse depth), 3 (row), 3 (column)]. Patches of all frames lie in one flat list: patch
``k`` belongs to frame ``source[k]``. Positions are quarter-resolution pixels; position ``x`` is full-resolution ``4x``.
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 3  # side of a patch in quarter-resolution pixels
STRIDE = 4  # full-resolution pixels per quarter-resolution pixel


def random_centres(
    frames: int, per_frame: int, height: int, width: int, generator: torch.Generator | None = None
) -> Tensor:
    """Integer patch centres [frames, per_frame, 2] = (x, y), at least one pixel inside ``height x width``.

    ``generator`` lives on the CPU, so that a seed gives the same patches on every device.
    """
    x = torch.randint(1, width - 1, (frames, per_frame), generator=generator)
    y = torch.randint(1, height - 1, (frames, per_frame), generator=generator)
    return torch.stack([x, y], -1).float()


def gradient_centres(
    images: Tensor, per_frame: int, generator: torch.Generator | None = None, candidates: int = 3
) -> Tensor:
    """Like :func:`random_centres`, but of ``candidates`` times as many keep those with the largest image gradient.

    Args:
        images: [frames, 3, H, W], values 0..255.
    """
    gray = images.float().sum(1)
    dx, dy = gray[:, :-1, 1:] - gray[:, :-1, :-1], gray[:, 1:, :-1] - gray[:, :-1, :-1]
    magnitude = torch.nn.functional.avg_pool2d(torch.sqrt(dx**2 + dy**2)[:, None], STRIDE)
    height, width = images.shape[2] // STRIDE, images.shape[3] // STRIDE
    centres = random_centres(len(images), candidates * per_frame, height, width, generator).to(images.device)
    score = windows(magnitude, centres, radius=0).flatten(2).squeeze(-1)
    best = score.argsort(dim=1)[:, -per_frame:]
    return torch.gather(centres, 1, best[..., None].expand(-1, -1, 2))


def windows(features: Tensor, centres: Tensor, radius: int) -> Tensor:
    """Bilinear windows of side ``2 radius + 1`` around ``centres``; zero outside the map.

    Args:
        features: [n, C, h, w].
        centres: [n, M, 2] = (x, y) in its pixels.

    Returns:
        [n, M, C, 2 radius + 1, 2 radius + 1]; differentiable in ``features``.
    """
    n, C, h, w = features.shape
    side = 2 * radius + 2
    corner = torch.floor(centres)
    offsets = torch.arange(side, device=features.device) - radius
    x = corner[..., 0].long()[..., None, None] + offsets[None, :]
    y = corner[..., 1].long()[..., None, None] + offsets[:, None]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    frame = torch.arange(n, device=features.device)[:, None, None, None]
    row = (frame * h + y.clamp(0, h - 1)) * w + x.clamp(0, w - 1)
    rows = features.permute(0, 2, 3, 1).reshape(n * h * w, C)
    values = rows.index_select(0, row.reshape(-1)).reshape(*row.shape, C) * inside[..., None]
    fx, fy = (centres - corner).to(features.dtype)[..., None, None, None, :].unbind(-1)
    values = values[..., :-1, :] * (1 - fx) + values[..., 1:, :] * fx
    values = values[:, :, :-1] * (1 - fy) + values[:, :, 1:] * fy
    return values.permute(0, 1, 4, 2, 3)


def make_patches(centres: Tensor, inverse_depth: Tensor) -> Tensor:
    """Patches [n*M, 3, 3, 3] with centres [n, M, 2] and one inverse depth each [n, M]."""
    offset = torch.arange(PATCH, device=centres.device, dtype=centres.dtype) - PATCH // 2
    grid = torch.stack(torch.meshgrid(offset, offset, indexing="xy"))  # (x, y), row, column
    position = centres.reshape(-1, 2, 1, 1) + grid
    depth = inverse_depth.reshape(-1, 1, 1, 1).expand(-1, 1, PATCH, PATCH).to(position)
    return torch.cat([position, depth], 1)


def with_inverse_depth(patches: Tensor, inverse_depth: Tensor) -> Tensor:
    """``patches`` [K, 3, 3, 3] at another inverse depth [K] (constant over each patch); differentiable."""
    constant = inverse_depth[:, None, None, None].expand(-1, 1, PATCH, PATCH)
    return torch.cat([patches[:, :2], constant.to(patches.dtype)], 1)
