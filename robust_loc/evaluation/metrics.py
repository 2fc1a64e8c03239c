"""Errors of an estimated trajectory against the truth: ATE, RPE, KITTI drift, relocalization recall.

Every function takes trajectories that are already *paired* (pose i of one belongs to pose i of the other), except
``kitti_drift``, which measures distances along the whole truth. Lengths in metres, angles in radians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import TrajectoryError
from robust_loc.geometry.alignment import Alignment, umeyama
from robust_loc.types import FloatArray

STANDSTILL = 0.01  # a camera that stays within this distance (m) of its mean position determines no alignment

# (metres, degrees): the bounds of the indoor and the outdoor relocalization benchmarks
RECALL_BOUNDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


class AlignmentMode(Enum):
    """The transform that an estimate may undergo before its errors are taken.

    SE3 and SIM3 fit the positions of the whole trajectory. START makes the first poses coincide and takes the scale of
    SIM3: the covariance of an odometry starts at zero with its first pose, and is judged so.
    """

    NONE = "none"
    SE3 = "se3"
    SIM3 = "sim3"
    START = "start"


class Statistics(NamedTuple):
    """Summary of non-negative errors."""

    rmse: float
    mean: float
    median: float
    max: float


class Drift(NamedTuple):
    """KITTI odometry drift: relative translation error, and rotation error in radians per metre."""

    translation: float
    rotation: float


def statistics(errors: FloatArray) -> Statistics:
    """Raises TrajectoryError when there are no errors to summarize."""
    if not len(errors):
        raise TrajectoryError("no errors to summarize")
    return Statistics(
        float(np.sqrt(np.mean(errors**2))), float(errors.mean()), float(np.median(errors)), float(errors.max())
    )


def find_alignment(estimate: Trajectory, truth: Trajectory, mode: AlignmentMode) -> Alignment | None:
    """The least-squares transform from the estimate's world to the true one (Umeyama, PAMI 1991).

    None where it is not determined: fewer than three poses, a true or estimated camera that stands still, or one that
    moves along a straight line exactly.
    """
    if mode is AlignmentMode.NONE:
        return Alignment(np.eye(3), np.zeros(3), 1.0)
    if mode is AlignmentMode.START:
        whole = find_alignment(estimate, truth, AlignmentMode.SIM3)
        if whole is None:
            return None
        rotation = truth.rotations[0] @ estimate.rotations[0].T
        return Alignment(rotation, truth.positions[0] - whole.scale * rotation @ estimate.positions[0], whole.scale)
    if len(estimate) < 3 or _spread(truth.positions) < STANDSTILL:
        return None
    try:
        found = umeyama(estimate.positions, truth.positions, with_scale=mode is AlignmentMode.SIM3)
    except ValueError:
        return None
    return found if np.isfinite(found.scale) and found.scale > 0 else None


def apply_alignment(estimate: Trajectory, alignment: Alignment) -> Trajectory:
    """The estimate in the true world, its covariances turned and (positions) scaled along."""
    covariances = estimate.covariances
    if covariances is not None:
        turn = np.zeros((6, 6))
        turn[:3, :3] = alignment.scale * alignment.rotation
        turn[3:, 3:] = alignment.rotation
        covariances = turn @ covariances @ turn.T
    return Trajectory(estimate.stamps, alignment.apply_to_poses(estimate.world_T_cam), covariances)


def rotation_angles(rotations: FloatArray) -> FloatArray:
    """(N,) angles of the rotations nearest to (N, 3, 3) matrices, radians."""
    return np.linalg.norm(Rotation.from_matrix(rotations).as_rotvec(), axis=1) if len(rotations) else np.zeros(0)


def trace_angles(rotations: FloatArray) -> FloatArray:
    """(N,) angles ``arccos((trace - 1) / 2)``, the KITTI tools' formula.

    On pose files of six digits it differs from ``rotation_angles`` by up to a milliradian per matrix.
    """
    return np.arccos(np.clip((np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2, -1.0, 1.0))


def translation_errors(estimate: Trajectory, truth: Trajectory) -> FloatArray:
    """(N,) distances between paired positions: the absolute trajectory error (Sturm et al., IROS 2012) per pose."""
    return np.linalg.norm(estimate.positions - truth.positions, axis=1)


def rotation_errors(estimate: Trajectory, truth: Trajectory) -> FloatArray:
    """(N,) angles between paired orientations, radians."""
    return rotation_angles(truth.rotations.transpose(0, 2, 1) @ estimate.rotations)


def relative_errors(
    estimate: Trajectory,
    truth: Trajectory,
    delta: int = 1,
    all_pairs: bool = False,
    angles: Callable[[FloatArray], FloatArray] = rotation_angles,
) -> tuple[FloatArray, FloatArray]:
    """Translation and rotation errors of the motion over ``delta`` frames (RPE, Sturm et al., IROS 2012).

    With pose i to j of each trajectory, the error is ``(truth_i^-1 truth_j)^-1 (estimate_i^-1 estimate_j)``. The pairs
    follow one another (0 to delta, delta to 2 delta, ...); ``all_pairs`` takes every start.
    """
    if delta < 1:
        raise ValueError(f"delta is {delta} frames; expected at least 1")
    start = np.arange(0, max(len(truth) - delta, 0), 1 if all_pairs else delta)
    error = np.linalg.inv(_motion(truth, start, start + delta)) @ _motion(estimate, start, start + delta)
    return np.linalg.norm(error[:, :3, 3], axis=1), angles(error[:, :3, :3])


def kitti_drift(
    estimate: Trajectory,
    truth: Trajectory,
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    lengths: Sequence[float] = (100, 200, 300, 400, 500, 600, 700, 800),
    step: int = 10,
) -> Drift | None:
    """Mean relative error over all stretches of 100 to 800 m, started every ``step`` frames (Geiger et al., CVPR 2012).

    Args:
        pairs: index arrays ``(i, j)`` such that ``estimate[i]`` belongs to ``truth[j]``.

    Returns:
        None where the truth is shorter than the shortest length.
    """
    steps = np.linalg.norm(np.diff(truth.positions, axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    estimate_of = np.full(len(truth), -1)
    estimate_of[pairs[1]] = pairs[0]
    first = np.repeat(np.arange(0, len(truth), step), len(lengths))
    length = np.tile(np.asarray(lengths, dtype=np.float64), len(first) // len(lengths))
    last = np.searchsorted(distance, distance[first] + length, side="right")
    inside = last < len(truth)
    first, last, length = first[inside], last[inside], length[inside]
    answered = (estimate_of[first] >= 0) & (estimate_of[last] >= 0)
    first, last, length = first[answered], last[answered], length[answered]
    if not len(first):
        return None
    error = np.linalg.inv(_motion(estimate, estimate_of[first], estimate_of[last])) @ _motion(truth, first, last)
    translation = np.linalg.norm(error[:, :3, 3], axis=1) / length
    return Drift(float(translation.mean()), float((trace_angles(error[:, :3, :3]) / length).mean()))


def recall(
    translation: FloatArray, rotation: FloatArray, frames: int, bounds: Sequence[tuple[float, float]] = RECALL_BOUNDS
) -> dict[str, float]:
    """Fraction of ``frames`` answered within both bounds (metres, degrees); unanswered frames count as failures.

    Keys read like ``0.05m_5deg``.
    """
    return {
        f"{metres:g}m_{degrees:g}deg": float(np.sum((translation < metres) & (np.degrees(rotation) < degrees)) / frames)
        for metres, degrees in bounds
    }


def _motion(trajectory: Trajectory, first: NDArray[np.intp], last: NDArray[np.intp]) -> FloatArray:
    return np.linalg.inv(trajectory.world_T_cam[first]) @ trajectory.world_T_cam[last]


def _spread(positions: FloatArray) -> float:
    return float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max())
