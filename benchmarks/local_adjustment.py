"""Bundle adjustment of a few views and their points, for the classical odometry: dense, plain numpy."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.types import FloatArray

IntArray = NDArray[np.int64]


def bundle_adjustment(
    cam_T_world: FloatArray,
    points: FloatArray,
    camera: IntArray,
    point: IntArray,
    pixels: FloatArray,
    k: FloatArray,
    fixed: int,
    iterations: int,
    huber: float = 1.5,
) -> tuple[FloatArray, FloatArray]:
    """Levenberg-Marquardt with the points eliminated (Schur complement) and Huber weights.

    Args:
        cam_T_world: (K, 4, 4), the first ``fixed`` held; points: (P, 3).
        camera, point, pixels: (N,), (N,), (N, 2) observations.
    """

    def cost(poses: FloatArray, world: FloatArray) -> float:
        error = np.linalg.norm(project(poses[camera], world[point], k) - pixels, axis=1)
        return float(np.where(error < huber, 0.5 * error**2, huber * (error - 0.5 * huber)).sum())

    count, total = len(cam_T_world), len(points)
    by_camera, by_point = Groups(camera, count), Groups(point, total)
    damping, current = 1e-4, cost(cam_T_world, points)
    for _ in range(iterations):
        rotation = cam_T_world[camera, :3, :3]
        x = np.einsum("nij,nj->ni", rotation, points[point]) + cam_T_world[camera, :3, 3]
        z = np.where(np.abs(x[:, 2]) < 1e-6, 1e-6, x[:, 2])
        residual = np.stack([k[0, 0] * x[:, 0] / z + k[0, 2], k[1, 1] * x[:, 1] / z + k[1, 2]], 1) - pixels
        error = np.linalg.norm(residual, axis=1)
        weight = np.where(x[:, 2] > 0, np.minimum(1.0, huber / np.maximum(error, 1e-9)), 0.0)
        projection = np.zeros((len(x), 2, 3))
        projection[:, 0, 0], projection[:, 0, 2] = k[0, 0] / z, -k[0, 0] * x[:, 0] / z**2
        projection[:, 1, 1], projection[:, 1, 2] = k[1, 1] / z, -k[1, 1] * x[:, 1] / z**2
        j_pose = np.concatenate([projection, -projection @ _skew(x)], axis=2)  # left perturbation [tau, phi]
        j_point = projection @ rotation
        weighted, weighted_point = weight[:, None, None] * j_pose, weight[:, None, None] * j_point
        u = by_camera.sum(weighted.transpose(0, 2, 1) @ j_pose)
        v = by_point.sum(weighted_point.transpose(0, 2, 1) @ j_point)
        b_pose = -by_camera.sum(np.einsum("nij,ni->nj", weighted, residual))
        b_point = -by_point.sum(np.einsum("nij,ni->nj", weighted_point, residual))
        e = np.zeros((count, total, 6, 3))
        e[camera, point] = weighted.transpose(0, 2, 1) @ j_point  # a camera sees a point once
        u, e, b_pose = u[fixed:], e[fixed:], b_pose[fixed:]
        free = count - fixed
        diagonal = np.arange(3)
        v[:, diagonal, diagonal] *= 1 + damping
        v[:, diagonal, diagonal] += 1e-9
        inverse = np.linalg.inv(v)
        ev = e @ inverse
        schur = -np.einsum("apij,bpkj->aibk", ev, e, optimize=True)
        for index in range(free):
            schur[index, :, index] += u[index] + damping * np.diag(np.diag(u[index])) + 1e-9 * np.eye(6)
        right = b_pose - np.einsum("apij,pj->ai", ev, b_point)
        try:
            step = np.linalg.solve(schur.reshape(6 * free, 6 * free), right.ravel()).reshape(free, 6)
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        d_points = np.einsum("pij,pj->pi", inverse, b_point - np.einsum("apij,ai->pj", e, step))
        candidate = cam_T_world.copy()
        for index in range(free):
            candidate[fixed + index] = perturbation(step[index]) @ cam_T_world[fixed + index]
        improved = cost(candidate, points + d_points)
        if improved < current:
            converged = current - improved < 1e-5 * current
            cam_T_world, points, current, damping = candidate, points + d_points, improved, damping / 5
            if converged:
                break
        else:
            damping *= 10
    return cam_T_world, points


class Groups:
    """Sums rows by the group they belong to."""

    def __init__(self, group: IntArray, count: int) -> None:
        self.order = np.argsort(group, kind="stable")
        self.present, self.starts = np.unique(group[self.order], return_index=True)
        self.count = count

    def sum(self, rows: FloatArray) -> FloatArray:
        """(count, ...) sums of ``rows`` (N, ...)."""
        total = np.zeros((self.count, *rows.shape[1:]))
        total[self.present] = np.add.reduceat(rows[self.order], self.starts, axis=0)
        return total


def perturbation(step: FloatArray) -> FloatArray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(step[3:])[0], step[:3]
    return pose


def _skew(x: FloatArray) -> FloatArray:
    zero = np.zeros(len(x))
    rows = [zero, -x[:, 2], x[:, 1], x[:, 2], zero, -x[:, 0], -x[:, 1], x[:, 0], zero]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def project(cam_T_world: FloatArray, points: FloatArray, k: FloatArray) -> FloatArray:
    """Pixels (N, 2) of world points (N, 3) under one pose (4, 4) or one each (N, 4, 4); far away behind the camera."""
    x = np.einsum("...ij,...j->...i", cam_T_world[..., :3, :3], points) + cam_T_world[..., :3, 3]
    z = np.where(x[:, 2] > 1e-6, x[:, 2], np.nan)
    pixels = x[:, :2] / z[:, None] * [k[0, 0], k[1, 1]] + k[:2, 2]
    return np.where(np.isfinite(pixels), pixels, 1e6)
