"""What the tracker says of each frame: pose, increment and covariances, from the local map and what was said before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robust_loc.odometry.config import OdometryConfig
from robust_loc.odometry.history import History, NoHistory, TrajectoryPoint
from robust_loc.odometry.local_map import LocalMap
from robust_loc.odometry.motion import Belief, Motion
from robust_loc.types import Estimate, FloatArray, Frame, Status
from robust_loc.uncertainty.conversions import compose


class Answers:
    """Estimates in one world frame, the first camera, over all maps that follow each other.

    Args:
        calibrated: what held-out data make of a covariance of the bundle adjustment.
    """

    def __init__(self, config: OdometryConfig, calibrated: Callable[[FloatArray], FloatArray]) -> None:
        self._config, self._calibrated = config, calibrated
        self._history = History() if config.keep_trajectory else NoHistory()
        self._numbers = 0
        self._last_pose, self._last_covariance = np.eye(4), 1e-12 * np.eye(6)

    def begin(self, local_map: LocalMap) -> None:
        """A new, empty map: its origin is where the last answer was."""
        self._map = local_map
        self.origin: FloatArray = self._last_pose
        self._start_covariance: FloatArray = self._last_covariance
        self._belief = Belief(self._start_covariance)
        self._skipped: list[tuple[int, float]] = []  # frames before the first map, with their flow

    def count(self, frame: Frame) -> int:
        """The number of the frame among all that are answered with a pose or might be."""
        number = self._numbers
        self._numbers += 1
        self._history.add(number, frame.stamp)
        return number

    # --- answers ------------------------------------------------------------------------------------------------------

    def tracked(self, number: int, frame: Frame) -> Estimate:
        """The frame is the newest in the map, and adjusted."""
        n = len(self._map)
        reference_T_cam = self._map.relative(n - 2, n - 1)
        covariance = self._map.covariance(n - 2, n - 1)
        if covariance is None or not self._map.solved:
            wide = self._guessed_covariance(reference_T_cam)
            reason = "the bundle adjustment is not determined"
            return self._moved(number, frame, Status.UNRELIABLE, reason, reference_T_cam, wide)
        covariance = self._calibrated(covariance) + self._floor()
        if self._map.parallax() < self._config.minimum_parallax:
            unseen = self._config.minimum_parallax / self._map.focal() * self._map.median_depth()
            covariance[:3, :3] += unseen**2 * np.eye(3)
            reason = "the camera turns without moving: translation is not observed"
            return self._moved(number, frame, Status.DEGENERATE, reason, reference_T_cam, covariance)
        return self._moved(number, frame, Status.OK, "", reference_T_cam, covariance)

    def initializing(self, number: int, frame: Frame, reason: str) -> Estimate:
        """The frame is in the graph, but there is no map yet: the pose is a guess."""
        covariance = self._floor() if number == 0 else np.eye(6)
        return self._moved(number, frame, Status.INITIALIZING, reason, np.eye(4), covariance)

    def skipped(self, number: int, frame: Frame, flow: float) -> Estimate:
        """Before the first map, a frame with too little flow from the newest keyframe: it counts as standing still. The
        refined trajectory will place it by its flow, on the way to the next keyframe."""
        self._skipped.append((number, flow))
        return self.still(number, frame, "the camera has not moved enough yet")

    def moves_on(self, number: int, flow: float) -> None:
        """The next keyframe before the first map, with its flow from the one before."""
        frames = self._map.graph.frames
        for skipped, part in self._skipped:
            self._history.hang_between(skipped, frames[-2].number, number, min(part / flow, 1.0) if flow > 0 else 0.0)
        self._skipped.clear()

    def still(self, number: int, frame: Frame, reason: str) -> Estimate:
        """Identity motion; its covariance is what flow below the threshold could hide."""
        threshold = self._config.still_threshold if self._map.initialized else self._config.motion_threshold / 2
        rotation = threshold / self._map.focal()
        sigmas = np.repeat([rotation * self._map.median_depth(), rotation], 3)
        motion = self._belief.stay(self._world_T(-1), np.diag(sigmas**2) + self._floor())
        return self._beside(number, frame, Status.NO_MOTION, reason, motion)

    def extrapolated(self, number: int, frame: Frame, reason: str) -> Estimate:
        """The frame could not be used: the motion goes on as before, as far as anybody knows."""
        if not self._map.initialized:
            motion = self._belief.move(self._world_T(-1), self._belief.reference_T_last, np.eye(6))
            return self._beside(number, frame, Status.INITIALIZING, reason, motion)
        guess = self._map.guess(frame.stamp)
        reference_T_cam = (self._map.graph.pose(-1) * guess.inv()).matrix().cpu().numpy()
        motion = self._belief.move(self._world_T(-1), reference_T_cam, self._guessed_covariance(reference_T_cam))
        return self._beside(number, frame, Status.UNRELIABLE, reason, motion)

    def _moved(
        self,
        number: int,
        frame: Frame,
        status: Status,
        reason: str,
        reference_T_cam: FloatArray,
        covariance: FloatArray,
    ) -> Estimate:
        """The frame is the newest in the graph, ``reference_T_cam`` from the keyframe before it."""
        newest = len(self._map) - 1
        world_T_reference = self._world_T(max(newest - 1, 0))
        motion = self._belief.move(world_T_reference, reference_T_cam, covariance)
        self._belief.advance(world_T_reference)
        return self._estimate(number, frame, status, reason, self._world_T(newest), motion)

    def _beside(self, number: int, frame: Frame, status: Status, reason: str, motion: Motion) -> Estimate:
        """The estimate of a frame that is not in the graph: it hangs on the newest keyframe."""
        reference_T_cam = self._belief.reference_T_last
        world_T_cam = self._world_T(-1) @ reference_T_cam
        if self._map.graph.frames:
            self._history.hang(number, self._map.graph.frames[-1].number, reference_T_cam)
        else:
            self._history.settle(number, world_T_cam)
        return self._estimate(number, frame, status, reason, world_T_cam, motion)

    def _estimate(
        self, number: int, frame: Frame, status: Status, reason: str, world_T_cam: FloatArray, motion: Motion
    ) -> Estimate:
        self._last_pose, self._last_covariance = world_T_cam, motion.pose_covariance
        first = number == 0
        return Estimate(
            frame.stamp,
            status,
            reason,
            world_T_cam,
            motion.pose_covariance,
            None if first else motion.increment,
            None if first else motion.increment_covariance,
        )

    # --- covariances --------------------------------------------------------------------------------------------------

    def map_begins(self) -> None:
        """The first map is made: the previous answer's pose is known from here on, relative to the map's first."""
        last = len(self._map) - 2
        covariance = self._map.covariance(0, last)
        if covariance is not None:
            covariance = self._calibrated(covariance) + self._floor()
            origin = (self.origin, self._start_covariance)
            self._belief = Belief(compose(*origin, self._map.relative(0, last), covariance)[1])

    def _floor(self) -> FloatArray:
        """Keeps every covariance positive definite."""
        return np.diag(np.repeat([(1e-6 * self._map.median_depth()) ** 2, 1e-12], 3))

    def _guessed_covariance(self, reference_T_cam: FloatArray) -> FloatArray:
        """Of an extrapolated motion: as wide as the motion itself, and 0.05 rad or median depths more."""
        moved = float(np.linalg.norm(reference_T_cam[:3, 3])) + 0.05 * self._map.median_depth()
        turned = float(np.arccos(np.clip((np.trace(reference_T_cam[:3, :3]) - 1) / 2, -1, 1))) + 0.05
        return np.diag(np.repeat([moved**2, turned**2], 3))

    # --- the past -----------------------------------------------------------------------------------------------------

    def hang(self, index: int) -> None:
        """A frame is about to leave the graph: its pose hangs on the one before."""
        frames = self._map.graph.frames
        self._history.hang(frames[index].number, frames[index - 1].number, self._map.relative(index - 1, index))

    def settle(self, index: int) -> None:
        """A frame is about to leave the graph: its pose is final."""
        self._history.settle(self._map.graph.frames[index].number, self._world_T(index))

    def trajectory(self) -> list[TrajectoryPoint]:
        """The pose of every frame that has one, as known now."""
        in_graph = {frame.number: self._world_T(i) for i, frame in enumerate(self._map.graph.frames)}
        return self._history.trajectory(in_graph)

    def _world_T(self, index: int) -> FloatArray:
        """``world_T_cam`` of a frame of the graph; the origin when the graph is empty."""
        return np.asarray(self.origin @ self._map.map_T_cam(index))
