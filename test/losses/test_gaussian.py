"""The Gaussian likelihoods against torch.distributions and each other."""

import math

import pytest
import torch

from robust_loc.losses import (
    beta_nll,
    faithful_nll,
    gaussian_nll,
    information_nll,
    squared_error,
    with_variance_floor,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance, target = (torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    return mean, log_variance, target


def test_per_axis_nll_is_the_gaussian_log_density(batch):
    mean, log_variance, target = batch
    density = torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(target).sum(-1)
    torch.testing.assert_close(gaussian_nll(mean, log_variance, target) + 1.5 * math.log(2 * math.pi), -density)


def test_isotropic_variance_counts_once_per_axis(batch):
    mean, log_variance, target = batch
    one = log_variance[:, :1]
    torch.testing.assert_close(gaussian_nll(mean, one, target), gaussian_nll(mean, one.expand(7, 3), target))


def test_flat_batch_is_a_batch_of_scalars(batch):
    mean, log_variance, target = (value[:, 0] for value in batch)
    expected = gaussian_nll(mean[:, None], log_variance[:, None], target[:, None])
    torch.testing.assert_close(gaussian_nll(mean, log_variance, target), expected)
    assert expected.shape == (7,)


def test_full_nll_is_the_gaussian_log_density(batch):
    residual = batch[0]
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(7, 3, 3, generator=generator, dtype=torch.float64).tril(-1)
    factor = factor + torch.diag_embed(batch[1].exp())
    density = torch.distributions.MultivariateNormal(
        torch.zeros(3, dtype=torch.float64), precision_matrix=factor @ factor.mT
    ).log_prob(residual)
    torch.testing.assert_close(information_nll(residual, factor) + 1.5 * math.log(2 * math.pi), -density)


def test_mismatched_shapes_are_refused_instead_of_broadcast():
    with pytest.raises(ValueError, match="expected"):
        gaussian_nll(torch.zeros(5, 1), torch.zeros(5, 1), torch.zeros(5))
    with pytest.raises(ValueError, match="factor"):
        information_nll(torch.zeros(5, 3), torch.zeros(5, 2, 2))


def test_beta_nll_goes_from_nll_to_the_gradient_of_squared_error(batch):
    mean, log_variance, target = batch
    torch.testing.assert_close(beta_nll(mean, log_variance, target, 0.0), gaussian_nll(mean, log_variance, target))
    mean = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(beta_nll(mean, log_variance, target, 1.0).sum(), mean)
    torch.testing.assert_close(gradient, (mean - target).detach())


def test_faithful_mean_ignores_the_variance_and_the_variance_ignores_the_mean(batch):
    mean, log_variance, target = (value.clone().requires_grad_() for value in batch)
    d_mean, d_log_variance = torch.autograd.grad(faithful_nll(mean, log_variance, target).sum(), (mean, log_variance))
    torch.testing.assert_close(d_mean, (mean - target).detach())
    residual = (mean - target).detach().square()
    torch.testing.assert_close(d_log_variance, 0.5 * (1 - residual * (-log_variance.detach()).exp()))


def test_squared_error_sums_over_the_axes(batch):
    mean, _, target = batch
    torch.testing.assert_close(squared_error(mean, target), ((mean - target) ** 2).sum(-1))
    assert squared_error(mean[:, 0], target[:, 0]).shape == (7,)


def test_variance_floor_holds_and_lets_the_gradient_through():
    log_variance = torch.tensor([-50.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    floored = with_variance_floor(log_variance, 0.01)
    torch.testing.assert_close(floored.exp(), log_variance.exp() + 0.01)
    (gradient,) = torch.autograd.grad(floored.sum(), log_variance)
    assert (gradient > 0).all()
    assert with_variance_floor(log_variance, None) is log_variance
    with pytest.raises(ValueError, match="floor"):
        with_variance_floor(log_variance, 0.0)
