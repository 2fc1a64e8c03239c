"""Losses: the Gaussian likelihood family and its Boltzmann-weighted (robust) forms. Needs torch alone."""

from robust_loc.losses.baselines import beta_nll, faithful_nll, squared_error
from robust_loc.losses.boltzmann import (
    boltzmann_mean,
    boltzmann_weights,
    effective_sample_size,
    robust_beta_nll,
    robust_mse,
    robust_nll,
)
from robust_loc.losses.consistent import RobustNLL
from robust_loc.losses.gaussian import (
    GaussianTerms,
    gaussian_nll,
    gaussian_terms,
    information_nll,
    information_terms,
    with_variance_floor,
)
from robust_loc.losses.temperature import (
    AnnealedTemperature,
    FixedTemperature,
    QuantileTemperature,
    TemperatureSchedule,
    chi_square_quantile,
    temperature_of_efficiency,
)

__all__ = [
    "AnnealedTemperature",
    "FixedTemperature",
    "GaussianTerms",
    "QuantileTemperature",
    "RobustNLL",
    "TemperatureSchedule",
    "beta_nll",
    "boltzmann_mean",
    "boltzmann_weights",
    "chi_square_quantile",
    "effective_sample_size",
    "faithful_nll",
    "gaussian_nll",
    "gaussian_terms",
    "information_nll",
    "information_terms",
    "robust_beta_nll",
    "robust_mse",
    "robust_nll",
    "squared_error",
    "temperature_of_efficiency",
    "with_variance_floor",
]
