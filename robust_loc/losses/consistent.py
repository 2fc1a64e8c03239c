"""``RobustNLL``: a Boltzmann-weighted Gaussian likelihood whose variances are right.

For a batch of residuals ``e_i`` with squared Mahalanobis distances ``z_i^2`` and a temperature T::

    w_i  = exp(-z_i^2 / 2T) / E[exp(-z^2 / 2T)]                           (not differentiated)
    loss = mean_i w_i 1/2 [log det Sigma_i + k z_i^2],   k = (T + 1) / T

It differs from the paper's loss in five points, each for a reason:

* The weights are not differentiated. Differentiated, they reward a shrinking variance without bound when ``T <= 4``.
* The quadratic term carries the consistency factor ``k``: weighting keeps the samples near the mean, which shrinks
  their mean squared distance to ``D T / (T + 1)`` in every dimension D. With it the stationary covariance is the true
  one at every T, provided that the covariance model can represent it. The adaptive temperature's factor also allows for
  the outliers that keep some weight (:mod:`~robust_loc.losses.contamination`).
* The weights use ``z^2`` without ``log det``: otherwise, at D = 6 and T = 1, a halved sigma weighs 64 times more.
* The normaliser comes from recent batches, so a batch of 4 behaves like one of 1024.
* The mean does not learn from ``w Sigma^-1 e`` alone but from that times ``(det(Sigma)^(1/D) / g)^beta``, ``g`` being
  the running geometric mean of ``det(Sigma)^(1/D)``. With ``beta = 1`` samples of large and small sigma pull alike, as
  in a squared error: the likelihood's own gradient all but ignores regions that do not fit yet, because their sigma is
  large (Seitzer et al., 2022; the covariance learns from the likelihood, as in Faithful, Stirn et al., 2023). Dividing
  by ``g`` keeps the loss free of units.

The weighted score is that of the gamma-divergence (Fujisawa and Eguchi, 2008) with ``gamma = 1 / T``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_loc.losses.boltzmann import effective_sample_size
from robust_loc.losses.contamination import ResidualMixture, Weighting
from robust_loc.losses.gaussian import GaussianTerms, gaussian_terms, information_terms
from robust_loc.losses.temperature import TemperatureSchedule


class RobustNLL(nn.Module):
    """Robust and consistent Gaussian likelihood, to be minimised over mean and covariance together.

    The defaults need no tuning from 0 to 50 % outliers, batches from 4 to 1024 and residuals of 1 to 6 dimensions::

        robust_nll = RobustNLL()
        loss = robust_nll(mean, log_variance, target)

    A covariance model that cannot represent the residuals (a diagonal one of strongly correlated errors, or one
    variance for a mixture of scales) is biased low, the more so the lower the temperature: calibrate afterwards.

    Args:
        temperature: a schedule, such as ``FixedTemperature(T)``; by default it follows the estimated share and size of
            the outliers (:class:`~robust_loc.losses.ResidualMixture`).
        beta: how far the mean's gradient is freed from the predicted covariance, from 0 (likelihood) to 1.
        memory: how many recent squared distances normaliser and temperature are computed from.
        problems: leading axes of the inputs that are independent problems trained side by side, each with a memory
            of its own; the batch is the axis that follows. Empty for ordinary training.

    After each call ``weights`` (of the batch, mean about one), ``last_temperature`` (``(..., 1)``) and
    ``last_effective_sample_size`` (as a fraction of the batch) tell what the loss did.
    """

    recent: Tensor
    log_spread: Tensor

    def __init__(
        self,
        temperature: TemperatureSchedule | None = None,
        beta: float = 1.0,
        memory: int = 512,
        problems: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if memory < 1:
            raise ValueError(f"memory is {memory}; it must hold at least one sample")
        self.schedule = temperature
        self.mixture = ResidualMixture(problems) if temperature is None else None
        self.beta = beta
        self.memory = memory
        # NaN marks the places not yet filled; the newest sample is the last.
        self.register_buffer("recent", torch.full((*problems, memory), torch.nan))
        self.register_buffer("log_spread", torch.full((*problems, 1), torch.nan))
        self._filled: int | None = None
        self.weights: Tensor | None = None
        self.last_temperature: Tensor | None = None
        self.last_effective_sample_size: Tensor | None = None

    def forward(self, mean: Tensor, log_variance: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
        """The loss of a batch with per-axis or isotropic variances; shapes as in :func:`gaussian_terms`.

        ``progress`` in [0, 1] matters to annealed temperatures only. Returns a scalar (``problems``-shaped if set).
        """
        of_mean = gaussian_terms(mean, log_variance.detach(), target)
        return self.of_terms(of_mean, gaussian_terms(mean.detach(), log_variance, target), progress)

    def of_residual(self, residual: Tensor, factor: Tensor, progress: float = 0.0) -> Tensor:
        """The loss of a batch with full covariances ``(factor factor^T)^-1``; see :func:`information_terms`."""
        of_mean = information_terms(residual, factor.detach())
        return self.of_terms(of_mean, information_terms(residual.detach(), factor), progress)

    def of_terms(self, of_mean: GaussianTerms, of_covariance: GaussianTerms, progress: float = 0.0) -> Tensor:
        """The loss of a batch given its Gaussian terms twice, each ``(*problems, N)``: the same numbers, the first
        differentiable in the mean, the second in the covariance."""
        distances = of_mean.squared_distance.detach()
        if distances.dtype in (torch.float16, torch.bfloat16):
            distances = distances.float()
        dimension = of_mean.dimension
        temperature, mean_weight, consistency = self._weighting(self._with_recent(distances), dimension, progress)
        weights = torch.exp(-distances / (2 * temperature)) / mean_weight
        freed = (self.beta * self._relative_spread(of_covariance)).exp()

        self.weights, self.last_temperature = weights, temperature
        self.last_effective_sample_size = effective_sample_size(weights) / weights.shape[-1]
        for_mean = freed * of_mean.squared_distance
        # the value is that of the weighted likelihood; the mean's part adds its gradient and nothing else
        quadratic = of_covariance.squared_distance + for_mean - for_mean.detach()
        return (weights * 0.5 * (of_covariance.log_determinant + consistency * quadratic)).mean(-1)

    def _weighting(self, pool: Tensor, dimension: int, progress: float) -> Weighting:
        if self.mixture is not None:
            self.mixture.train(self.training)
            return Weighting(*(value.to(pool) for value in self.mixture.fit(pool, dimension)))
        assert self.schedule is not None
        temperature = self.schedule(pool, dimension, progress)
        mean_weight = torch.exp(-pool / (2 * temperature)).mean(-1, keepdim=True)
        return Weighting(temperature, mean_weight, 1 + 1 / temperature)

    @torch.no_grad()
    def _relative_spread(self, terms: GaussianTerms) -> Tensor:
        """``log det(Sigma)^(1/D)`` of each sample over its running mean; ``memory`` samples are remembered."""
        spread = terms.log_determinant.detach() / terms.dimension
        now = spread.mean(-1, keepdim=True)
        share = spread.shape[-1] / (spread.shape[-1] + self.memory)
        known = self.log_spread.to(now)
        average = torch.where(known.isnan(), now, (1 - share) * known + share * now)
        if self.training:
            self.log_spread.copy_(average)
        return spread - average

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
        self.log_spread.fill_(torch.nan)
        self._filled = 0
        if self.mixture is not None:
            self.mixture.reset()

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._filled = None
