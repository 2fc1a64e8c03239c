"""The likelihoods that the joint stage of the regressor's training can be run with."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_loc.losses import RobustNLL, boltzmann_mean, information_terms
from robust_loc.losses.gaussian import GaussianTerms

LIKELIHOODS = ("consistent", "nll", "beta_nll", "faithful", "robust_nll")


class Likelihood:
    """The loss of the joint stage by its name: ours, the published one, or one of those it is compared with."""

    def __init__(self, name: str, temperature: float = 1.0) -> None:
        self.name, self.temperature = name, temperature
        self.consistent = RobustNLL()

    def __call__(self, error: Tensor, factor: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of body errors (B, 6) with factors (B, 6, 6), and numbers to show."""
        terms = information_terms(error, factor)
        if self.name == "consistent":
            loss = self.consistent.of_residual(error, factor)
            assert self.consistent.last_temperature is not None
            assert self.consistent.last_effective_sample_size is not None
            return loss, {
                "temperature": self.consistent.last_temperature.item(),
                "effective": self.consistent.last_effective_sample_size.item(),
            }
        if self.name == "robust_nll":
            return boltzmann_mean(terms.nll(), self.temperature), {}
        if self.name == "beta_nll":
            return (_spread(terms) * terms.nll()).mean(), {}
        if self.name == "faithful":
            # metres and radians weigh alike, as in the coarse-to-fine loss
            return (0.5 * error.square().sum(-1) + information_terms(error.detach(), factor).nll()).mean(), {}
        return terms.nll().mean(), {}


def _spread(terms: GaussianTerms, beta: float = 0.5) -> Tensor:
    return torch.exp(beta / terms.dimension * terms.log_determinant.detach())
