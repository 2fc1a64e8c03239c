"""How many residuals are outliers, and the temperature that this asks for.

Squared Mahalanobis distances ``z^2`` of D-dimensional residuals are modelled as a scale mixture of Gaussians: inliers
of variance ``s^2``, and outliers of variances ``r_k s^2`` on a fixed ladder ``r_k = 4, 16, 64, ...``, so that outliers
of any distribution fit. Under the mixture all moments of a Boltzmann weight ``w = exp(-z^2 / 2 T s^2)`` have closed
forms. The temperature is the one at which the weighted estimates of mean and variance are least uncertain: high on
clean data, where weights only lose information, low among many outliers. Nothing is tuned for a rate of outliers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_loc.losses.chi_square import chi_square_quantile

_COMPONENTS = 8  # of variances 1, 4, ..., 4^7; the first are the inliers, outliers beyond the last count to the last
_LOG2_TEMPERATURES = (-2.0, 10.0, 33)  # to choose from: 1/4 to 1024
_FIRST_SHARE = 0.7  # of inliers, before anything is known
_LEAST_SHARE = 1e-8  # no component is lost for good
_SMALLEST = 1e-30


class Weighting(NamedTuple):
    """Weights ``exp(-z^2 / 2 temperature) / mean_weight`` and the factor on their ``z^2``; all (..., 1).

    Attributes:
        temperature: in units of ``z^2``.
        mean_weight: expected ``exp(-z^2 / 2 temperature)``.
        consistency: makes the inliers' variance the stationary one; ``(T + 1) / T`` when there are no outliers.
    """

    temperature: Tensor
    mean_weight: Tensor
    consistency: Tensor


class ResidualMixture(nn.Module):
    """Shares and inlier variance of recent squared distances, by EM that goes on where the previous batch left it.

    Args:
        problems: leading axes of independent problems.
        most_outliers: largest share of outliers believed in: inliers are the majority, or nearly.
    """

    shares: Tensor
    variance: Tensor

    def __init__(self, problems: tuple[int, ...] = (), most_outliers: float = 0.55) -> None:
        super().__init__()
        if not 0 < most_outliers < 1:
            raise ValueError(f"most_outliers is {most_outliers}; it must be between 0 and 1")
        self.most_outliers = most_outliers
        self.register_buffer("shares", torch.zeros(*problems, _COMPONENTS))
        self.register_buffer("variance", torch.zeros(*problems, 1))  # 0: not known yet
        self._known: bool | None = None

    @torch.no_grad()
    def fit(self, squared_distance: Tensor, dimension: int, iterations: int = 2) -> Weighting:
        """Update from recent squared distances (*problems, M), and choose the weighting. Remembers when training."""
        if self._known is None:  # looked up once, so that a step never waits for a GPU
            self._known = bool((self.variance > 0).all())
        squared_distance = squared_distance.double().clamp(max=1e30)  # its exponentials are raised to 4^7 below
        if self._known:
            shares, variance = self.shares.double(), self.variance.double()
        else:
            shares = squared_distance.new_full(
                (*self.variance.shape[:-1], _COMPONENTS), (1 - _FIRST_SHARE) / (_COMPONENTS - 1)
            )
            shares[..., 0] = _FIRST_SHARE
            middle = squared_distance.median(-1, keepdim=True).values
            variance, iterations = middle / chi_square_quantile(0.5, dimension), 5 * iterations
        for _ in range(iterations):
            shares, variance = self._step(squared_distance, shares, variance.clamp_min(_SMALLEST), dimension)
        variance = variance.clamp_min(_SMALLEST)
        if self.training:
            self.shares.copy_(shares)
            self.variance.copy_(variance)
            self._known = True
        return least_uncertain_weighting(shares, variance, dimension)

    def _step(
        self, squared_distance: Tensor, shares: Tensor, variance: Tensor, dimension: int
    ) -> tuple[Tensor, Tensor]:
        """One iteration of EM: shares and variance from every sample's membership of each component."""
        factors = (shares.clamp_min(_LEAST_SHARE) * _ladder(shares) ** (-0.5 * dimension)).unbind(-1)
        kernel = torch.exp(squared_distance / (-2 * 4.0 ** (_COMPONENTS - 1) * variance))
        parts = []
        for factor in reversed(factors):  # from the widest component on, each kernel is the fourth power of the last
            parts.append(factor[..., None] * kernel)
            kernel = kernel.square().square()
        parts[0] = parts[0] + _SMALLEST  # beyond the widest component a sample is its member
        total = sum(parts[1:], start=parts[0])
        shares = torch.stack([(part / total).mean(-1) for part in reversed(parts)], -1)
        inlier = parts[-1] / total
        energy = (inlier * squared_distance).sum(-1, keepdim=True)
        return self._bounded(shares), energy / (dimension * inlier.sum(-1, keepdim=True).clamp_min(_SMALLEST))

    def _bounded(self, shares: Tensor) -> Tensor:
        outliers = 1 - shares[..., :1]
        factor = (self.most_outliers / outliers.clamp_min(_SMALLEST)).clamp(max=1)
        return torch.cat([1 - outliers * factor, shares[..., 1:] * factor], -1)

    def reset(self) -> None:
        """Forget what was seen."""
        self.variance.zero_()
        self._known = False

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None


def least_uncertain_weighting(shares: Tensor, variance: Tensor, dimension: int) -> Weighting:
    """The temperature with the smallest asymptotic variance of weighted mean and scale, in D dimensions.

    With ``w = exp(-z^2 / 2T)`` and expectations over the mixture: ``Var(mean) = E[w^2 z^2] / D (E[w (1 - z^2/DT)])^2``
    per axis (the M-estimator with score ``w e``) and ``Var(log s^2) = E[p^2] / E[dp / d log s^2]^2`` with the score
    ``p = w (1 - k z^2/D)`` and the consistency factor ``k = D E[w] / E[w z^2]``. Their sum is minimised, each relative
    to its value on clean data.

    Args:
        shares: (..., K) of the ladder's components, summing to one.
        variance: (..., 1) of the inliers.
    """
    ladder = _ladder(shares)
    temperatures = torch.logspace(*_LOG2_TEMPERATURES, base=2.0, dtype=shares.dtype, device=shares.device)
    temperatures = temperatures * max(1.0, dimension / 2)

    def moment(power: int, order: int) -> Tensor:
        """``E[w^power z^(2 order)]`` at every temperature, with the inliers' variance one."""
        spread = ladder / (1 + power * ladder / temperatures[:, None])
        scale = (spread / ladder) ** (dimension / 2) * spread**order
        return (1.0, dimension, dimension * (dimension + 2.0))[order] * (shares[..., None, :] * scale).sum(-1)

    w, wz, wzz = moment(1, 0), moment(1, 1), moment(1, 2)
    ww, wwz, wwzz = moment(2, 0), moment(2, 1), moment(2, 2)
    consistency = dimension * w / wz
    of_mean = wwz / dimension / (w - wz / (dimension * temperatures)).square()
    ratio = consistency / dimension
    slope = ratio * wz + (wz - ratio * wzz) / (2 * temperatures)
    of_scale = 0.5 * dimension * (ww - 2 * ratio * wwz + ratio.square() * wwzz) / slope.square()
    best = (of_mean + of_scale).argmin(-1, keepdim=True)
    return Weighting(temperatures[best] * variance, w.gather(-1, best), consistency.gather(-1, best))


def _ladder(like: Tensor) -> Tensor:
    return 4.0 ** torch.arange(_COMPONENTS, dtype=like.dtype, device=like.device)
