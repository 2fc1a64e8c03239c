"""Least-squares alignment of two point sets (Umeyama, PAMI 1991)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robust_loc.types import FloatArray


class Alignment(NamedTuple):
    """``target ~ scale * rotation @ source + translation``."""

    rotation: FloatArray
    translation: FloatArray
    scale: float

    def apply(self, points: FloatArray) -> FloatArray:
        """Map points (n, 3)."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_to_poses(self, world_T_cam: FloatArray) -> FloatArray:
        """Map poses (n, 4, 4): orientations are rotated, positions mapped."""
        moved = world_T_cam.copy()
        moved[:, :3, :3] = self.rotation @ world_T_cam[:, :3, :3]
        moved[:, :3, 3] = self.apply(world_T_cam[:, :3, 3])
        return moved


def umeyama(source: FloatArray, target: FloatArray, *, with_scale: bool) -> Alignment:
    """Rotation, translation and (optionally) scale that minimise ``sum |target - (s R source + t)|^2``.

    Args:
        source, target: (n, 3) points, n >= 3.

    Raises:
        ValueError: if shapes differ, or the points do not determine the rotation (fewer than three, collinear or
            coincident ones).
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"expected two arrays of one shape (n, 3); got {source.shape} and {target.shape}")
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    U, D, Vt = np.linalg.svd(b.T @ a / len(source))
    rounding = np.finfo(float).eps * max(np.abs(source).max() * np.abs(target).max(), D[0])
    if D[1] <= rounding:
        raise ValueError("the points are coincident or collinear: the alignment is not determined")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    rotation = U @ np.diag(sign) @ Vt
    scale = float((D * sign).sum() / a.var(0).sum()) if with_scale else 1.0
    return Alignment(rotation, target_mean - scale * rotation @ source_mean, scale)
