"""Pose loss of patch odometry: relative motions of all pairs of frames, after aligning the scale (DPVO, Sec. 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3

MAXIMUM_SCALE = 10.0  # a degenerate estimate must not blow the loss up


def alignment_scale(estimated: Tensor, target: Tensor) -> Tensor:
    """Scale of the alignment that maps estimated onto true camera centres.

    ``c = Var(target) / sum(singular values of H)``, ``H = (target - mean)^T (estimated - mean) / n``.

    Args:
        estimated, target: [..., n, 3] camera centres.

    Returns:
        [...] positive scales, at most 10 (also where the estimate has collapsed to a point).
    """
    a = target - target.mean(-2, keepdim=True)
    b = estimated - estimated.mean(-2, keepdim=True)
    covariance = a.transpose(-1, -2) @ b / target.shape[-2]
    spread = torch.linalg.svdvals(covariance.double()).sum(-1).to(target.dtype)
    variance = a.square().sum(-1).mean(-1)
    return (variance / spread.clamp(min=1e-12)).clamp(max=MAXIMUM_SCALE)


def relative_pose_error(estimated: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean translational and rotational error over all ordered pairs of frames.

    ``e_ij = Log((P_i^-1 P_j)(G_i^-1 G_j)^-1)`` with ``world_T_cam`` poses P (estimated, translations scaled) and G.

    Args:
        estimated, target: [..., n, 7] ``cam_T_world`` as ``t, q``, n >= 2.

    Returns:
        Means of ``|tau|`` (in units of the target) and ``|phi|`` (radians) [...]; the scale carries no gradient.
    """
    P, G = SE3(estimated).inv().data, SE3(target).inv().data
    scale = alignment_scale(P[..., :3].detach(), G[..., :3])
    P = torch.cat([P[..., :3] * scale[..., None, None], P[..., 3:]], -1)
    n = target.shape[-2]
    i, j = (~torch.eye(n, dtype=torch.bool, device=target.device)).nonzero().unbind(-1)
    relative = SE3(P[..., i, :]).inv() * SE3(P[..., j, :])
    truth = SE3(G[..., i, :]).inv() * SE3(G[..., j, :])
    error = (relative * truth.inv()).log()
    return _norm(error[..., :3]).mean(-1), _norm(error[..., 3:]).mean(-1)


def _norm(v: Tensor) -> Tensor:
    """Euclidean norm with a finite gradient at zero."""
    return v.square().sum(-1).clamp(min=1e-14).sqrt()
