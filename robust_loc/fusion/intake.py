"""What a fix is worth before it is compared with the filter: well formed, new, and how much of its error is its own."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import replace

import numpy as np

from robust_loc.fusion.adaptation import NoiseAdaptation
from robust_loc.fusion.belief import Fix
from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.history import SECOND, Timeline
from robust_loc.fusion.rigid import is_pose
from robust_loc.types import REPEATED_IMAGE, Estimate, FloatArray
from robust_loc.uncertainty.calibration import CovarianceCalibration


class FixIntake:
    """Checks fixes and sets their covariances; remembers per source what that needs.

    Attributes:
        frozen: sources whose newest fix was the very same as the one before, and the odometry when it saw that of an
            image.
        ignored: reason -> number of inputs that were ignored for it.
    """

    def __init__(self, config: FusionConfig, calibration: CovarianceCalibration) -> None:
        self._config, self._calibration = config, calibration
        self._newest: dict[str, FloatArray] = {}
        self._stamps: dict[str, list[int]] = {}
        self.noise: dict[str, NoiseAdaptation] = {}
        self._drift = config.initial_odometry_inflation
        self.frozen: set[str] = set()
        self.ignored: dict[str, int] = {}

    def ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def checked(self, absolute: Estimate, source: str) -> Fix | None:
        """The fix with its calibrated, floored covariance; None, with the reason counted, when it is unusable."""
        c = self._config
        absolute = self._calibration.of(source).apply_to(absolute)
        pose, covariance = absolute.world_T_cam, absolute.covariance
        if pose is None or covariance is None or not is_pose(pose) or not np.isfinite(covariance).all():
            self.ignore(f"{source}: not a pose with a covariance")
            return None
        floor = np.repeat([c.minimum_fix_position_sigma, c.minimum_fix_rotation_sigma], 3) ** 2
        covariance = 0.5 * (covariance + covariance.T) + np.diag(floor)
        if covariance.shape != (6, 6) or np.linalg.eigvalsh(covariance).min() <= 0.0:
            self.ignore(f"{source}: its covariance is not positive definite")
            return None
        if absolute.probability is not None and not absolute.probability >= c.minimum_probability:
            self.ignore(f"{source}: improbable by its own account")
            return None
        return Fix(absolute.stamp, source, np.asarray(pose, float), covariance)

    def is_repeated(self, fix: Fix) -> bool:
        """Whether the source gives the very same numbers again: a frozen camera, and no new information."""
        last = self._newest.get(fix.source)
        self._newest[fix.source] = fix.map_T_cam
        same = last is not None and np.array_equal(last, fix.map_T_cam)
        (self.frozen.add if same else self.frozen.discard)(fix.source)
        return same

    def watch_images(self, odometry: Estimate) -> None:
        """Remember whether the odometry saw the very same image again."""
        same = odometry.reason == REPEATED_IMAGE
        (self.frozen.add if same else self.frozen.discard)("odometry")

    def honest(self, fix: Fix, timeline: Timeline, scale: tuple[float, float]) -> Fix:
        """The fix with the covariance that its source's fixes have shown among themselves."""
        c = self._config
        noise = self.noise.setdefault(fix.source, NoiseAdaptation(c.inflation_threshold, c.largest_inflation))
        noise.observe(fix, timeline, scale)
        return replace(fix, covariance=noise.source_factor * fix.covariance)

    @property
    def odometry_factor(self) -> float:
        """Factor on the covariance of increments: the largest that a source of fixes has shown to be needed."""
        return max([self._drift, *(noise.odometry_factor for noise in self.noise.values())])

    def odometry_drifted(self) -> None:
        """Fixes agreed with each other and not with the odometry: its variances are too small by a clear factor."""
        self._drift = min(4.0 * self._drift, self._config.largest_odometry_inflation)

    def odometry_restarted(self) -> None:
        """It has to earn its credit again."""
        self._drift = max(self._drift, self._config.initial_odometry_inflation)

    def relent(self, seconds: float) -> None:
        """Time passed: believe the odometry a little more again."""
        self._drift = max(1.0, self._drift * math.exp(-seconds / self._config.odometry_trust_time))

    def shared_error(self, fix: Fix) -> float:
        """Factor on the covariance of a fix that comes soon after another of its source: they share their error.

        Fixes at intervals d below the correlation time T count together as one per T: each with T / d times its
        covariance.
        """
        stamps = self._stamps.setdefault(fix.source, [])
        index = bisect_left(stamps, fix.stamp)
        insort(stamps, fix.stamp)
        if index == 0 or self._config.fix_correlation_time == 0.0:
            return 1.0
        interval = max((fix.stamp - stamps[index - 1]) / SECOND, 1e-3)
        return max(1.0, self._config.fix_correlation_time / interval)

    def forget_before(self, stamp: int) -> None:
        """Drop the stamps before ``stamp``, except the newest of each source."""
        for stamps in self._stamps.values():
            del stamps[: max(0, bisect_left(stamps, stamp) - 1)]

    def restart_clock(self) -> None:
        """Stamps mean nothing any more."""
        self._stamps.clear()
