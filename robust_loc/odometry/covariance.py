"""How well the bundle adjustment knows the last motion: a 6x6 covariance from its information matrix.

The information is taken at the solution, without damping, over every frame that has edges; inverse depths and all other
poses are marginalised. Two gauges are fixed. The oldest pose is held. Scale is then still free (a monocular camera
does not see it), so the information-weighted mean of the log inverse depths is held as well: covariances are those at
the map's own scale, whose slow drift is another quantity.

Network weights are relative, not inverse squared pixels: the covariance is scaled by the variance factor
``sum(w r^2) / degrees of freedom`` of the residuals, and by a calibrated constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.bundle_adjustment import INFERENCE, Layout, normal_equations
from robust_loc.types import FloatArray
from robust_loc.uncertainty.conversions import propagate

NEGLIGIBLE = 1e-3  # a weight below this is no measurement: its residual is not held to any sigma


class MotionCovariance(NamedTuple):
    """Attributes: covariance [6, 6] of the increment in ROS convention; variance_factor of the residuals; measurements
    (rows) that took part."""

    covariance: FloatArray
    variance_factor: float
    measurements: int


def increment_covariance(
    poses: SE3,
    patches: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    weight: Tensor,
    ii: Tensor,
    jj: Tensor,
    kk: Tensor,
    *,
    image_size: tuple[int, int],
    previous: int,
    current: int,
) -> MotionCovariance | None:
    """Covariance of ``previous_T_current``, the motion between two frames of the graph.

    Arguments as in :func:`robust_loc.odometry.bundle_adjustment.bundle_adjust`.

    Returns:
        None when the edges do not determine the motion.
    """
    between = ii != jj
    n = len(poses.data)
    touched = torch.zeros(n, dtype=torch.bool, device=ii.device)
    touched[ii[between]] = True
    touched[jj[between]] = True
    if int(touched.sum()) < 2 or not touched[previous] or not touched[current]:
        return None
    free = touched.clone()
    free[touched.nonzero()[0]] = False
    edges = ii[between], jj[between], kk[between]
    layout = Layout.of(n, edges[0], edges[2], None, free)
    system = normal_equations(
        poses,
        patches,
        intrinsics,
        target[between],
        weight[between],
        *edges,
        image_size=image_size,
        layout=layout,
        damping=INFERENCE,
    )
    B, E, C = (x[0].cpu().numpy() for x in (system.B, system.E, system.C))
    depth = np.zeros(len(C))
    depth[layout.slot.cpu().numpy()] = patches[layout.touched, 2, 0, 0].cpu().numpy()
    information = _reduced_information(B, E, C, depth)
    rows = int((weight[between][system.used] > NEGLIGIBLE).sum())
    freedom = rows - len(B) - int((C > 0).sum())
    if freedom <= 0:
        return None
    marginal = _pose_covariance(information, [int(layout.pose[f]) for f in (previous, current)])
    if marginal is None:
        return None
    factor = float(system.cost[0]) / freedom
    increment = poses[previous] * poses[current].inv()
    return MotionCovariance(factor * _relative(marginal, increment), factor, rows)


def _reduced_information(B: FloatArray, E: FloatArray, C: FloatArray, depth: FloatArray) -> FloatArray:
    """Schur complement of the depths under ``sum_k C_k d_k dz_k = 0``.

    With the constraint vector ``a = C d`` and ``Q = C^-1``: ``Q' = Q - Q a a^T Q / (a^T Q a)`` and ``Q a = d``.
    """
    seen = C > 1e-12
    Q = np.where(seen, 1 / np.where(seen, C, 1.0), 0.0)
    d = np.where(seen, depth, 0.0)
    held = float(d @ (C * d))
    information = B - (E * Q) @ E.T
    if held <= 0:  # no patch has parallax: depths act as known, and there is no scale to hold
        return information
    direction = E @ d
    return np.asarray(information + np.outer(direction, direction) / held)


def _pose_covariance(information: FloatArray, slots: list[int]) -> FloatArray | None:
    """[12, 12] covariance of two poses; a negative slot is the held pose. None if the information is singular."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-12))  # translations and rotations differ in unit
    try:
        L = np.linalg.cholesky(information / np.outer(scale, scale) + 1e-10 * np.eye(len(scale)))
    except np.linalg.LinAlgError:
        return None
    columns = np.zeros((len(scale), 12))
    for block, slot in enumerate(slots):
        for axis in range(6):
            if slot >= 0:
                columns[6 * slot + axis, 6 * block + axis] = 1 / scale[6 * slot + axis]
    half = np.linalg.solve(L, columns)
    covariance = half.T @ half
    return covariance if np.isfinite(covariance).all() else None


def _relative(marginal: FloatArray, increment: SE3) -> FloatArray:
    """Left tangents of two poses ``T_a, T_b`` -> ROS covariance of ``a_T_b = T_a T_b^-1``.

    ``Exp(xi_a) a_T_b Exp(-xi_b) = Exp(xi_a - Ad xi_b) a_T_b``; a left tangent ``[tau, phi]`` moves the position
    ``p`` by ``tau + phi x p`` and turns about the fixed axes by ``phi``.
    """
    Ad = increment.adjoint().cpu().numpy()
    x, y, z = increment.data[:3].cpu().numpy()
    minus_skew = -np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    to_ros = np.block([[np.eye(3), minus_skew], [np.zeros((3, 3)), np.eye(3)]])
    return propagate(to_ros @ np.hstack([np.eye(6), -Ad]), marginal)
