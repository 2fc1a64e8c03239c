"""Temperature schedules: how sharply a batch is weighted towards the samples that fit.

A schedule is called with recent squared Mahalanobis distances and the training's progress and answers the temperature
in the same (dimensionless) units: a sample at distance ``z`` gets the weight ``exp(-z^2 / 2T)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robust_loc.losses.chi_square import chi_square_quantile


class TemperatureSchedule(Protocol):
    """Answers a temperature: fixed, annealed or following the residuals."""

    def __call__(self, squared_distance: Tensor, dimension: int, progress: float) -> Tensor:
        """The temperature, shape ``(..., 1)``.

        Args:
            squared_distance: ``(..., M)`` recent squared Mahalanobis distances, detached.
            dimension: D, the length of the residuals they come from.
            progress: fraction of the training that is done, in [0, 1].
        """
        ...


@dataclass(frozen=True)
class FixedTemperature:
    """The same temperature throughout, as in the paper's experiments."""

    temperature: float

    def __post_init__(self) -> None:
        _check_positive(temperature=self.temperature)

    def __call__(self, squared_distance: Tensor, dimension: int, progress: float) -> Tensor:
        return torch.full_like(squared_distance[..., :1], self.temperature)


@dataclass(frozen=True)
class AnnealedTemperature:
    """Geometric from ``start`` to ``end`` over the first part of the training (the paper's advice in Sec. 3.3).

    Attributes:
        start, end: temperatures.
        until: progress in (0, 1] at which ``end`` is reached.
    """

    start: float = 64.0
    end: float = 1.0
    until: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(start=self.start, end=self.end, until=self.until)

    def __call__(self, squared_distance: Tensor, dimension: int, progress: float) -> Tensor:
        fraction = min(1.0, max(0.0, progress) / self.until)
        temperature = self.start * (self.end / self.start) ** fraction
        return torch.full_like(squared_distance[..., :1], temperature)


@dataclass(frozen=True)
class QuantileTemperature:
    """A temperature that follows the residuals: nothing to tune and no schedule.

    The ``quantile`` of the recent squared distances over the same quantile of a chi-square is the variance of the
    well-fitting core, in units of the predicted one. The temperature is this ratio times a factor, so the weights do
    not depend on the scale of the predicted covariances: a wrong variance cannot choose its own samples. Outliers
    move the quantile (by the factor 4.5 in one dimension when half of the samples are outliers), which costs some
    robustness and no consistency, because the loss corrects for the temperature that was actually used.

    The factor lies between that of ``efficiency``, used as soon as the mean squared distance exceeds what the core
    explains (heavy tails: outliers), and ``clean``, used when it does not: clean data then cost nothing.

    Attributes:
        quantile: in (0, 1); less than the fraction of samples that are surely good.
        efficiency: effective sample size over sample size that the sharpest weighting leaves of clean Gaussian data,
            in (0, 1); gives the factor in every dimension (0.5 for D = 1, 2.3 for D = 6).
        clean: the factor on data without tails, per dimension.
        tolerance: relative excess of the mean squared distance that still passes for clean.
    """

    quantile: float = 0.25
    efficiency: float = 0.745
    clean: float = 16.0
    tolerance: float = 0.3

    def __post_init__(self) -> None:
        chi_square_quantile(self.quantile, 1)
        temperature_of_efficiency(self.efficiency, 1)
        _check_positive(clean=self.clean, tolerance=self.tolerance)

    def __call__(self, squared_distance: Tensor, dimension: int, progress: float) -> Tensor:
        rank = max(1, math.ceil(self.quantile * squared_distance.shape[-1]))
        core = squared_distance.kthvalue(rank, dim=-1, keepdim=True).values / chi_square_quantile(
            self.quantile, dimension
        )
        core = core.clamp_min(torch.finfo(core.dtype).tiny ** 0.5)
        excess = squared_distance.mean(-1, keepdim=True) / (dimension * core) - 1.0
        cleanness = torch.exp(-(excess.clamp_min(0.0) / self.tolerance).square())
        sharp = temperature_of_efficiency(self.efficiency, dimension)
        blunt = max(sharp, self.clean * dimension)
        return core * (sharp + (blunt - sharp) * cleanness)


def temperature_of_efficiency(efficiency: float, dimension: int) -> float:
    """The temperature at which clean Gaussian samples keep the effective sample size ``efficiency * N``.

    Inverts ``ESS/N = (sqrt(1 + 2/T) / (1 + 1/T))^D``, so that one number costs the same in every dimension.
    """
    if not 0.0 < efficiency < 1.0:
        raise ValueError(f"efficiency is {efficiency}; it must be between 0 and 1")
    # with a = efficiency^(2/D) and t = 1/T:  (1 + 2t) = a (1 + t)^2
    a = efficiency ** (2.0 / dimension)
    return a / (1.0 - a + math.sqrt(1.0 - a))


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
