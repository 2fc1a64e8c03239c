"""The pose of every input frame, resolved at the end from keyframes and from frames hung on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.types import FloatArray


class TrajectoryPoint(NamedTuple):
    """Attributes: stamp in nanoseconds; world_T_cam [4, 4]."""

    stamp: int
    world_T_cam: FloatArray


class History:
    """Frames by number: each is settled (its pose is final), hung on another frame, or still in the graph."""

    def __init__(self) -> None:
        self._stamps: dict[int, int] = {}
        self._settled: dict[int, FloatArray] = {}
        self._hung: dict[int, tuple[int, FloatArray]] = {}
        self._between: dict[int, tuple[int, int, float]] = {}

    def add(self, number: int, stamp: int) -> None:
        self._stamps[number] = stamp

    def settle(self, number: int, world_T_cam: FloatArray) -> None:
        """The frame's pose is final."""
        self._settled[number] = world_T_cam

    def hang(self, number: int, other: int, other_T_cam: FloatArray) -> None:
        """The frame moves with the earlier frame ``other``."""
        self._hung[number] = (other, other_T_cam)

    def hang_between(self, number: int, other: int, later: int, share: float) -> None:
        """The frame lies on the way from frame ``other`` to frame ``later``, at this share of it."""
        self._between[number] = (other, later, share)

    def trajectory(self, in_graph: Mapping[int, FloatArray]) -> list[TrajectoryPoint]:
        """Every frame that has a pose, in input order; ``in_graph`` gives world_T_cam of the keyframes in use."""
        poses = {**self._settled, **in_graph}
        stamps = sorted(self._stamps.items())
        for number, _ in stamps:
            if number not in poses and number in self._hung:
                other, other_T_cam = self._hung[number]  # an earlier frame, so its pose is known by now
                if other in poses:
                    poses[number] = poses[other] @ other_T_cam
        for number, (other, later, share) in self._between.items():
            if other in poses and later in poses:
                poses[number] = poses[other] @ part_of_way(np.linalg.inv(poses[other]) @ poses[later], share)
        return [TrajectoryPoint(stamp, poses[number]) for number, stamp in stamps if number in poses]


def part_of_way(before_T_after: FloatArray, share: float) -> FloatArray:
    """That share of a motion [4, 4], turning evenly along a straight line."""
    part = np.eye(4)
    part[:3, :3] = Rotation.from_rotvec(share * Rotation.from_matrix(before_T_after[:3, :3]).as_rotvec()).as_matrix()
    part[:3, 3] = share * before_T_after[:3, 3]
    return part


class NoHistory(History):
    """Remembers nothing, for runs without end."""

    def add(self, number: int, stamp: int) -> None: ...

    def settle(self, number: int, world_T_cam: FloatArray) -> None: ...

    def hang(self, number: int, other: int, other_T_cam: FloatArray) -> None: ...

    def hang_between(self, number: int, other: int, later: int, share: float) -> None: ...
