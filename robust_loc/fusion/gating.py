"""Which fixes are believed, how much, and how those of one image are merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from robust_loc.types import FloatArray


class Gate:
    """Chi-square gate on the NIS with Huber weights towards its edge.

    Args:
        soft: probability up to which a fix keeps its full weight.
        hard: probability beyond which it has none.
        dof: dimension of the innovation.
    """

    def __init__(self, soft: float, hard: float, dof: int = 6) -> None:
        self.soft, self.hard = _quantile(min(soft, hard), dof), _quantile(hard, dof)

    def weight(self, nis: float) -> float:
        """1 inside the soft gate, falling as ``sqrt(soft / nis)`` (Huber 1964), 0 outside the hard gate or if NaN."""
        if not nis <= self.hard:
            return 0.0
        return 1.0 if nis <= self.soft else float(np.sqrt(self.soft / nis))

    def accepts(self, nis: float) -> bool:
        return self.weight(nis) > 0.0


@lru_cache
def _quantile(probability: float, dof: int) -> float:
    return float(stats.chi2.ppf(probability, dof))


def intersect(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Covariance intersection of estimates (d,) with covariances (d, d) whose correlation is unknown.

    Pairwise ``C^-1 = w A^-1 + (1 - w) B^-1`` with the w in [0, 1] that minimises ``log det C`` (Julier and Uhlmann,
    ACC 1997): consistent for *any* correlation, so two networks that err on the same image are never counted twice.
    """
    mean, covariance = pairs[0]
    for other_mean, other in pairs[1:]:
        A, B = np.linalg.inv(covariance), np.linalg.inv(other)
        w = float(optimize.minimize_scalar(_log_volume, args=(A, B), bounds=(0.0, 1.0), method="bounded").x)
        merged = np.linalg.inv(w * A + (1 - w) * B)
        mean = merged @ (w * A @ mean + (1 - w) * B @ other_mean)
        covariance = 0.5 * (merged + merged.T)
    return mean, covariance


def _log_volume(w: float, A: FloatArray, B: FloatArray) -> float:
    return -float(np.linalg.slogdet(w * A + (1 - w) * B)[1])
