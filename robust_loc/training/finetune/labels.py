"""Labels: where the pose of an image comes from, and which labels are not believed.

A label source is called with a frame and answers ``world_T_cam`` (4, 4) or None. Labels from a localizer are
pseudo-labels: some are wrong, which is what the robust likelihood of the training is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robust_loc.data import Bag, Trajectory
from robust_loc.errors import TrajectoryError
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.types import Estimate, FloatArray, Frame, Status

Label = Callable[[Frame], "FloatArray | None"]
Localizer = Callable[[Frame], "Estimate | None"]

_SECOND = 1_000_000_000
FIX_WINDOW = 15.0  # seconds about a frame from which fixes place the odometry
_FIXES = 9  # of them, the nearest in time
_NEIGHBOURS = 3  # labels on each side that a label is compared with
_SLACK = 0.1  # metres two neighbouring labels may differ at any speed


def label_source(bag: Bag, config: FinetuneConfig, localizer: Localizer | None, frames: Iterable[Frame]) -> Label:
    """The label of every frame as ``config.label_source`` says.

    Args:
        localizer: for 'localizer' and 'odometry'.
        frames: some frames of the bag, for 'odometry' to be placed by.

    Raises:
        BagTopicError: the bag has no such topic, or no pose in it.
        TrajectoryError: the localizer was sure of too few frames to place the odometry.
    """
    gap = round(config.label_gap * _SECOND)
    if config.label_source == "topic":
        poses = bag.trajectory(config.label_topic) if config.label_topic else bag.ground_truth()
        return lambda frame: poses.at(frame.stamp, gap)
    assert localizer is not None
    sure = sure_poses(localizer, config.minimum_probability)
    if config.label_source == "localizer":
        return sure
    if not config.label_topic:
        raise TrajectoryError("labels from odometry need the name of its topic (label_topic)")
    odometry = bag.trajectory(config.label_topic)
    fixes = [(frame.stamp, pose) for frame in frames if (pose := sure(frame)) is not None]
    placed = placed_in_map(odometry, fixes, gap)
    return lambda frame: placed.at(frame.stamp, gap)


def sure_poses(localizer: Localizer, minimum_probability: float) -> Label:
    """The localizer's poses where its status is OK and, if it can tell, it is likely to be right."""

    def label(frame: Frame) -> FloatArray | None:
        estimate = localizer(replace(frame, world_T_cam=None))
        if estimate is None or estimate.status is not Status.OK or estimate.world_T_cam is None:
            return None
        if estimate.probability is not None and estimate.probability < minimum_probability:
            return None
        return estimate.world_T_cam

    return label


def placed_in_map(odometry: Trajectory, fixes: list[tuple[int, FloatArray]], gap: int) -> Trajectory:
    """Metric odometry moved into the frame of sparse fixes, some of which may be wrong.

    Each fix says ``map_T_odom``. A pose is placed by the few nearest in time, so that drift does not add up: by the
    placement that is nearest to all others, averaged with the half that is nearest to it. Poses far from any fix are
    left out.

    Args:
        fixes: ``(stamp, map_T_cam)``.
        gap: nanoseconds across which the odometry is not interpolated.

    Raises:
        TrajectoryError: fewer than three fixes lie on the odometry.
    """
    placements = [
        (stamp, pose @ np.linalg.inv(at)) for stamp, pose in fixes if (at := odometry.at(stamp, gap)) is not None
    ]
    if len(placements) < 3:
        raise TrajectoryError(
            f"{len(placements)} of {len(fixes)} sure poses of the localizer lie on the odometry; placing it takes 3"
        )
    times = np.array([stamp for stamp, _ in placements])
    map_T_odom = np.array([placement for _, placement in placements])
    kept, poses = [], []
    for index, (stamp, pose) in enumerate(zip(odometry.stamps, odometry.world_T_cam)):
        apart = np.abs(times - stamp)
        near = np.argsort(apart, kind="stable")[:_FIXES]
        near = near[apart[near] <= FIX_WINDOW * _SECOND]
        if len(near) < 3:
            continue
        candidates = map_T_odom[near] @ pose
        distance = np.linalg.norm(candidates[:, None, :3, 3] - candidates[None, :, :3, 3], axis=-1)
        centre = int(distance.sum(1).argmin())
        agreeing = np.argsort(distance[centre])[: 1 + len(near) // 2]
        placed = np.eye(4)
        placed[:3, 3] = candidates[agreeing, :3, 3].mean(0)
        placed[:3, :3] = Rotation.from_matrix(candidates[agreeing, :3, :3]).mean().as_matrix()
        kept.append(index)
        poses.append(placed)
    return Trajectory(odometry.stamps[kept], np.array(poses).reshape(-1, 4, 4))


def believable(stamps: NDArray[np.int64], positions: FloatArray, maximum_speed: float) -> NDArray[np.bool_]:
    """Which labels (n) move no faster than ``maximum_speed`` m/s to at least a third of their neighbours in time.

    A wrong label jumps to and from all of them; a right one agrees with the right ones, also where every second one
    is wrong.
    """
    count = len(stamps)
    agreeing, compared = np.zeros(count), np.zeros(count)
    for step in range(1, _NEIGHBOURS + 1):
        distance = np.linalg.norm(positions[step:] - positions[:-step], axis=1)
        time = np.abs(stamps[step:] - stamps[:-step]) / _SECOND
        agrees = distance <= maximum_speed * time + _SLACK
        for side in (slice(step, None), slice(None, -step)):
            agreeing[side] += agrees
            compared[side] += 1
    return agreeing >= compared / 3
