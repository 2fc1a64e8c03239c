"""How far the covariances of a source, and of the odometry, may be trusted: learned while running.

Fixes of one source are compared with *each other* through the motion between them, never with the filter: a constant
bias or a kidnapped robot does not show here, covariances that are too small do. Pairs that are close in time tell of
the source's own covariances, pairs about a second apart of the odometry's. When a low quantile of their normalised
squared distances exceeds its chi-square value by a clear factor, the pair of variance factors is taken that brings both
quantiles nearest to it; honest covariances are left alone. Distances that no permitted factor explains belong to wrong
fixes and do not count.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from scipy import stats

from robust_loc.fusion.belief import Fix
from robust_loc.fusion.history import SECOND, Timeline
from robust_loc.types import FloatArray
from robust_loc.uncertainty.conversions import change_body, change_world, compose, pose_error

_QUANTILE = 0.3
_EXPECTED = float(stats.chi2.ppf(_QUANTILE, 6))
_WRONG = float(stats.chi2.ppf(0.999, 6))  # beyond this times the largest factor a fix is wrong, not imprecise
_FEWEST = 6
_APART = 1.0  # seconds between the fixes of a long pair; a short one spans less than half of it
_STEPS = np.array([1.0, 2.5, 4.0, 6.0, 9.0, 16.0, 25.0, 49.0, 100.0])


class Pair(NamedTuple):
    """The disagreement of two fixes and the parts of its covariance: fixes, odometry, scale."""

    residual: FloatArray
    fixes: FloatArray
    odometry: FloatArray
    scale: FloatArray

    def nis(self, source: FloatArray, odometry: FloatArray) -> FloatArray:
        """Normalised squares (...) under variance factors (...)."""
        shape = (..., None, None)
        S = source[shape] * self.fixes + odometry[shape] * self.odometry + self.scale
        return np.linalg.solve(S, np.broadcast_to(self.residual[:, None], (*S.shape[:-1], 1)))[..., 0] @ self.residual


class NoiseAdaptation:
    """Variance factors from the fixes of one source: its own and the odometry's, both 1 until they prove too small.

    Args:
        threshold: smallest excess that is acted upon (below, it may be chance).
        largest: cap on both factors.

    Attributes:
        source_factor, odometry_factor: factors on the covariances.
    """

    def __init__(self, threshold: float, largest: float, window: int = 30) -> None:
        self._threshold, self._largest = threshold, largest
        self._grid = [g.ravel() for g in np.meshgrid(_STEPS[largest >= _STEPS], _STEPS, indexing="ij")]
        self._short: deque[FloatArray] = deque(maxlen=window)
        self._long: deque[FloatArray] = deque(maxlen=window)
        self._recent: deque[Fix] = deque(maxlen=200)
        self.source_factor = self.odometry_factor = 1.0

    def observe(self, fix: Fix, timeline: Timeline, scale: tuple[float, float]) -> None:
        """Compare ``fix`` (covariance as given by its source) with the last one and with one about a second older."""
        ages = [(fix.stamp - other.stamp) / SECOND for other in self._recent]
        last = next((i for i in reversed(range(len(ages))) if 0 < ages[i] < 0.5 * _APART), None)
        older = next((i for i in reversed(range(len(ages))) if _APART <= ages[i] < 2 * _APART), None)
        for index, pairs in ((last, self._short), (older, self._long)):
            if index is None:
                continue
            pair = compared(self._recent[index], fix, timeline, scale)
            if pair is None:
                continue
            nis = pair.nis(*self._grid)
            if nis.min() <= _WRONG:
                pairs.append(nis)
        self._recent.append(fix)
        self._settle()

    def _settle(self) -> None:
        sets = [np.array(pairs) for pairs in (self._short, self._long) if len(pairs) >= _FEWEST]
        if not sets:
            return
        excess = np.array([np.quantile(nis, _QUANTILE, axis=0) / _EXPECTED for nis in sets])
        if (excess[:, 0] <= self._threshold).all():  # the grid begins at factors of one
            self.source_factor = self.odometry_factor = 1.0
            return
        misfit = np.abs(np.log(excess)).sum(0) + 0.05 * np.log(self._grid[0] * self._grid[1])
        best = int(np.argmin(misfit))
        self.source_factor, self.odometry_factor = float(self._grid[0][best]), float(self._grid[1][best])


def compared(first: Fix, second: Fix, timeline: Timeline, scale: tuple[float, float]) -> Pair | None:
    """Two fixes through the observed motion between them, with the odometry's own covariances.

    None where the motion was not observed all the way.
    """
    if not timeline.covers(first.stamp):
        return None
    motion, covariance, metres = np.eye(4), np.zeros((6, 6)), np.zeros(3)
    for stamp, step in timeline.after(first.stamp):
        if stamp > second.stamp:
            break
        if step.unobserved_translation or step.unobserved_rotation:
            return None
        s = scale[0] if step.scaled else 1.0
        increment, unit = step.increment.copy(), np.repeat([s, 1.0], 3)
        increment[:3, 3] *= s
        if step.scaled:
            metres = metres + motion[:3, :3] @ increment[:3, 3]
        motion, covariance = compose(
            motion, covariance, increment, unit[:, None] * step.covariance * unit / step.inflation
        )
    of_scale = np.zeros((6, 6))
    moved = first.map_T_cam[:3, :3] @ metres
    of_scale[:3, :3] = scale[1] ** 2 * np.outer(moved, moved)
    predicted = first.map_T_cam @ motion
    fixes = change_body(first.covariance, first.map_T_cam, motion) + second.covariance
    odometry = change_world(covariance, first.map_T_cam)
    return Pair(pose_error(predicted, second.map_T_cam), fixes, odometry, of_scale)
