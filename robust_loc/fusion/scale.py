"""Metric motion from an external odometry topic, and the scale it gives to the camera's odometry."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import numpy as np

from robust_loc.fusion.history import SECOND
from robust_loc.fusion.rigid import fraction_of, inverse
from robust_loc.types import FloatArray


class MetricOdometry:
    """A buffer of ``odom_T_base`` that can be asked at any image's stamp."""

    def __init__(self, seconds: float = 20.0) -> None:
        self._keep = int(seconds * SECOND)
        self._stamps: list[int] = []
        self._poses: list[FloatArray] = []

    def add(self, stamp: int, odom_T_base: FloatArray) -> None:
        """Append a pose (4, 4); an older stamp than the newest starts over (the clock or the odometry restarted)."""
        if self._stamps and stamp <= self._stamps[-1]:
            if stamp == self._stamps[-1]:
                return
            self._stamps.clear()
            self._poses.clear()
        self._stamps.append(stamp)
        self._poses.append(odom_T_base)
        drop = bisect_right(self._stamps, stamp - self._keep)
        del self._stamps[:drop], self._poses[:drop]

    def at(self, stamp: int) -> FloatArray | None:
        """``odom_T_base`` (4, 4) interpolated at ``stamp``; None outside the buffer."""
        if not self._stamps or not self._stamps[0] <= stamp <= self._stamps[-1]:
            return None
        index = bisect_right(self._stamps, stamp)
        before = self._poses[index - 1]
        if index == len(self._stamps):
            return before
        fraction = (stamp - self._stamps[index - 1]) / (self._stamps[index] - self._stamps[index - 1])
        return before @ fraction_of(inverse(before) @ self._poses[index], fraction)


class ScaleFromOdometry:
    """Metres per unit of the camera's odometry, from displacements of both over the same stretches.

    Over a stretch long enough for the metric odometry to be precise, both give the camera's displacement in the
    camera frame at its start: ``t_metric = s t_camera``. Least squares gives ``s = t_camera . t_metric / |t_camera|^2``
    with the relative sigma ``metric_noise`` (sigma of the metric odometry per distance) plus the residual's share.

    Args:
        metric_noise: relative sigma of the metric odometry's distances.
        stretch: metres that a stretch must have.
    """

    def __init__(self, metric_noise: float = 0.02, stretch: float = 0.3) -> None:
        self._noise, self._stretch = metric_noise, stretch
        self._recent: deque[tuple[FloatArray, FloatArray]] = deque()
        self.reset()

    def reset(self) -> None:
        """Begin a new stretch (the odometry restarted or was silent)."""
        self._camera, self._metric = np.eye(4), np.eye(4)

    def add(self, camera_increment: FloatArray, metric_increment: FloatArray) -> tuple[float, float] | None:
        """Two (4, 4) camera motions over one step; (scale, relative sigma) when a stretch is complete, else None."""
        self._camera, self._metric = self._camera @ camera_increment, self._metric @ metric_increment
        metric, camera = self._metric[:3, 3], self._camera[:3, 3]
        if np.linalg.norm(metric) < self._stretch:
            return None
        self.reset()
        power = float(camera @ camera)
        scale = float(camera @ metric) / power if power > 0 else 0.0
        if scale <= 0.0:
            return None
        misfit = float(np.linalg.norm(metric - scale * camera) / np.linalg.norm(metric))
        return scale, float(np.hypot(self._noise, misfit))
