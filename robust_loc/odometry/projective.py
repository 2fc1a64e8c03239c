"""Reprojection of patches between frames, and its Jacobians.

An edge ``(i, j, k)`` takes patch ``k`` of frame ``i`` into frame ``j``. Edges are three flat index tensors
``ii, jj, kk``; frames of several clips may share one list, since nothing here couples edges. Poses are
``cam_T_world``; intrinsics [n, 4] = ``fx fy cx cy`` belong to quarter-resolution pixels and may differ by frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.patches import PATCH

NEAREST = 0.1  # depths are clamped here before the perspective division
VISIBLE = 0.2  # a point nearer than this is not observed
CENTRE = PATCH // 2


class Reprojection(NamedTuple):
    """Attributes: coords [E, 3, 3, 2] pixels (x, y) of each patch pixel; depth [E, 3, 3] homogeneous depth ``Z``."""

    coords: Tensor
    depth: Tensor

    @property
    def valid(self) -> Tensor:
        """[E] whether the patch centre lies in front of the camera."""
        return self.depth[:, CENTRE, CENTRE] > VISIBLE


class Linearization(NamedTuple):
    """First-order reprojection of patch centres.

    Attributes:
        pixel: [E, 2]; depth: [E].
        J_i, J_j: [E, 2, 6] derivatives by the left tangents ``[tau, phi]`` of poses i and j.
        J_z: [E, 2] derivative by the patch's inverse depth.
    """

    pixel: Tensor
    depth: Tensor
    J_i: Tensor
    J_j: Tensor
    J_z: Tensor


def _rays(patches: Tensor, intrinsics: Tensor) -> Tensor:
    """Patch pixels [..., 2, *] and intrinsics [..., 4] -> normalised rays [..., 3, *]."""
    fx, fy, cx, cy = (v.reshape(-1, *[1] * (patches.dim() - 2)) for v in intrinsics.unbind(-1))
    x, y = (patches[:, 0] - cx) / fx, (patches[:, 1] - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], 1)


def _transform(poses: SE3, ii: Tensor, jj: Tensor) -> tuple[Tensor, Tensor]:
    """``G_ij = T_j T_i^-1`` as rotation [E, 3, 3] and translation [E, 3]."""
    R = poses.rotation().rotation_matrix()
    R = R[jj] @ R[ii].transpose(1, 2)
    t = poses.data[:, :3]
    return R, t[jj] - (R @ t[ii, :, None]).squeeze(-1)


def _project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Homogeneous points [E, 3, ...] -> pixels [E, ..., 2]."""
    fx, fy, cx, cy = (v.reshape(-1, *[1] * (points.dim() - 2)) for v in intrinsics.unbind(-1))
    z = points[:, 2].clamp(min=NEAREST)
    return torch.stack([fx * points[:, 0] / z + cx, fy * points[:, 1] / z + cy], -1)


def reproject(
    poses: SE3, patches: Tensor, intrinsics: Tensor, ii: Tensor, jj: Tensor, kk: Tensor, *, rotate: bool = True
) -> Reprojection:
    """All nine pixels of each edge's patch in its target frame; differentiable.

    Args:
        poses: [n] ``cam_T_world``.
        patches: [K, 3, 3, 3]; the inverse depth may vary within a patch.
        intrinsics: [n, 4] at quarter resolution.
        rotate: False ignores the relative rotation (the translation-only flow).
    """
    R, t = _transform(poses, ii, jj)
    patch = patches[kk]
    rays = _rays(patch, intrinsics[ii])
    if rotate:
        rays = (R @ rays.flatten(2)).view_as(rays)
    points = rays + t[:, :, None, None] * patch[:, 2:]
    return Reprojection(_project(points, intrinsics[jj]), points[:, 2])


def linearize(poses: SE3, patches: Tensor, intrinsics: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Linearization:
    """Reprojected patch centres with Jacobians; arguments as in :func:`reproject`, differentiable."""
    R, t = _transform(poses, ii, jj)
    patch = patches[kk, :, CENTRE, CENTRE]
    d, K = patch[:, 2], intrinsics[jj]
    point = (R @ _rays(patch, intrinsics[ii])[..., None]).squeeze(-1) + t * d[:, None]
    X, Y, Z = point.unbind(-1)
    observed = Z.abs() > VISIBLE
    inverse = torch.where(observed, 1 / torch.where(observed, Z, torch.ones_like(Z)), torch.zeros_like(Z))
    zero = torch.zeros_like(X)
    fx, fy = K[:, 0] * inverse, K[:, 1] * inverse
    J_point = torch.stack([fx, zero, -fx * X * inverse, zero, fy, -fy * Y * inverse], -1).reshape(-1, 2, 3)
    # d(point)/d[tau, phi] = [d I, -[point]x] for point <- Exp([tau, phi]) point
    rotation = torch.stack([zero, Z, -Y, -Z, zero, X, Y, -X, zero], -1).reshape(-1, 3, 3)
    J_tau, J_phi = J_point * d[:, None, None], J_point @ rotation
    # J_i = -J_j Ad(G), Ad(G) = [[R, [t]x R], [0, R]], with row a [t]x = (a x t)
    coupling = torch.linalg.cross(J_tau, t[:, None].expand_as(J_tau))
    J_i = -torch.cat([J_tau @ R, (coupling + J_phi) @ R], -1)
    return Linearization(
        _project(point, K), Z, J_i, torch.cat([J_tau, J_phi], -1), torch.einsum("eab,eb->ea", J_point, t)
    )


def flow_magnitude(
    poses: SE3, patches: Tensor, intrinsics: Tensor, ii: Tensor, jj: Tensor, kk: Tensor, beta: float = 0.5
) -> Tensor:
    """``beta |flow| + (1 - beta) |flow by translation alone|`` [E, 3, 3], quarter-resolution pixels."""
    start = patches[kk, :2].permute(0, 2, 3, 1)
    full = reproject(poses, patches, intrinsics, ii, jj, kk).coords - start
    translation = reproject(poses, patches, intrinsics, ii, jj, kk, rotate=False).coords - start
    return beta * full.norm(dim=-1) + (1 - beta) * translation.norm(dim=-1)
