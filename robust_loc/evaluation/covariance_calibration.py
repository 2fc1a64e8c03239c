"""Covariance factors of the sources of a results folder, from held-out truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robust_loc.data.results import read_source, sources_in
from robust_loc.data.trajectory import Trajectory, associate, read_tum
from robust_loc.errors import TrajectoryError
from robust_loc.types import FloatArray
from robust_loc.uncertainty import CovarianceFactors, compose, fit_factors, pose_error

INCREMENTS = "odometry.increments.txt"
_STRETCH = 10  # odometry increments per judged motion: short ones are no larger than the truth's own noise
_SCALE_WINDOW = 6  # stretches on either side that the local scale comes from
_SHORTEST = 1e-3  # metres: shorter true motions say nothing about the scale


def pose_factors(
    estimate: Trajectory, truth: Trajectory, tolerance: int = 10_000_000, method: str = "median"
) -> CovarianceFactors:
    """Factors of absolute poses in the truth's frame.

    Raises:
        TrajectoryError: the estimate has no covariances, or fewer than ten of its poses have a true counterpart.
    """
    i, j = associate(estimate, truth, tolerance, unique=True)
    paired, true = estimate.select(i), truth.select(j)
    if paired.covariances is None:
        raise TrajectoryError("the trajectory has no covariances to calibrate")
    finite = np.isfinite(paired.covariances).all(axis=(1, 2))
    usable = np.array(finite)
    usable[finite] = np.linalg.eigvalsh(paired.covariances[finite])[:, 0] > 0
    if usable.sum() < 10:
        raise TrajectoryError(f"{usable.sum()} poses have a covariance and a true counterpart; 10 are needed")
    errors = pose_error(paired.world_T_cam[usable], true.world_T_cam[usable])
    return fit_factors(errors, paired.covariances[usable], method)


def increment_factors(
    increments: Trajectory, truth: Trajectory, tolerance: int = 10_000_000, method: str = "median"
) -> CovarianceFactors:
    """Factors of odometry increments of unknown, slowly drifting scale.

    Increments are composed, with their covariances as if independent, over stretches of ten; each is scaled by the
    least-squares scale of its neighbourhood and compared with the true motion.

    Args:
        increments: ``previous_T_current`` at the current stamp, with covariances.

    Raises:
        TrajectoryError: fewer than ten stretches have true counterparts.
    """
    stretches = [
        (motion, covariance, true)
        for motion, covariance, start, end in _stretches(increments)
        if (true := _true_motion(truth, start, end, tolerance)) is not None
    ]
    if len(stretches) < 10:
        raise TrajectoryError(
            f"{len(stretches)} stretches of {_STRETCH} increments have true counterparts; 10 are needed"
        )
    motions, covariances, trues = (np.array(column) for column in zip(*stretches))
    dots = np.einsum("ni,ni->n", motions[:, :3, 3], trues[:, :3, 3])
    powers = np.einsum("ni,ni->n", motions[:, :3, 3], motions[:, :3, 3])
    moving = np.linalg.norm(trues[:, :3, 3], axis=1) > _SHORTEST
    errors, scaled = [], []
    for index in np.flatnonzero(moving):
        near = slice(max(0, index - _SCALE_WINDOW), index + _SCALE_WINDOW + 1)
        scale = float(dots[near].sum() / powers[near].sum())
        if scale <= 0:
            continue
        motion, unit = motions[index].copy(), np.repeat([scale, 1.0], 3)
        motion[:3, 3] *= scale
        errors.append(pose_error(motion, trues[index]))
        scaled.append(unit[:, None] * covariances[index] * unit)
    if len(errors) < 10:
        raise TrajectoryError(f"{len(errors)} stretches show motion; 10 are needed")
    return fit_factors(np.array(errors), np.array(scaled), method)


def folder_factors(
    folder: Path, truth: Trajectory, tolerance: int = 10_000_000, method: str = "median"
) -> dict[str, CovarianceFactors]:
    """Factors of every source of a results folder: absolute ones by their poses, the odometry by its increments.

    Raises:
        TrajectoryError: the folder holds nothing to calibrate, or a source has too few poses.
    """
    factors = {}
    for source in sources_in(folder):
        if source in ("fusion", "odometry"):
            continue
        factors[source] = pose_factors(read_source(folder, source).trajectory, truth, tolerance, method)
    if (folder / INCREMENTS).exists():
        factors["odometry"] = increment_factors(read_tum(folder / INCREMENTS), truth, tolerance, method)
    if not factors:
        raise TrajectoryError(f"{folder}: no source with covariances; write one with robust-loc localize -o {folder}")
    return factors


def _stretches(increments: Trajectory) -> Iterator[tuple[FloatArray, FloatArray, int, int]]:
    """(motion, covariance, start stamp, end stamp) of consecutive, non-overlapping stretches."""
    if increments.covariances is None:
        return
    gap = 3 * int(np.median(np.diff(increments.stamps))) if len(increments) > 1 else 0
    motion, covariance, count, start = np.eye(4), np.zeros((6, 6)), 0, 0
    for k in range(1, len(increments)):
        previous, stamp, step = int(increments.stamps[k - 1]), int(increments.stamps[k]), increments.covariances[k]
        if stamp - previous > gap or not np.isfinite(step).all():
            motion, covariance, count = np.eye(4), np.zeros((6, 6)), 0
            continue
        if count == 0:
            start = previous
        motion, covariance = compose(motion, covariance, increments.world_T_cam[k], step)
        count += 1
        if count == _STRETCH:
            yield motion, covariance, start, stamp
            motion, covariance, count = np.eye(4), np.zeros((6, 6)), 0


def _true_motion(truth: Trajectory, start: int, end: int, tolerance: int) -> FloatArray | None:
    poses = []
    for stamp in (start, end):
        index = int(np.argmin(np.abs(truth.stamps - stamp)))
        if abs(int(truth.stamps[index]) - stamp) > tolerance:
            return None
        poses.append(truth.world_T_cam[index])
    return np.linalg.inv(poses[0]) @ poses[1]
