"""Boltzmann weighting of per-sample losses: the Robust-NLL paper's loss, exactly as published.

A batch of losses ``L_i`` is averaged with the weights ``w_i = softmax(-L_i / T)`` (eq. 2-3): samples that fit badly
count less. The weights are differentiated too, which gives each loss the coefficient (eq. 6-7)::

    d mean / d L_j = w_j (1 + (E_w[L] - L_j) / T)

negative for ``L_j > E_w[L] + T``: such samples are pushed away. Two properties to know before using it on variances:
for ``T <= 4`` the expected loss has no minimum (the variance collapses), and above it the variance is biased low (by
0.87 at T = 16, 0.97 at T = 64). :class:`~robust_loc.losses.RobustNLL` has neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_loc.losses.baselines import beta_nll, squared_error
from robust_loc.losses.gaussian import gaussian_nll, with_variance_floor


def boltzmann_weights(losses: Tensor, temperature: float | Tensor, dim: int = -1) -> Tensor:
    """``softmax(-losses / temperature)`` along ``dim`` (eq. 3): same shape, non-negative, summing to one.

    A large temperature weighs all samples alike; a small one keeps the best. Not detached: differentiate through it
    for the paper's loss, or detach it for weights that only select.
    """
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    return torch.softmax(-losses / temperature, dim)


def boltzmann_mean(losses: Tensor, temperature: float | Tensor, dim: int = -1) -> Tensor:
    """``sum_i w_i losses_i`` along ``dim`` (eq. 2), differentiable through the weights. Already a mean: no 1/N."""
    return (boltzmann_weights(losses, temperature, dim) * losses).sum(dim)


def effective_sample_size(weights: Tensor, dim: int = -1) -> Tensor:
    """``(sum w)^2 / sum w^2``: how many samples of the batch count, from 1 to the batch size."""
    return weights.sum(dim).square() / weights.square().sum(dim)


def robust_nll(
    mean: Tensor,
    log_variance: Tensor,
    target: Tensor,
    temperature: float | Tensor,
    variance_floor: float | None = None,
) -> Tensor:
    """Robust-NLL as published (eq. 1-3): the Boltzmann mean of the Gaussian NLL. Scalar for a batch ``(N, D)``.

    Args:
        mean, log_variance, target: as in :func:`gaussian_nll`; the batch is the last axis but the residual's.
        variance_floor: added to the variance (squared units of the target); without one a small fixed data set can be
            memorised and its variance driven to zero at any temperature.
    """
    return boltzmann_mean(gaussian_nll(mean, with_variance_floor(log_variance, variance_floor), target), temperature)


def robust_beta_nll(
    mean: Tensor,
    log_variance: Tensor,
    target: Tensor,
    temperature: float | Tensor,
    beta: float = 0.5,
    variance_floor: float | None = None,
) -> Tensor:
    """Robust-beta-NLL as published: the Boltzmann mean of beta-NLL."""
    return boltzmann_mean(beta_nll(mean, with_variance_floor(log_variance, variance_floor), target, beta), temperature)


def robust_mse(mean: Tensor, target: Tensor, temperature: float | Tensor) -> Tensor:
    """Robust-MSE as published: the Boltzmann mean of the squared error (without a factor 1/2)."""
    return boltzmann_mean(squared_error(mean, target), temperature)
