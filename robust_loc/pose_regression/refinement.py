"""Refinement of a regressed pose on the scene coordinates it was read from: robust Gauss-Newton, nothing learned.

Not part of the published method. It costs a millisecond and makes the answer as good as the scene coordinates are.

Minimises ``sum_i rho(|pi(R^T (X_i - t)) - x_i| / s)`` over the pose, with the Geman-McClure kernel
``rho(r) = r^2 / (1 + r^2)``, by iteratively reweighted least squares. The scale s shrinks from ``first_scale`` to
``last_scale`` (graduated non-convexity), so that a prediction some tenths of a metre off still converges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_loc.geometry.lie import SO3, skew

_NEAR = 0.1  # metres
_FLOOR = (1e-3, 1e-3)  # metres and radians that no covariance goes below
_WEAK = 1e-3  # information that keeps the inverse finite when no point is seen
_MEDIAN_OF_RAYLEIGH = 1.1774  # of a 2D error of unit deviation per axis


def refine_pose(
    points: Tensor,
    pixels: Tensor,
    intrinsics: Tensor,
    world_T_cam: Tensor,
    iterations: int = 10,
    first_scale: float = 40.0,
    last_scale: float = 4.0,
) -> tuple[Tensor, Tensor]:
    """The refined pose and its covariance.

    Args:
        points: (B, n, 3) world points, metres.
        pixels: (n, 2) where they are seen.
        intrinsics: (B, 4) ``fx fy cx cy``.
        world_T_cam: (B, 4, 4) to start from.
        first_scale, last_scale: pixels.

    Returns:
        ``world_T_cam`` (B, 4, 4) and the covariance (B, 6, 6) of its body error (see ``tangent.body_error``), with the
        pixel noise estimated from the median residual. Errors of neighbouring cells are correlated, which no single
        frame shows: scale it on held-out frames.
    """
    pose = world_T_cam
    for iteration in range(iterations):
        fraction = min(1.0, 1.5 * iteration / max(1, iterations - 1))
        scale = first_scale * (last_scale / first_scale) ** fraction
        information, gradient, _ = _normal_equations(points, pixels, intrinsics, pose, scale)
        damping = torch.diag_embed(1e-4 * torch.diagonal(information, dim1=-2, dim2=-1) + 1e-6)
        step = -torch.linalg.solve(information + damping, gradient)
        R, t = pose[:, :3, :3], pose[:, :3, 3:]
        moved = torch.cat([R @ SO3.exp(step[:, 3:]).matrix()[:, :3, :3], t + R @ step[:, :3, None]], -1)
        pose = torch.cat([moved, pose[:, 3:]], 1)
    information, _, error = _normal_equations(points, pixels, intrinsics, pose, last_scale)
    variance = (error.median(-1).values / _MEDIAN_OF_RAYLEIGH).square()
    floor = points.new_tensor([_FLOOR[0] ** 2] * 3 + [_FLOOR[1] ** 2] * 3)
    regular = information + torch.diag_embed(_WEAK * torch.ones_like(floor).expand(len(points), 6))
    covariance = variance[:, None, None] * torch.linalg.inv(regular)
    return pose, 0.5 * (covariance + covariance.mT) + torch.diag(floor)


def _normal_equations(
    points: Tensor, pixels: Tensor, intrinsics: Tensor, pose: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``J^T W J`` (B, 6, 6), ``J^T W r`` (B, 6) and the pixel errors (B, n) of ``t <- t + R a, R <- R Exp(b)``."""
    camera = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    z = camera[..., 2].clamp_min(_NEAR)
    focal = intrinsics[:, None, :2]
    residual = camera[..., :2] / z[..., None] * focal + intrinsics[:, None, 2:] - pixels
    error = residual.norm(dim=-1)
    weight = (camera[..., 2] > _NEAR) / (1 + (error / scale).square()).square()
    zero = torch.zeros_like(z)
    fx, fy = focal.unbind(-1)
    row_x = torch.stack([fx / z, zero, -fx * camera[..., 0] / z.square()], -1)
    row_y = torch.stack([zero, fy / z, -fy * camera[..., 1] / z.square()], -1)
    # d camera = -a + camera x b
    minus_identity = -torch.eye(3, dtype=points.dtype, device=points.device).expand(*camera.shape[:2], 3, 3)
    jacobian = torch.stack([row_x, row_y], -2) @ torch.cat([minus_identity, skew(camera)], -1)
    weighted = jacobian * weight[..., None, None]
    information = torch.einsum("bnij,bnik->bjk", weighted, jacobian)
    return information, torch.einsum("bnij,bni->bj", weighted, residual), error
