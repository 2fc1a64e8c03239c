"""From what an odometry answers to a motion step, whatever its status says."""

from __future__ import annotations

import numpy as np

from robust_loc.fusion.belief import Step
from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.history import SECOND
from robust_loc.fusion.rigid import inverse, is_pose, rotation_log
from robust_loc.fusion.scale import MetricOdometry, ScaleFromOdometry
from robust_loc.types import Estimate, FloatArray, Status

_OBSERVED = (Status.OK, Status.UNRELIABLE, Status.NO_MOTION, Status.DEGENERATE)


class MotionSource:
    """Turns odometry estimates, and an external metric odometry where there is one, into steps of the camera.

    ========================  =====================================================================================
    answer                    step
    ========================  =====================================================================================
    OK, UNRELIABLE            its increment with its covariance (inflated by the odometry itself when UNRELIABLE)
    NO_MOTION                 its increment, identity when it gives none
    DEGENERATE                its rotation; the translation is unobserved
    others, or not finite     unobserved motion; after INITIALIZING the unit of length is a new one
    a gap over ``clock_jump`` unobserved motion: the odometry cannot vouch for what it did not see
    ========================  =====================================================================================
    """

    def __init__(self, config: FusionConfig, base_T_cam: FloatArray) -> None:
        self._config, self._base_T_cam = config, base_T_cam
        self.external = MetricOdometry()
        self._scale = ScaleFromOdometry(config.external_translation_noise)
        self._restarted = False

    def step(self, odometry: Estimate, previous: int, frozen: bool) -> Step:
        """The step from stamp ``previous`` to the estimate's; ``frozen``: the camera repeats itself."""
        duration = (odometry.stamp - previous) / SECOND
        camera = None if frozen else self._camera_step(odometry, duration)
        metric = self._external_step(previous, odometry.stamp, duration)
        if odometry.status is Status.INITIALIZING:
            self._restarted = True
        measured = None
        if camera is None or metric is None:
            self._scale.reset()
        elif not camera.unobserved_translation:
            measured = self._scale.add(camera.increment, metric.increment)
        chosen = metric if camera is None or self._config.external_odometry == "motion" else camera
        chosen = chosen or camera or self._unobserved(duration)
        new_scale = self._restarted and camera is not None and not self._config.metric_odometry
        if new_scale:
            self._restarted = False
        return _with(chosen, new_scale=new_scale, measured_scale=measured)

    def _camera_step(self, odometry: Estimate, duration: float) -> Step | None:
        c = self._config
        increment = odometry.increment
        if increment is None and odometry.status is Status.NO_MOTION:
            increment = np.eye(4)
        if odometry.status not in _OBSERVED or increment is None or duration > c.clock_jump:
            return None
        if not is_pose(increment):
            return None
        covariance = odometry.increment_covariance
        if covariance is None:
            covariance = _proportional(increment, c.odometry_translation_noise, c.odometry_rotation_noise)
        if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
            return None
        covariance = covariance + c.minimum_step_sigma**2 * np.eye(6)
        degenerate = odometry.status is Status.DEGENERATE
        if degenerate:
            increment = increment.copy()
            increment[:3, 3] = 0.0
        return Step(duration, increment, covariance, not c.metric_odometry, unobserved_translation=degenerate)

    def _external_step(self, previous: int, stamp: int, duration: float) -> Step | None:
        before, after = self.external.at(previous), self.external.at(stamp)
        if before is None or after is None:
            return None
        increment = inverse(self._base_T_cam) @ inverse(before) @ after @ self._base_T_cam
        c = self._config
        covariance = _proportional(increment, c.external_translation_noise, c.external_rotation_noise)
        return Step(duration, increment, covariance + c.minimum_step_sigma**2 * np.eye(6), scaled=False)

    def _unobserved(self, duration: float) -> Step:
        return Step(min(duration, self._config.lost_timeout), np.eye(4), np.zeros((6, 6)), False, True, True)


def _with(step: Step, *, new_scale: bool, measured_scale: tuple[float, float] | None) -> Step:
    return Step(
        step.duration,
        step.increment,
        step.covariance,
        step.scaled,
        step.unobserved_translation,
        step.unobserved_rotation,
        new_scale,
        measured_scale,
    )


def _proportional(increment: FloatArray, translation_noise: float, rotation_noise: float) -> FloatArray:
    """Covariance (6, 6) whose sigmas are fractions of the distance and the angle, the same on all axes."""
    distance = np.linalg.norm(increment[:3, 3])
    angle = np.linalg.norm(rotation_log(increment[:3, :3]))
    return np.diag(np.repeat([translation_noise * distance, rotation_noise * angle], 3) ** 2)
