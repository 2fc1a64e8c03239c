"""Single rigid transforms in numpy: the filter's inner loop handles one at a time, where batched code is slow."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.types import FloatArray


def skew(v: FloatArray) -> FloatArray:
    """The matrix of ``v x``."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_exp(v: FloatArray) -> FloatArray:
    """Rotation matrix of a rotation vector (3,): Rodrigues."""
    x, y, z = float(v[0]), float(v[1]), float(v[2])
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-8:
        a, b = 1.0 - angle2 / 6, 0.5 - angle2 / 24
    else:
        angle = math.sqrt(angle2)
        a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle2
    return np.array(
        [
            [1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
            [b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x],
            [b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)],
        ]
    )


def rotation_log(R: FloatArray) -> FloatArray:
    """Rotation vector (3,) of a rotation matrix; angles above 3 rad go through a quaternion."""
    v = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    sine, cosine = 0.5 * math.sqrt(float(v @ v)), 0.5 * (float(R[0, 0] + R[1, 1] + R[2, 2]) - 1.0)
    angle = math.atan2(sine, cosine)
    if angle > 3.0:
        return Rotation.from_matrix(R).as_rotvec()
    return (0.5 * angle / sine if sine > 1e-6 else 0.5) * v


def inverse(a_T_b: FloatArray) -> FloatArray:
    """``b_T_a`` of a rigid (4, 4) transform."""
    b_T_a = np.zeros((4, 4))
    b_T_a[:3, :3] = a_T_b[:3, :3].T
    b_T_a[:3, 3] = -(a_T_b[:3, :3].T @ a_T_b[:3, 3])
    b_T_a[3, 3] = 1.0
    return b_T_a


def fraction_of(a_T_b: FloatArray, fraction: float) -> FloatArray:
    """The transform after ``fraction`` of the motion ``a_T_b``: constant turn rate, straight line."""
    part = np.eye(4)
    part[:3, :3], part[:3, 3] = rotation_exp(fraction * rotation_log(a_T_b[:3, :3])), fraction * a_T_b[:3, 3]
    return part


def is_pose(T: FloatArray) -> bool:
    """Whether T is a finite rigid (4, 4) transform."""
    if T.shape != (4, 4) or not np.isfinite(T).all():
        return False
    R = T[:3, :3]
    return bool(np.abs(R @ R.T - np.eye(3)).max() < 1e-3 and np.linalg.det(R) > 0)
