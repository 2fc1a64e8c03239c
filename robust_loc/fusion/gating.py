"""Which fixes are believed, how much, and how those of one image are merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import linalg, optimize, stats

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


_SHARES = np.linspace(0.02, 0.98, 25)


def with_shared_error(prior: FloatArray, noise: FloatArray, count: float) -> tuple[FloatArray, FloatArray]:
    """What to add to the prior's covariance (d, d), and the measurement's (d, d), when earlier measurements, which made
    the prior, share the error of this one.

    Two bounds hold whatever the correlation is, and the tighter one, by determinant, is taken: ``count`` times the
    noise, if the error is that of ``count`` measurements; or split covariance intersection (Julier and Uhlmann, 2001),
    in which the part of the prior that may be inherited from the measurements, no larger than their noise, is divided
    by w and the noise by 1 - w. So a prior that is wide for other reasons does not keep a precise measurement from
    being believed.
    """
    nothing = np.zeros_like(prior)
    if count <= 1.0:
        return nothing, noise
    ratios, axes = linalg.eigh(prior, noise)  # variances of the prior in axes where the noise is the identity
    ratios = np.maximum(ratios, 1e-12)
    inherited, own = np.minimum(ratios, 1.0), np.maximum(ratios - 1.0, 0.0)
    shares = _SHARES[:, None]
    intersected = np.log(1.0 / (own + inherited / shares) + 1.0 - shares).sum(1)
    best = int(np.argmax(intersected))
    if np.log(1.0 / ratios + 1.0 / count).sum() >= intersected[best]:
        return nothing, count * noise
    w, back = float(_SHARES[best]), noise @ axes
    return back @ np.diag(inherited * (1.0 / w - 1.0)) @ back.T, noise / (1.0 - w)


def _log_volume(w: float, A: FloatArray, B: FloatArray) -> float:
    return -float(np.linalg.slogdet(w * A + (1 - w) * B)[1])
