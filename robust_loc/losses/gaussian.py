"""Gaussian negative log-likelihood of each sample: isotropic, per-axis and full covariance.

All functions keep the leading axes: residuals of shape ``(..., D)`` give losses of shape ``(...)``, one per sample.
The constant ``D/2 log 2 pi`` is left out, as in eq. 1 of the Robust-NLL paper.

Eq. 1 read literally for a vector has a single ``log sigma^2`` beside ``|e|^2 / 2 sigma^2``; its ``sigma^2`` would then
estimate the *sum* of the axes' variances. Here an isotropic variance enters once per axis: it is a variance per
axis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GaussianTerms(NamedTuple):
    """The two terms every Gaussian likelihood is made of, and the dimension they were summed over.

    Attributes:
        squared_distance: ``(...)`` squared Mahalanobis distance ``e^T Sigma^-1 e`` of each sample.
        log_determinant: ``(...)`` ``log det Sigma`` of each sample.
        dimension: D, the length of a residual.
    """

    squared_distance: Tensor
    log_determinant: Tensor
    dimension: int

    def nll(self) -> Tensor:
        """``1/2 log det Sigma + 1/2 e^T Sigma^-1 e`` (eq. 1), shape ``(...)``."""
        return 0.5 * (self.log_determinant + self.squared_distance)


def gaussian_terms(mean: Tensor, log_variance: Tensor, target: Tensor) -> GaussianTerms:
    """The terms of a per-axis or an isotropic Gaussian.

    Args:
        mean, target: ``(..., D)``; or ``(N,)`` for N scalar samples.
        log_variance: the same shape (one variance per axis), or ``(..., 1)`` (one for all D axes).

    Raises:
        ValueError: if the shapes do not match; nothing is broadcast but the axis of an isotropic variance.
    """
    if mean.ndim == 1 and mean.shape == log_variance.shape == target.shape:
        mean, log_variance, target = mean[:, None], log_variance[:, None], target[:, None]
    isotropic = log_variance.shape == (*mean.shape[:-1], 1)
    if mean.shape != target.shape or not (isotropic or log_variance.shape == mean.shape):
        raise ValueError(
            f"mean {tuple(mean.shape)}, log_variance {tuple(log_variance.shape)} and target {tuple(target.shape)}: "
            "expected (..., D) for all, or (..., 1) for log_variance"
        )
    log_variance = log_variance.expand(mean.shape)
    squared_distance = ((mean - target).square() * torch.exp(-log_variance)).sum(-1)
    return GaussianTerms(squared_distance, log_variance.sum(-1), mean.shape[-1])


def information_terms(residual: Tensor, factor: Tensor) -> GaussianTerms:
    """The terms of a full covariance given the Cholesky factor of its inverse, ``Sigma^-1 = factor factor^T``.

    Args:
        residual: ``(..., D)``, in any tangent space.
        factor: ``(..., D, D)``, lower triangular with a positive diagonal.
    """
    dimension = residual.shape[-1]
    if factor.shape != (*residual.shape, dimension):
        raise ValueError(f"residual {tuple(residual.shape)} needs a factor (..., D, D), not {tuple(factor.shape)}")
    whitened = (factor.transpose(-1, -2) @ residual[..., None])[..., 0]
    log_determinant = -2.0 * torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)
    return GaussianTerms(whitened.square().sum(-1), log_determinant, dimension)


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """NLL of each sample under a per-axis or an isotropic Gaussian (eq. 1); shapes as in :func:`gaussian_terms`."""
    return gaussian_terms(mean, log_variance, target).nll()


def information_nll(residual: Tensor, factor: Tensor) -> Tensor:
    """NLL of each sample under a full Gaussian ``N(0, (factor factor^T)^-1)``, as :func:`information_terms`."""
    return information_terms(residual, factor).nll()


def with_variance_floor(log_variance: Tensor, floor: float | None) -> Tensor:
    """``log(sigma^2 + floor)``: a floor in squared units of the target that never blocks the gradient; None is none."""
    if floor is None:
        return log_variance
    if floor <= 0:
        raise ValueError(f"variance floor is {floor}; it must be positive")
    return torch.logaddexp(log_variance, log_variance.new_tensor(floor).log())
