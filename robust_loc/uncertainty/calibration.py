"""Covariance factors of each estimator, from held-out errors: ``Sigma <- S Sigma S``, ``S = blkdiag(s_t I, s_r I)``.

Networks and linearised optimisers give covariances of the right shape and the wrong size. Two numbers per estimator
correct the size: each from its own marginal 3x3 block, ``s^2 = mean(d^2) / 3`` or, not moved by a few wrong poses,
``s^2 = median(d^2) / 2.366`` (the median of chi-square with three degrees of freedom), ``d^2 = e^T Sigma^-1 e``.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from robust_loc.errors import ConfigurationError
from robust_loc.types import Estimate, FloatArray
from robust_loc.uncertainty.consistency import nees

FILE_NAME = "covariance_calibration.json"
FORMAT = 1
METHODS = ("median", "mean")


@dataclass(frozen=True)
class CovarianceFactors:
    """Factors on the standard deviations of one estimator.

    Attributes:
        translation, rotation: s_t and s_r, positive.
        samples: number of held-out poses they come from (0: not calibrated).
    """

    translation: float = 1.0
    rotation: float = 1.0
    samples: int = 0

    def __post_init__(self) -> None:
        for name in ("translation", "rotation"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ConfigurationError(f"covariance factor {name!r} is {value!r}; expected a positive number")

    def times(self, other: CovarianceFactors) -> CovarianceFactors:
        """Both factors one after the other."""
        return CovarianceFactors(
            self.translation * other.translation, self.rotation * other.rotation, max(self.samples, other.samples)
        )

    def apply(self, covariance: FloatArray) -> FloatArray:
        """``S Sigma S`` for covariances (..., 6, 6) in ROS order (position, then rotation)."""
        s = np.repeat([self.translation, self.rotation], 3)
        return covariance * s[:, None] * s

    def apply_to(self, estimate: Estimate) -> Estimate:
        """The estimate with both its covariances (pose and increment) scaled."""
        return replace(
            estimate,
            covariance=None if estimate.covariance is None else self.apply(estimate.covariance),
            increment_covariance=(
                None if estimate.increment_covariance is None else self.apply(estimate.increment_covariance)
            ),
        )


def fit_factors(errors: FloatArray, covariances: FloatArray, method: str = "median") -> CovarianceFactors:
    """The factors that make held-out errors (n, 6) agree with their covariances (n, 6, 6).

    Args:
        method: ``median`` (a minority of wrong poses does not count) or ``mean`` (ANEES of these errors becomes 1).

    Raises:
        ValueError: with fewer than 10 errors, an unknown method, or covariances that are not positive definite.
    """
    errors, covariances = np.asarray(errors, float), np.asarray(covariances, float)
    if method not in METHODS:
        raise ValueError(f"method {method!r}; expected one of {', '.join(METHODS)}")
    if len(errors) < 10:
        raise ValueError(f"{len(errors)} held-out errors; a covariance factor needs at least 10")
    factors = []
    for block in (slice(0, 3), slice(3, 6)):
        d2 = nees(errors[:, block], covariances[:, block, block])
        square = d2.mean() / 3 if method == "mean" else np.median(d2) / stats.chi2.ppf(0.5, 3)
        factors.append(float(np.sqrt(square)))
    return CovarianceFactors(factors[0], factors[1], len(errors))


@dataclass(frozen=True)
class CovarianceCalibration:
    """Factors of several estimators, kept in one small file beside a map or weights.

    Attributes:
        factors: estimator name (``odometry``, ``relocalizer``, ``regressor``) -> factors; an absent one is 1.
        details: where they come from (recording, frames, method): written to the file, not interpreted.
    """

    factors: Mapping[str, CovarianceFactors] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def of(self, estimator: str) -> CovarianceFactors:
        return self.factors.get(estimator, CovarianceFactors())

    def save(self, path: str | Path) -> Path:
        """Write json to ``path``, or to ``covariance_calibration.json`` in the folder ``path``; returns the file."""
        path = _file(path)
        document = {
            "format": FORMAT,
            "estimators": {name: asdict(value) for name, value in sorted(self.factors.items())},
            "details": dict(self.details),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as stream:
            json.dump(document, stream, indent=2)
        os.replace(stream.name, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> CovarianceCalibration:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigurationError: if the file cannot be read, has another format or a factor that is not positive.
        """
        path = _file(path)
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: cannot be read as a covariance calibration: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ConfigurationError(f"{path}: not a covariance calibration of format {FORMAT}")
        try:
            factors = {name: CovarianceFactors(**value) for name, value in document["estimators"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{path}: malformed covariance calibration: {error}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        return cls(factors, document.get("details") or {})

    @classmethod
    def load_beside(cls, path: str | Path) -> CovarianceCalibration:
        """The calibration stored with the map folder or weights file ``path``; all ones when there is none."""
        file = _beside(Path(path))
        return cls.load(file) if file.exists() else cls()

    def save_beside(self, path: str | Path) -> Path:
        """Write where :meth:`load_beside` looks; returns the file."""
        return self.save(_beside(Path(path)))


def _beside(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path.with_name(f"{path.stem}.{FILE_NAME}")


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE_NAME
