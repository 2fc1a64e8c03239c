"""The losses Robust-NLL is compared with: squared error, beta-NLL and Faithful. All are per sample, shape ``(...)``."""

from __future__ import annotations

from torch import Tensor

from robust_loc.losses.gaussian import gaussian_nll


def squared_error(mean: Tensor, target: Tensor) -> Tensor:
    """``|mean - target|^2`` summed over the last axis of ``(..., D)``; ``(N,)`` is N scalar samples."""
    squares = (mean - target).square()
    return squares if squares.ndim == 1 else squares.sum(-1)


def beta_nll(mean: Tensor, log_variance: Tensor, target: Tensor, beta: float = 0.5) -> Tensor:
    """beta-NLL (Seitzer et al., ICLR 2022): each axis' NLL times its own ``sigma^(2 beta)``, not differentiated.

    ``beta = 0`` is the NLL, ``beta = 1`` gives the mean the gradient of the squared error. An isotropic
    ``log_variance`` ``(..., 1)`` gives one factor for the whole sample. Shapes as in :func:`gaussian_nll`.
    """
    if mean.ndim == 1 and mean.shape == log_variance.shape:
        mean, log_variance, target = mean[:, None], log_variance[:, None], target[:, None]
    if log_variance.shape[-1] == 1:
        return (beta * log_variance.detach()[..., 0]).exp() * gaussian_nll(mean, log_variance, target)
    per_axis = gaussian_nll(mean[..., None], log_variance[..., None], target[..., None])
    return ((beta * log_variance.detach()).exp() * per_axis).sum(-1)


def faithful_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Faithful heteroscedastic regression (Stirn et al., AISTATS 2023).

    The mean learns from the squared error alone, the variance from the NLL around a mean held fixed. A trunk that both
    heads share must be detached before the variance head, which only the model can do.
    """
    return 0.5 * squared_error(mean, target) + gaussian_nll(mean.detach(), log_variance, target)
