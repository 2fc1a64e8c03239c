"""The pose of every input frame, resolved at the end from keyframes and from frames hung on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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

    def add(self, number: int, stamp: int) -> None:
        self._stamps[number] = stamp

    def settle(self, number: int, world_T_cam: FloatArray) -> None:
        """The frame's pose is final."""
        self._settled[number] = world_T_cam

    def hang(self, number: int, other: int, other_T_cam: FloatArray) -> None:
        """The frame moves with the earlier frame ``other``."""
        self._hung[number] = (other, other_T_cam)

    def trajectory(self, in_graph: Mapping[int, FloatArray]) -> list[TrajectoryPoint]:
        """Every frame that has a pose, in input order; ``in_graph`` gives world_T_cam of the keyframes in use."""
        poses = {**self._settled, **in_graph}
        points = []
        for number, stamp in sorted(self._stamps.items()):
            if number not in poses and number in self._hung:
                other, other_T_cam = self._hung[number]  # an earlier frame, so its pose is known by now
                if other in poses:
                    poses[number] = poses[other] @ other_T_cam
            if number in poses:
                points.append(TrajectoryPoint(stamp, poses[number]))
        return points


class NoHistory(History):
    """Remembers nothing, for runs without end."""

    def add(self, number: int, stamp: int) -> None: ...

    def settle(self, number: int, world_T_cam: FloatArray) -> None: ...

    def hang(self, number: int, other: int, other_T_cam: FloatArray) -> None: ...
