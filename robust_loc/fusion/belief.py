"""What the filter believes at one instant, how a motion changes it, and how fixes change it.

The nominal state is the camera's pose ``map_T_cam`` and the scale s (metres per unit of odometry). The error state is

    x = [ p_true - p ;  Log(R_true R^T) ;  s_true / s - 1 ]           (7: ROS convention, then log-scale to first order)

The camera's pose is linear in s, not in log s, so a correction of the scale is retracted as ``s <- s (1 + dx)`` and the
error state's last component is rescaled by the old scale over the new one: exact for any prior sigma, where
``s <- s exp(dx)`` diverges when the first fixes correct a wide prior.

The state of :mod:`robust_loc.fusion.filter` is ``map_T_odom``; it is this pose after the odometry's has been taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from robust_loc.fusion.gating import Gate, intersect, with_shared_error
from robust_loc.fusion.rigid import rotation_exp, rotation_log, skew
from robust_loc.types import FloatArray


@dataclass(frozen=True, eq=False)
class Step:
    """Motion of the camera between two stamps.

    Attributes:
        duration: seconds, positive.
        increment: (4, 4) ``previous_T_current`` of the camera.
        covariance: (6, 6) of ``increment``, ROS convention with the previous camera as the world.
        scaled: whether ``increment`` is in units of the odometry (else metres).
        unobserved_translation, unobserved_rotation: that part of the motion was not observed.
        new_scale: the odometry restarted: its unit is a new one from this step on.
        measured_scale: (scale, relative sigma) that became known at the end of this step.
        inflation: factor that ``covariance`` already holds on top of what the odometry gave.
    """

    duration: float
    increment: FloatArray
    covariance: FloatArray
    scaled: bool = True
    unobserved_translation: bool = False
    unobserved_rotation: bool = False
    new_scale: bool = False
    measured_scale: tuple[float, float] | None = None
    inflation: float = 1.0


@dataclass(frozen=True, eq=False)
class Fix:
    """An absolute pose: ``map_T_cam`` (4, 4) with its covariance (6, 6) at ``stamp``, from ``source``."""

    stamp: int
    source: str
    map_T_cam: FloatArray
    covariance: FloatArray


class Innovation(NamedTuple):
    """A fix against a belief: residual (6,), its covariance (6, 6) and its normalised square."""

    residual: FloatArray
    covariance: FloatArray
    nis: float


class MotionModel(NamedTuple):
    """Noise that the increments do not carry; see ``FusionConfig``."""

    scale_walk: float
    unobserved_speed: float
    unobserved_turn_rate: float
    initial_scale_sigma: float


_SMALLEST_CHANGE = 0.1  # of the scale in one correction, and its inverse
_LARGEST_ROTATION_VARIANCE = (np.pi / 2) ** 2  # an orientation cannot be less known than not at all


@dataclass(frozen=True, eq=False)
class Belief:
    """Pose and scale with their joint covariance.

    Attributes:
        map_T_cam: (4, 4).
        scale: metres per unit of odometry.
        covariance: (7, 7) of the error state (module docstring).
        gap_translation, gap_rotation: seconds for which that part of the motion has been unobserved, since a fix.
    """

    map_T_cam: FloatArray
    scale: float
    covariance: FloatArray
    gap_translation: float = 0.0
    gap_rotation: float = 0.0

    @classmethod
    def at(cls, map_T_cam: FloatArray, covariance: FloatArray, scale: float, relative_sigma: float) -> Belief:
        """A belief from an absolute pose and an independent scale."""
        P = np.zeros((7, 7))
        P[:6, :6], P[6, 6] = covariance, relative_sigma**2
        return cls(map_T_cam, scale, P)

    def predicted(self, step: Step, model: MotionModel) -> Belief:
        """The belief after ``step``: ``p <- p + s R t``, ``R <- R R_step``.

        Unobserved motion has a constant unknown velocity of sigma v: its variance grows with the square of the whole
        gap, ``v^2 (gap^2 - previous gap^2)`` in each step.
        """
        R, s = self.map_T_cam[:3, :3], self.scale if step.scaled else 1.0
        moved = s * (R @ step.increment[:3, 3])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = R @ step.increment[:3, :3], self.map_T_cam[:3, 3] + moved

        P = self.covariance
        if step.new_scale:
            P = P.copy()
            P[6, :6] = P[:6, 6] = 0.0
            P[6, 6] = max(P[6, 6], model.initial_scale_sigma**2)
        F = np.eye(7)
        F[:3, 3:6] = -skew(moved)
        G = np.zeros((7, 6))
        G[:3, :3], G[3:6, 3:] = s * R, R
        if step.scaled:
            F[:3, 6] = moved
        P = F @ P @ F.T + G @ step.covariance @ G.T
        if step.scaled:
            P[6, 6] += model.scale_walk**2 * step.duration

        gap_t = self.gap_translation + step.duration if step.unobserved_translation else 0.0
        gap_r = self.gap_rotation + step.duration if step.unobserved_rotation else 0.0
        if gap_t:
            P[range(3), range(3)] += model.unobserved_speed**2 * (gap_t**2 - self.gap_translation**2)
        if gap_r:
            growth = model.unobserved_turn_rate**2 * (gap_r**2 - self.gap_rotation**2)
            for axis in range(3, 6):
                P[axis, axis] += np.clip(_LARGEST_ROTATION_VARIANCE - P[axis, axis], 0.0, growth)
        belief = Belief(pose, self.scale, 0.5 * (P + P.T), gap_t, gap_r)
        return belief if step.measured_scale is None else belief.with_scale(*step.measured_scale)

    def innovation(self, fix: Fix) -> Innovation:
        """The fix against this belief, with the covariance it has if both are honest."""
        residual = np.empty(6)
        residual[:3] = fix.map_T_cam[:3, 3] - self.map_T_cam[:3, 3]
        residual[3:] = rotation_log(fix.map_T_cam[:3, :3] @ self.map_T_cam[:3, :3].T)
        S = self.covariance[:6, :6] + fix.covariance
        return Innovation(residual, S, float(residual @ np.linalg.solve(S, residual)))

    def corrected(self, fixes: Sequence[Fix], inflation: Sequence[float], gate: Gate) -> Belief:
        """The belief after the fixes of one image.

        Each is gated and down-weighted by itself; those that remain share the image, so they are not independent and
        are merged by covariance intersection before one Kalman update (Joseph form).

        Args:
            inflation: per fix, the number of fixes of its source that share one error (:func:`with_shared_error`).
        """
        pairs, sharing = [], 1.0
        for fix, factor in zip(fixes, inflation):
            innovation = self.innovation(fix)
            weight = gate.weight(innovation.nis)
            if weight > 0.0:
                pairs.append((innovation.residual, fix.covariance / weight))
                sharing = max(sharing, factor)
        if not pairs:
            return self
        residual, noise = intersect(pairs)
        extra, noise = with_shared_error(self.covariance[:6, :6], noise, sharing)
        fixed = self.widened(extra)._updated(residual, noise, slice(0, 6))
        return replace(fixed, gap_translation=0.0, gap_rotation=0.0)

    def with_scale(self, scale: float, relative_sigma: float) -> Belief:
        """The belief after an independent measurement of the scale."""
        residual = np.array([scale / self.scale - 1.0])
        return self._updated(residual, np.array([[(relative_sigma * scale / self.scale) ** 2]]), slice(6, 7))

    def widened(self, covariance: FloatArray) -> Belief:
        """The belief with ``covariance`` (6, 6) added to the pose's."""
        P = self.covariance.copy()
        P[:6, :6] += covariance
        return replace(self, covariance=P)

    def _updated(self, residual: FloatArray, noise: FloatArray, observed: slice) -> Belief:
        P = self.covariance
        gain = np.linalg.solve(P[observed, observed] + noise, P[observed]).T
        x = gain @ residual
        left = np.eye(7)
        left[:, observed] -= gain
        P = left @ P @ left.T + gain @ noise @ gain.T

        pose = self.map_T_cam.copy()
        pose[:3, 3] += x[:3]
        pose[:3, :3] = rotation_exp(x[3:6]) @ pose[:3, :3]
        change = float(np.clip(1.0 + x[6], _SMALLEST_CHANGE, 1 / _SMALLEST_CHANGE))
        P[6] /= change
        P[:, 6] /= change
        return replace(self, map_T_cam=pose, scale=self.scale * change, covariance=0.5 * (P + P.T))
