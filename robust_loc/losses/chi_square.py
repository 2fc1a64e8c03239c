"""Quantiles of the chi-square distribution, with torch alone."""

from __future__ import annotations

from functools import lru_cache

import torch


def chi_square_quantile(probability: float, dimension: int) -> float:
    """The value a chi-square variable of ``dimension`` degrees of freedom stays under with ``probability``."""
    return _chi_square_quantile(float(probability), int(dimension))


@lru_cache(maxsize=256)
def _chi_square_quantile(probability: float, dimension: int) -> float:
    if not 0.0 < probability < 1.0 or dimension < 1:
        raise ValueError(f"no quantile {probability} of a chi-square with {dimension} degrees of freedom")
    low, high = 0.0, 1.0
    half = torch.tensor(dimension / 2.0, dtype=torch.float64)

    def cumulative(value: float) -> float:
        return float(torch.special.gammainc(half, torch.tensor(value / 2.0, dtype=torch.float64)))

    while cumulative(high) < probability:
        low, high = high, 2.0 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if cumulative(middle) < probability else (low, middle)
    return 0.5 * (low + high)
