"""Losses: the Gaussian likelihood family and its Boltzmann-weighted (robust) forms, and the odometry's flow loss.

Needs torch alone; the odometry's pose loss, which needs the geometry, is in ``robust_loc.losses.relative_pose``.
"""

from robust_loc.losses.balance import GradientNormBalance, gradient_norm
from robust_loc.losses.baselines import beta_nll, faithful_nll, squared_error
from robust_loc.losses.boltzmann import (
    boltzmann_mean,
    boltzmann_weights,
    effective_sample_size,
    robust_beta_nll,
    robust_mse,
    robust_nll,
)
from robust_loc.losses.chi_square import chi_square_quantile
from robust_loc.losses.consistent import RobustNLL
from robust_loc.losses.contamination import ResidualMixture, Weighting, least_uncertain_weighting
from robust_loc.losses.flow import flow_error, flow_loss
from robust_loc.losses.gaussian import (
    GaussianTerms,
    gaussian_nll,
    gaussian_terms,
    information_nll,
    information_terms,
    with_variance_floor,
)
from robust_loc.losses.labels import LabelWeights
from robust_loc.losses.least_squares import weighted_least_squares_gradients
from robust_loc.losses.temperature import (
    AnnealedTemperature,
    FixedTemperature,
    QuantileTemperature,
    TemperatureSchedule,
    temperature_of_efficiency,
)

__all__ = [
    "AnnealedTemperature",
    "FixedTemperature",
    "GaussianTerms",
    "GradientNormBalance",
    "LabelWeights",
    "QuantileTemperature",
    "ResidualMixture",
    "RobustNLL",
    "TemperatureSchedule",
    "Weighting",
    "beta_nll",
    "boltzmann_mean",
    "boltzmann_weights",
    "chi_square_quantile",
    "effective_sample_size",
    "faithful_nll",
    "flow_error",
    "flow_loss",
    "gaussian_nll",
    "gaussian_terms",
    "gradient_norm",
    "information_nll",
    "information_terms",
    "least_uncertain_weighting",
    "robust_beta_nll",
    "robust_mse",
    "robust_nll",
    "squared_error",
    "temperature_of_efficiency",
    "weighted_least_squares_gradients",
    "with_variance_floor",
]
