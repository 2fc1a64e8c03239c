"""The loss that trains a scene-coordinate head from posed images alone (ACE, Sec. 3.2-3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SOFT_CLAMP = (50.0, 1.0)  # pixels, at the start and at the end of the training
_NEAR, _FAR = 0.1, 1000.0  # metres of depth
_MAX_ERROR = 1000.0  # pixels
_TARGET_DEPTH = 10.0  # metres, for cells that are invalid
_PER_METRE = 50.0  # pixels that a metre of error counts like


class ReprojectionLoss(NamedTuple):
    """Attributes: loss (scalar); valid, the fraction of valid cells; median_error in pixels over the valid ones;
    error (n,) of all in pixels, without gradient, at most 1000."""

    loss: Tensor
    valid: Tensor
    median_error: Tensor
    error: Tensor


def soft_clamp(progress: float) -> float:
    """The clamp ``tau`` in pixels at ``progress`` in [0, 1]: from 51 to 1 along a quarter circle."""
    schedule = 1.0 - math.sqrt(max(0.0, 1.0 - progress**2))
    return (1.0 - schedule) * SOFT_CLAMP[0] + SOFT_CLAMP[1]


def reprojection_loss(
    points: Tensor,
    cam_T_world: Tensor,
    intrinsics: Tensor,
    pixels: Tensor,
    progress: float,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> ReprojectionLoss:
    """Loss of world points (n, 3) seen at pixels (n, 2) by cameras (n, 4, 4) with intrinsics (n, 4).

    ``weight`` answers the samples' weights (n,) given their errors.

    A cell is valid when its depth is within [0.1, 1000] m and its L1 error within 1000 px. Valid cells lose
    ``tau tanh(error / tau)``; the others their distance to the point 10 m along their ray.
    """
    camera = (cam_T_world[:, :3, :3] @ points[..., None] + cam_T_world[:, :3, 3:])[..., 0]
    depth = camera[:, 2]
    projected = camera[:, :2] / depth.clamp_min(_NEAR)[:, None] * intrinsics[:, :2] + intrinsics[:, 2:]
    error = (projected - pixels).abs().sum(-1)
    valid = (depth >= _NEAR) & (depth <= _FAR) & (error <= _MAX_ERROR)
    tau = soft_clamp(progress)
    ray = torch.cat([(pixels - intrinsics[:, 2:]) / intrinsics[:, :2], torch.ones_like(depth)[:, None]], -1)
    to_target = (_TARGET_DEPTH * ray - camera).abs().sum(-1)
    loss = torch.where(valid, tau * torch.tanh(error / tau), to_target)
    seen = error.detach()[valid]
    bounded = torch.where(valid, error.detach(), torch.full_like(error, _MAX_ERROR))
    if weight is not None:
        loss = weight(bounded) * loss
    middle = seen.median() if len(seen) else seen.new_tensor(math.inf)
    return ReprojectionLoss(loss.mean(), valid.float().mean(), middle, bounded)


def depth_loss(
    points: Tensor,
    cam_T_world: Tensor,
    intrinsics: Tensor,
    pixels: Tensor,
    depth: Tensor,
    weight: Tensor | float = 1.0,
) -> Tensor:
    """Mean distance, in units of ``_PER_METRE`` pixels, of world points (n, 3) to where the depth (n,) puts them.

    Shapes as in :func:`reprojection_loss`, ``weight`` (n,); samples with depth 0 (unknown) do not
    count. DSAC*'s RGB-D training.
    """
    ray = torch.cat([(pixels - intrinsics[:, 2:]) / intrinsics[:, :2], torch.ones_like(depth)[:, None]], -1)
    camera = (cam_T_world[:, :3, :3] @ points[..., None] + cam_T_world[:, :3, 3:])[..., 0]
    distance = (camera - depth[:, None] * ray).norm(dim=-1)
    known = depth > 0
    return _PER_METRE * (weight * distance * known).sum() / known.sum().clamp_min(1)
