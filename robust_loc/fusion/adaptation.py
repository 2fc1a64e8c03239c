"""How far a source's covariances may be trusted, learned while running.

Successive fixes of one source are compared with *each other* through the motion between them, never with the filter:
a constant bias or a kidnapped robot does not show here, covariances that are too small do. When a low quantile of
these squared distances exceeds its chi-square value by a clear factor, the source's covariances are multiplied by that
factor; honest ones are left alone. Distances that no permitted factor explains belong to wrong fixes and do not count.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from scipy import stats

from robust_loc.fusion.belief import Belief, Fix, MotionModel
from robust_loc.fusion.history import SECOND, Timeline

_QUANTILE = 0.3
_EXPECTED = float(stats.chi2.ppf(_QUANTILE, 6))
_WRONG = float(stats.chi2.ppf(0.999, 6))  # beyond this times the largest factor a fix is wrong, not imprecise
_FEWEST = 6
_LONGEST_PAIR = 2.0  # seconds; odometry drift hides the fixes' errors beyond


class SourceNoise:
    """Variance factor of one source, 1 until it proves too small.

    Args:
        threshold: smallest factor that is acted upon (below, it may be chance).
        largest: cap on the factor.
    """

    def __init__(self, threshold: float, largest: float, window: int = 30) -> None:
        self._threshold, self._largest = threshold, largest
        self._squared: deque[float] = deque(maxlen=window)
        self._last: Fix | None = None

    @property
    def factor(self) -> float:
        """Factor on the covariance."""
        if len(self._squared) < _FEWEST:
            return 1.0
        excess = float(np.quantile(self._squared, _QUANTILE)) / _EXPECTED
        return min(excess, self._largest) if excess > self._threshold else 1.0

    def observe(self, fix: Fix, timeline: Timeline, scale: tuple[float, float], model: MotionModel) -> None:
        """Compare ``fix`` (with its covariance as given by its source) with the one before it."""
        last, self._last = self._last, fix
        if last is None or not 0 < fix.stamp - last.stamp < _LONGEST_PAIR * SECOND or not timeline.covers(last.stamp):
            return
        belief = Belief.at(last.map_T_cam, last.covariance, *scale)
        for stamp, step in timeline.after(last.stamp):
            if stamp > fix.stamp:
                break
            belief = belief.predicted(step, model)
        nis = belief.innovation(fix).nis
        if nis <= self._largest * _WRONG:
            self._squared.append(nis)
