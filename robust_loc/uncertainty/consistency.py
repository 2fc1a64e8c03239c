"""Is a covariance true? NEES, NIS, whiteness, coverage, sparsification, and the bands they should fall in.

Definitions follow Bar-Shalom, Li and Kirubarajan, *Estimation with Applications to Tracking and Navigation* (2001),
section 5.4. Errors and covariances are of any dimension d; for poses d = 6 in the ROS convention of
:mod:`robust_loc.uncertainty.conversions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import integrate, stats

from robust_loc.types import FloatArray

LEVELS = (0.5, 0.9, 0.95)


class Band(NamedTuple):
    """A value and the interval it should fall in (chi-square) or was drawn from (bootstrap)."""

    value: float
    low: float
    high: float

    @property
    def contains_value(self) -> bool:
        return self.low <= self.value <= self.high


class Whiteness(NamedTuple):
    """Autocorrelation of normalised innovations.

    Attributes:
        lags: (m,) 1, 2, ..., m.
        correlation: (m,) correlation at each lag; zero mean with standard deviation 1/sqrt(n d) when white.
        bound: half width of the two-sided 95 % band of one lag.
        p_value: of all lags together (Ljung-Box): small means the innovations are not white.
    """

    lags: FloatArray
    correlation: FloatArray
    bound: float
    p_value: float


class Sparsification(NamedTuple):
    """Mean error of what remains when the most uncertain fraction is removed.

    Attributes:
        removed: (m,) removed fractions in [0, 1).
        by_uncertainty: (m,) remaining mean error over the mean error of all.
        oracle: (m,) the same when the largest *errors* are removed.
        ause: area between the two curves, 0 for a perfect ranking.
        spearman: rank correlation of error and uncertainty, NaN when either is constant.
    """

    removed: FloatArray
    by_uncertainty: FloatArray
    oracle: FloatArray
    ause: float
    spearman: float


def nees(errors: FloatArray, covariances: FloatArray) -> FloatArray:
    """Normalised estimation error squared ``e^T Sigma^-1 e``; of an innovation and its covariance it is the NIS.

    Args:
        errors: (..., d).
        covariances: (..., d, d), broadcast against ``errors``.

    Raises:
        ValueError: if a covariance is not finite and positive definite, or an error is not finite.
    """
    return np.sum(whitened(errors, covariances) ** 2, -1)


nis = nees


def whitened(errors: FloatArray, covariances: FloatArray) -> FloatArray:
    """``L^-1 e`` with ``Sigma = L L^T``: (..., d), unit covariance when the covariances are true.

    Raises:
        ValueError: as :func:`nees`.
    """
    errors, covariances = np.asarray(errors, float), np.asarray(covariances, float)
    if not (np.isfinite(errors).all() and np.isfinite(covariances).all()):
        raise ValueError("errors and covariances must be finite")
    try:
        root = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError as error:
        raise ValueError("a covariance is not positive definite") from error
    return np.linalg.solve(root, errors[..., None])[..., 0]


def anees(values: FloatArray, dof: int, level: float = 0.95) -> Band:
    """Average NEES (or NIS) over n *independent* values, divided by ``dof``: 1 when true, with its chi-square band.

    The band is ``[chi2_{n dof}((1-level)/2), chi2_{n dof}((1+level)/2)] / (n dof)``. Values of one run are correlated:
    average over runs at one time, or use :func:`block_bootstrap`.

    Raises:
        ValueError: if there are no values.
    """
    values = np.asarray(values, float).ravel()
    if values.size == 0:
        raise ValueError("ANEES of no values")
    return Band(float(values.mean() / dof), *chi_square_band(values.size, dof, level))


def chi_square_band(count: int, dof: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of ``count`` independent chi-square values over ``dof``."""
    total = count * dof
    low, high = stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], total) / total
    return float(low), float(high)


def coverage(values: FloatArray, dof: int, levels: Sequence[float] = LEVELS) -> dict[float, float]:
    """Fraction of NEES values inside the ellipsoid of each probability: equal to the level when true."""
    values = np.asarray(values, float).ravel()
    if values.size == 0:
        raise ValueError("coverage of no values")
    return {level: float(np.mean(values <= stats.chi2.ppf(level, dof))) for level in levels}


def interval_calibration_error(
    errors: FloatArray, sigmas: FloatArray, levels: Sequence[float] = tuple(np.arange(0.05, 1.0, 0.05))
) -> FloatArray:
    """Interval ECE: mean over levels of ``|empirical - nominal|`` coverage of each axis' central interval.

    Args:
        errors, sigmas: (n, d).

    Returns:
        (d,), 0 when every interval holds its share.
    """
    z = np.abs(np.asarray(errors, float)) / np.asarray(sigmas, float)
    nominal = np.asarray(levels)
    empirical = np.mean(z[None] <= stats.norm.ppf((1 + nominal) / 2)[:, None, None], 1)
    return np.abs(empirical - nominal[:, None]).mean(0)


def autocorrelation(values: FloatArray, max_lag: int) -> FloatArray:
    """Correlation of a centred series (n,) with itself at lags 1 .. max_lag (biased estimate); 0 if it is constant."""
    centred = np.asarray(values, float) - np.mean(values)
    power = float(centred @ centred)
    if power <= 0.0:
        return np.zeros(max_lag)
    return np.array([centred[lag:] @ centred[:-lag] / power for lag in range(1, max_lag + 1)])


def innovation_whiteness(innovations: FloatArray, covariances: FloatArray, max_lag: int = 10) -> Whiteness:
    """Whether successive innovations (n, d) are independent, as those of a consistent filter are (Bar-Shalom 5.4.2).

    Uses the whitened innovations ``u_k``: ``rho(l) = sum_k u_k . u_{k+l} / sum_k |u_k|^2``.

    Raises:
        ValueError: with fewer than ``max_lag + 2`` innovations, or as :func:`nees`.
    """
    u = whitened(innovations, covariances)
    count, dimension = u.shape
    if count < max_lag + 2:
        raise ValueError(f"{count} innovations; whiteness to lag {max_lag} needs at least {max_lag + 2}")
    power = float(np.sum(u * u))
    lags = np.arange(1, max_lag + 1)
    correlation = np.array([np.sum(u[lag:] * u[:-lag]) / power for lag in lags])
    total = count * dimension
    ljung_box = total * np.sum(correlation**2 * count / (count - lags))
    return Whiteness(
        lags.astype(float), correlation, float(1.96 / np.sqrt(total)), float(stats.chi2.sf(ljung_box, max_lag))
    )


def block_length(values: FloatArray) -> int:
    """Block length for :func:`block_bootstrap`: twice the integrated autocorrelation time, at least n^(1/3).

    The autocorrelation is summed until it first drops below its noise ``2/sqrt(n)``.
    """
    values = np.asarray(values, float).ravel()
    count = values.size
    if count < 4:
        return 1
    correlation = autocorrelation(values, count // 2)
    below = np.flatnonzero(correlation < 2 / np.sqrt(count))
    time = 1 + 2 * correlation[: below[0] if below.size else None].sum()
    return int(np.clip(np.ceil(max(2 * time, count ** (1 / 3))), 1, count))


def block_bootstrap(
    values: FloatArray,
    statistic: Callable[[FloatArray], float] = lambda block: float(np.mean(block)),
    *,
    level: float = 0.95,
    block: int | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Band:
    """A statistic of correlated values with its percentile interval (circular block bootstrap, Politis-Romano 1992).

    Args:
        values: (n, ...) in time order; frames of a recording are correlated, so whole blocks are resampled.
        statistic: maps an array like ``values`` to a number.
        block: block length, by default :func:`block_length` of the values (of their norm when not scalar).

    Raises:
        ValueError: if there are no values.
    """
    values = np.asarray(values, float)
    count = len(values)
    if count == 0:
        raise ValueError("bootstrap of no values")
    if block is None:
        block = block_length(values if values.ndim == 1 else np.linalg.norm(values.reshape(count, -1), axis=1))
    rng = np.random.default_rng(seed)
    starts = rng.integers(count, size=(samples, -(-count // block)))
    drawn = []
    for start in starts:
        index = ((start[:, None] + np.arange(block)) % count).ravel()[:count]
        drawn.append(statistic(values[index]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Band(float(statistic(values)), float(low), float(high))


def sparsification(errors: FloatArray, uncertainties: FloatArray, steps: int = 50) -> Sparsification:
    """Sparsification curves and AUSE (Ilg et al., ECCV 2018), normalised by the mean error.

    Args:
        errors: (n,) non-negative errors.
        uncertainties: (n,) any scalar that should grow with the error (e.g. ``sqrt(trace)`` of a covariance block).

    Raises:
        ValueError: if shapes differ, there are no values, or all errors are zero.
    """
    errors, uncertainties = np.asarray(errors, float).ravel(), np.asarray(uncertainties, float).ravel()
    if errors.shape != uncertainties.shape or errors.size == 0:
        raise ValueError(f"expected two equally long series; got {errors.size} errors, {uncertainties.size} sigmas")
    if errors.mean() <= 0.0:
        raise ValueError("all errors are zero: their ranking is not determined")
    removed = np.arange(steps) / steps
    kept = np.maximum(1, np.round((1 - removed) * errors.size)).astype(int)

    def curve(order: FloatArray) -> FloatArray:
        running = np.cumsum(errors[np.argsort(order, kind="stable")]) / np.arange(1, errors.size + 1)
        return running[kept - 1] / errors.mean()

    by_uncertainty, oracle = curve(uncertainties), curve(errors)
    constant = np.ptp(errors) == 0 or np.ptp(uncertainties) == 0
    spearman = float("nan") if constant else float(stats.spearmanr(errors, uncertainties).statistic)
    return Sparsification(
        removed, by_uncertainty, oracle, float(integrate.trapezoid(by_uncertainty - oracle, removed)), spearman
    )


def ause(errors: FloatArray, uncertainties: FloatArray) -> float:
    """Area under the sparsification error; see :func:`sparsification`."""
    return sparsification(errors, uncertainties).ause


def auroc(scores: FloatArray, positive: FloatArray) -> float:
    """Probability that a wrong answer (``positive``) has the larger score than a right one; ties count half.

    NaN when only one class is present.
    """
    wrong = np.asarray(positive, bool).ravel()
    bad, good = int(wrong.sum()), int((~wrong).sum())
    if bad == 0 or good == 0:
        return float("nan")
    ranks = stats.rankdata(np.asarray(scores, float).ravel())
    return float((ranks[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))
