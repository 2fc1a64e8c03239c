"""The covariance of a relocalized pose, from the curvature of the smoothed cost.

The NRE is a negative log-likelihood in nats, so the smoothed cost is a Laplace target: its inverse Hessian is a
covariance. The per-point Hessians are projected to their positive-semidefinite parts first. The IRLS matrix
``sum t J^T J`` is not used: it ignores how flat a map is, which makes it over-confident.
"""

from __future__ import annotations

import numpy as np

from robust_loc.relocalization.gnc import evaluate, pose_jacobian, positive_curvature
from robust_loc.relocalization.loss_maps import LossMaps
from robust_loc.types import FloatArray
from robust_loc.uncertainty import from_decoupled_tangent

SIGMA = 0.6  # smoothing at which the curvature is read: the last of the schedules
MAX_VARIANCE = 1e4  # of a direction that the maps leave free (m^2 or rad^2)


def pose_information(
    maps: LossMaps, points: FloatArray, intrinsics: FloatArray, cam_T_world: FloatArray, sigma: float = SIGMA
) -> FloatArray:
    """``H = sum J^T M J`` (6, 6) in the tangent ``[omega, tau]`` of ``cam_T_world``, positive semidefinite."""
    terms = evaluate(maps, points, intrinsics, cam_T_world, sigma)
    J = pose_jacobian(terms.local, intrinsics, cam_T_world[:3, 3])
    H = np.einsum("nki,nkl,nlj->ij", J, positive_curvature(terms.curvature), J)
    return 0.5 * (H + H.T)


def tangent_covariance(information: FloatArray) -> FloatArray:
    """Inverse of a positive-semidefinite (6, 6); directions without information get ``MAX_VARIANCE``."""
    values, vectors = np.linalg.eigh(information)
    variances = np.minimum(1 / np.maximum(values, 1e-300), MAX_VARIANCE)
    return (vectors * variances) @ vectors.T


def pose_covariance(
    maps: LossMaps,
    points: FloatArray,
    intrinsics: FloatArray,
    cam_T_world: FloatArray,
    scale: float = 1.0,
    sigma: float = SIGMA,
) -> FloatArray:
    """Covariance (6, 6) of ``world_T_cam`` in ROS convention, times the calibration factor ``scale`` (of variances)."""
    covariance = tangent_covariance(pose_information(maps, points, intrinsics, cam_T_world, sigma))
    world_T_cam = np.asarray(np.linalg.inv(cam_T_world), np.float64)
    return from_decoupled_tangent(scale * covariance, world_T_cam)
