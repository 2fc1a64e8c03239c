"""Pinhole projection and its Jacobians, batched in torch."""

from __future__ import annotations

from torch import Tensor, stack, zeros_like


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Camera-frame points [..., 3] -> pixels [..., 2] with ``intrinsics`` [..., 4] = ``fx fy cx cy``."""
    return intrinsics[..., :2] * points[..., :2] / points[..., 2:3] + intrinsics[..., 2:]


def projection_jacobian(points: Tensor, intrinsics: Tensor) -> Tensor:
    """d(pixel)/d(point) [..., 2, 3] at camera-frame points [..., 3]."""
    x, y, z = points.unbind(-1)
    fx, fy = intrinsics[..., 0], intrinsics[..., 1]
    zero = zeros_like(x)
    return stack([stack([fx / z, zero, -fx * x / z**2], -1), stack([zero, fy / z, -fy * y / z**2], -1)], -2)


def backproject(pixels: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels [..., 2] at ``depth`` [...] along the optical axis -> camera-frame points [..., 3]."""
    rays = (pixels - intrinsics[..., 2:]) / intrinsics[..., :2]
    return stack([rays[..., 0] * depth, rays[..., 1] * depth, depth], -1)
