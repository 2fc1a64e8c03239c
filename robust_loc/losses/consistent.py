"""``RobustNLL``: a Boltzmann-weighted Gaussian likelihood whose variances are right.

For a batch of residuals with squared Mahalanobis distances ``z_i^2`` and a temperature T::

    w_i  = exp(-z_i^2 / 2T) / mean_j exp(-z_j^2 / 2T)                        (not differentiated)
    loss = mean_i w_i det(Sigma_i)^(beta/D) 1/2 [log det Sigma_i + (T + 1)/T z_i^2]

It differs from the paper's loss in four points, each for a reason:

* The weights are not differentiated. Differentiated, they reward a shrinking variance without bound when ``T <= 4``.
* The quadratic term carries the consistency factor ``(T + 1) / T``: weighting keeps the samples near the mean, which
  shrinks their mean squared distance to ``D T / (T + 1)`` in every dimension D. With it the stationary covariance is
  the true one at every T, provided that the covariance model can represent it.
* The weights use ``z^2`` without ``log det``: otherwise, at D = 6 and T = 1, a halved sigma weighs 64 times more.
* The normaliser is a mean over recent batches, so a batch of 4 behaves like one of 1024.

The factor ``det^(beta/D)``, not differentiated, is that of beta-NLL: the mean keeps learning where sigma is large.
The weighted score is that of the gamma-divergence (Fujisawa and Eguchi, 2008) with ``gamma = 1 / T``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_loc.losses.boltzmann import effective_sample_size
from robust_loc.losses.gaussian import GaussianTerms, gaussian_terms, information_terms
from robust_loc.losses.temperature import QuantileTemperature, TemperatureSchedule


class RobustNLL(nn.Module):
    """Robust and consistent Gaussian likelihood, to be minimised over mean and covariance together.

    The defaults need no tuning from 0 to 50 % outliers, batches from 4 to 1024 and residuals of 1 to 6 dimensions::

        robust_nll = RobustNLL()
        loss = robust_nll(mean, log_variance, target)

    A covariance model that cannot represent the residuals (a diagonal one of strongly correlated errors, or one
    variance for a mixture of scales) is biased low, the more so the lower the temperature: calibrate afterwards.

    Args:
        temperature: a schedule; the default adapts to the residuals. ``FixedTemperature(T)`` keeps one.
        beta: exponent of the ``det(Sigma)^(beta/D)`` factor; 0 leaves it out.
        memory: how many recent squared distances the normaliser and the temperature are computed from.
        problems: leading axes of the inputs that are independent problems trained side by side, each with a memory
            of its own; the batch is the axis that follows. Empty for ordinary training.

    After each call ``weights`` (of the batch, mean about one), ``last_temperature`` (``(..., 1)``) and
    ``last_effective_sample_size`` (as a fraction of the batch) tell what the loss did.
    """

    recent: Tensor

    def __init__(
        self,
        temperature: TemperatureSchedule | None = None,
        beta: float = 0.5,
        memory: int = 512,
        problems: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if memory < 1:
            raise ValueError(f"memory is {memory}; it must hold at least one sample")
        self.schedule: TemperatureSchedule = temperature if temperature is not None else QuantileTemperature()
        self.beta = beta
        self.memory = memory
        # NaN marks the places not yet filled; the newest sample is the last.
        self.register_buffer("recent", torch.full((*problems, memory), torch.nan))
        self._filled: int | None = None
        self.weights: Tensor | None = None
        self.last_temperature: Tensor | None = None
        self.last_effective_sample_size: Tensor | None = None

    def forward(self, mean: Tensor, log_variance: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
        """The loss of a batch with per-axis or isotropic variances; shapes as in :func:`gaussian_terms`.

        ``progress`` in [0, 1] matters to annealed temperatures only. Returns a scalar (``problems``-shaped if set).
        """
        return self.of_terms(gaussian_terms(mean, log_variance, target), progress)

    def of_residual(self, residual: Tensor, factor: Tensor, progress: float = 0.0) -> Tensor:
        """The loss of a batch with full covariances ``(factor factor^T)^-1``; see :func:`information_terms`."""
        return self.of_terms(information_terms(residual, factor), progress)

    def of_terms(self, terms: GaussianTerms, progress: float = 0.0) -> Tensor:
        """The loss of a batch given its Gaussian terms, each ``(*problems, N)``."""
        distances = terms.squared_distance.detach()
        if distances.dtype in (torch.float16, torch.bfloat16):
            distances = distances.float()
        pool = self._with_recent(distances)
        temperature = self.schedule(pool, terms.dimension, progress)
        log_normaliser = torch.logsumexp(-pool / (2 * temperature), -1, keepdim=True) - _log_count(pool)
        weights = torch.exp(-distances / (2 * temperature) - log_normaliser)
        consistency = 1 + 1 / temperature
        spread = (self.beta / terms.dimension * terms.log_determinant.detach()).exp()

        self.weights, self.last_temperature = weights, temperature
        self.last_effective_sample_size = effective_sample_size(weights) / weights.shape[-1]
        return (weights * spread * 0.5 * (terms.log_determinant + consistency * terms.squared_distance)).mean(-1)

    @torch.no_grad()
    def _with_recent(self, distances: Tensor) -> Tensor:
        """This batch behind the remembered samples ``(*problems, M)``; remembers it when training."""
        if distances.shape[:-1] != self.recent.shape[:-1]:
            raise ValueError(
                f"a batch of shape {tuple(distances.shape)} does not fit problems={tuple(self.recent.shape[:-1])}; "
                "the batch is the last axis but the residual's"
            )
        if self._filled is None:  # counted once after construction or loading, so that a step never waits for a GPU
            self._filled = int((~self.recent.isnan()).sum(-1).max())
        known = self.recent[..., self.memory - self._filled :].to(distances)
        pool = torch.cat([known, distances], -1)
        if self.training:
            self._filled = min(self.memory, pool.shape[-1])
            self.recent[..., self.memory - self._filled :] = pool[..., pool.shape[-1] - self._filled :]
        return pool

    def reset(self) -> None:
        """Forget the remembered samples: for another data set or a freshly initialised model."""
        self.recent.fill_(torch.nan)
        self._filled = 0

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._filled = None


def _log_count(pool: Tensor) -> Tensor:
    return pool.new_tensor(float(pool.shape[-1])).log()
