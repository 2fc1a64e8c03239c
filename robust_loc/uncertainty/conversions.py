"""Covariances of poses: from each estimator's own tangent to the ROS convention, and through frames.

ROS convention (REP-103): the covariance of a pose ``world_T_body`` is 6x6, position ``x y z`` first, then a rotation
about the **fixed** axes of the world frame. The matching error of a true pose against an estimate is

    e = [ p_true - p ;  Log(R_true R^T) ]

Every function is a first-order propagation ``A covariance A^T``; one Monte-Carlo test covers them all.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.types import FloatArray


def _skew(v: FloatArray) -> FloatArray:
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def _blocks(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    joined = np.empty((6, 6))  # np.block takes ten times as long, and filters call this in their inner loop
    joined[:3, :3], joined[:3, 3:], joined[3:, :3], joined[3:, 3:] = a, b, c, d
    return joined


_O, _I = np.zeros((3, 3)), np.eye(3)


def propagate(A: FloatArray, covariance: FloatArray) -> FloatArray:
    """``A covariance A^T``, exactly symmetric."""
    moved = A @ covariance @ A.T
    return 0.5 * (moved + moved.T)


def from_left_tangent(covariance: FloatArray, world_T_cam: FloatArray) -> FloatArray:
    """Odometry: left, coupled tangent ``[tau, phi]`` of ``cam_T_world <- Exp([tau, phi]) cam_T_world``."""
    R = world_T_cam[:3, :3]
    return propagate(_blocks(-R, _O, _O, -R), covariance)


def from_decoupled_tangent(covariance: FloatArray, world_T_cam: FloatArray) -> FloatArray:
    """Relocalizer: ``[omega, tau]`` of ``cam_T_world`` with ``R <- Exp(omega) R``, ``t <- t + tau``."""
    R = world_T_cam[:3, :3]
    t = -R.T @ world_T_cam[:3, 3]
    return propagate(_blocks(-R @ _skew(t), -R, -R, _O), covariance)


def from_body_tangent(covariance: FloatArray, world_T_cam: FloatArray) -> FloatArray:
    """Regressor: body frame, decoupled, ``[R^T (p_true - p), Log(R^T R_true)]``."""
    R = world_T_cam[:3, :3]
    return propagate(_blocks(R, _O, _O, R), covariance)


def pose_error(world_T_body: FloatArray, world_T_body_true: FloatArray) -> FloatArray:
    """The error [..., 6] that the covariance of ``world_T_body`` [..., 4, 4] describes (module docstring)."""
    position = world_T_body_true[..., :3, 3] - world_T_body[..., :3, 3]
    relative = world_T_body_true[..., :3, :3] @ np.swapaxes(world_T_body[..., :3, :3], -1, -2)
    rotation = Rotation.from_matrix(relative.reshape(-1, 3, 3)).as_rotvec().reshape(position.shape)
    return np.concatenate([position, rotation], -1)


def perturb(world_T_body: FloatArray, error: FloatArray) -> FloatArray:
    """The pose(s) [..., 4, 4] that lie ``error`` [..., 6] away from ``world_T_body``: inverse of :func:`pose_error`."""
    shape = np.broadcast_shapes(world_T_body.shape[:-2], error.shape[:-1])
    moved = np.array(np.broadcast_to(world_T_body, (*shape, 4, 4)))
    rotation = Rotation.from_rotvec(error[..., 3:].reshape(-1, 3)).as_matrix().reshape(*error.shape[:-1], 3, 3)
    moved[..., :3, 3] += error[..., :3]
    moved[..., :3, :3] = rotation @ moved[..., :3, :3]
    return moved


def change_world(covariance: FloatArray, new_T_world: FloatArray) -> FloatArray:
    """Covariance of ``new_T_world @ world_T_body`` for an exactly known rigid ``new_T_world``."""
    R = new_T_world[:3, :3]
    return propagate(_blocks(R, _O, _O, R), covariance)


def change_body(covariance: FloatArray, world_T_body: FloatArray, body_T_other: FloatArray) -> FloatArray:
    """Covariance of ``world_T_body @ body_T_other`` for an exactly known ``body_T_other`` (the lever arm)."""
    arm = world_T_body[:3, :3] @ body_T_other[:3, 3]
    return propagate(_blocks(_I, -_skew(arm), _O, _I), covariance)


def compose(
    a_T_b: FloatArray, covariance_ab: FloatArray, b_T_c: FloatArray, covariance_bc: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``a_T_c`` and its covariance from two independent uncertain poses."""
    covariance = change_body(covariance_ab, a_T_b, b_T_c) + change_world(covariance_bc, a_T_b)
    return a_T_b @ b_T_c, covariance


def invert(a_T_b: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``b_T_a`` and its covariance."""
    R, p = a_T_b[:3, :3], a_T_b[:3, 3]
    b_T_a = np.eye(4)
    b_T_a[:3, :3], b_T_a[:3, 3] = R.T, -R.T @ p
    return b_T_a, propagate(_blocks(-R.T, -R.T @ _skew(p), _O, -R.T), covariance)
