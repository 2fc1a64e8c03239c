"""Where the poses of a map come from: a topic, a TUM file, or the odometry; and how they become metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robust_loc.data import Bag, Trajectory, associate, read_tum
from robust_loc.errors import TrajectoryError
from robust_loc.geometry import umeyama

TOLERANCE = 20_000_000  # nanoseconds between poses that belong together


class MappingPoses(NamedTuple):
    """Camera poses, and what is known of their frame and unit: ``metric``, ``to``, ``residual``, ``scale``."""

    trajectory: Trajectory
    alignment: dict[str, Any]


def mapping_poses(
    bag: Bag, source: str | None = None, align_to: str | None = None, span: tuple[int, int | None] = (0, None)
) -> MappingPoses:
    """The camera's poses for a map.

    Args:
        source: a pose or odometry topic, ``/tf:parent.child``, a TUM file, ``odometry`` (run here over the frames of
            ``span``), or None for the recording's ground truth.
        align_to: a topic or TUM file of metric poses, or ``ground truth``: the poses are moved into its frame by a
            similarity; the RMS distance left is the residual.

    Raises:
        BagTopicError, TrajectoryError: no such poses, or too few in common to align.
    """
    own = source == "odometry"
    trajectory = _odometry(bag, span) if own else _named(bag, source)
    name = source or "ground truth"
    if align_to is None:
        # Poses that are taken as given leave nothing over; the odometry's unit of length is its own.
        return MappingPoses(trajectory, {"metric": not own, "to": name, "residual": 0.0})
    target = _named(bag, None if align_to == "ground truth" else align_to)
    here, there = associate(trajectory, target, TOLERANCE)
    if len(here) < 3:
        raise TrajectoryError(f"{name} and {align_to} have {len(here)} poses in common; an alignment needs 3")
    fit = umeyama(trajectory.positions[here], target.positions[there], with_scale=True)
    moved = np.array(trajectory.world_T_cam)
    moved[:, :3, :3] = fit.rotation @ moved[:, :3, :3]
    moved[:, :3, 3] = fit.scale * trajectory.positions @ fit.rotation.T + fit.translation
    residual = np.linalg.norm(moved[here, :3, 3] - target.positions[there], axis=1)
    facts = {"metric": True, "to": align_to, "residual": float(np.sqrt((residual**2).mean()))}
    return MappingPoses(Trajectory(trajectory.stamps, moved), facts | {"scale": float(fit.scale)})


def _named(bag: Bag, source: str | None) -> Trajectory:
    if source is None:
        return bag.ground_truth()
    if Path(source).is_file():
        return read_tum(source)
    return bag.trajectory(source)


def _odometry(bag: Bag, span: tuple[int, int | None]) -> Trajectory:
    """The odometry's trajectory over the recording, as refined at its end, with the package's weights."""
    import torch

    from robust_loc.odometry import Odometry, OdometryConfig

    odometry = Odometry(OdometryConfig.preset("default" if torch.cuda.is_available() else "cpu"))
    for frame in bag.frames(*span):
        odometry.update(frame)
    points = odometry.terminate()
    if len(points) < 3:
        raise TrajectoryError(f"{bag.path}: the odometry found {len(points)} poses; a map needs a moving camera")
    return Trajectory(np.array([p.stamp for p in points]), np.array([p.world_T_cam for p in points]))
