"""The published loss: its value and gradients against eq. 1-9 written out by hand, and its known defects."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from robust_loc.losses import (
    boltzmann_mean,
    boltzmann_weights,
    effective_sample_size,
    gaussian_nll,
    robust_beta_nll,
    robust_mse,
    robust_nll,
)

TEMPERATURES = [0.5, 1.0, 4.0, 16.0, 64.0]


def batch(size=9, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=size), generator.normal(size=size), 3 * generator.normal(size=size)


def by_hand(mean, log_variance, target, temperature):
    """Eq. 1-3 in numpy."""
    loss = 0.5 * log_variance + (mean - target) ** 2 / (2 * np.exp(log_variance))
    weight = np.exp(-loss / temperature) / np.exp(-loss / temperature).sum()
    return loss, weight, (weight * loss).sum()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_published_loss_equals_equations_1_to_3(temperature):
    arrays = batch()
    value = robust_nll(*map(torch.from_numpy, arrays), temperature)
    assert abs(value.item() - by_hand(*arrays, temperature)[2]) < 1e-10


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_published_gradient_equals_equations_4_to_9(temperature):
    mean, log_variance, target = batch()
    loss, weight, average = by_hand(mean, log_variance, target, temperature)
    alpha = weight * (1 + (average - loss) / temperature)
    assert abs(alpha.sum() - 1) < 1e-12
    variance, error = np.exp(log_variance), mean - target
    expected_mean = alpha * error / variance
    expected_variance = alpha * (variance - error**2) / (2 * variance**2)

    tensors = [torch.from_numpy(value).requires_grad_() for value in (mean, variance)]
    value = robust_nll(tensors[0], tensors[1].log(), torch.from_numpy(target), temperature)
    d_mean, d_variance = torch.autograd.grad(value, tensors)
    np.testing.assert_allclose(d_mean.numpy(), expected_mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(d_variance.numpy(), expected_variance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", [robust_nll, robust_beta_nll])
def test_gradients_pass_finite_differences(loss):
    mean, log_variance, target = (torch.from_numpy(value).reshape(3, 3) for value in batch())
    log_variance = log_variance.detach()  # beta-NLL's factor is a constant by definition: check the mean's gradient
    assert torch.autograd.gradcheck(lambda m: loss(m, log_variance, target, 2.0), (mean.requires_grad_(),))


def test_samples_far_above_the_average_are_pushed_away():
    losses = torch.tensor([0.0, 0.1, 0.2, 6.0], dtype=torch.float64, requires_grad=True)
    value = boltzmann_mean(losses, 1.0)
    (alpha,) = torch.autograd.grad(value, losses)
    assert (losses.detach() > value.detach() + 1.0).tolist() == (alpha < 0).tolist() == [False, False, False, True]


def test_temperature_goes_from_the_mean_to_the_minimum():
    losses = torch.tensor([3.0, -1.0, 0.5, 8.0], dtype=torch.float64)
    assert boltzmann_mean(losses, 1e9).item() == pytest.approx(losses.mean().item(), abs=1e-6)
    assert boltzmann_mean(losses, 1e-3).item() == pytest.approx(losses.min().item(), abs=1e-12)


def test_any_per_sample_loss_can_be_weighted_along_any_axis():
    losses = torch.rand(4, 6, dtype=torch.float64)
    rows = torch.stack([boltzmann_mean(row, 0.3) for row in losses])
    torch.testing.assert_close(boltzmann_mean(losses, 0.3), rows)
    torch.testing.assert_close(boltzmann_mean(losses.T, 0.3, dim=0), rows)
    mean, target = torch.rand(5, 2), torch.rand(5, 2)
    torch.testing.assert_close(robust_mse(mean, target, 2.0), boltzmann_mean(((mean - target) ** 2).sum(-1), 2.0))


def test_huge_losses_do_not_overflow():
    losses = torch.tensor([1e30, 2e30, 1e30])
    torch.testing.assert_close(boltzmann_weights(losses, 1.0), torch.tensor([0.5, 0.0, 0.5]))
    with pytest.raises(ValueError, match="temperature"):
        boltzmann_weights(losses, 0.0)


def test_effective_sample_size_counts_the_samples_that_matter():
    assert effective_sample_size(torch.tensor([0.25, 0.25, 0.25, 0.25])).item() == 4.0
    assert effective_sample_size(torch.tensor([0.0, 1.0, 0.0, 0.0])).item() == 1.0


def clean_residuals(count=20001):
    """Equally likely values of a unit Gaussian: a population without sampling noise."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


@pytest.mark.parametrize("temperature, stationary", [(6, 0.62), (8, 0.73), (16, 0.87), (64, 0.97)])
def test_published_loss_biases_the_variance_low_on_clean_data(temperature, stationary):
    """The local minimum u = sigma^2 / truth is [T - 2 + sqrt(T (T - 4))] / 2T for T > 4."""
    residuals = clean_residuals()
    zeros = torch.zeros_like(residuals)

    def loss(log_u):
        return robust_nll(zeros, torch.full_like(residuals, log_u), residuals, float(temperature)).item()

    closed_form = (temperature - 2 + np.sqrt(temperature * (temperature - 4))) / (2 * temperature)
    found = np.exp(minimize_scalar(loss, bounds=(-1.0, 0.3), method="bounded", options={"xatol": 1e-6}).x)
    assert found == pytest.approx(closed_form, abs=2e-3)
    assert found == pytest.approx(stationary, abs=6e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_published_loss_has_no_minimum_at_small_temperatures(temperature):
    residuals = clean_residuals()
    values = [
        robust_nll(torch.zeros_like(residuals), torch.full_like(residuals, log_u), residuals, temperature).item()
        for log_u in np.linspace(0.5, -6.0, 30)
    ]
    assert np.all(np.diff(values) < 0)


def test_weighted_nll_is_one_line_in_a_users_training_loop():
    mean, log_variance, target = map(torch.from_numpy, batch())
    loss = boltzmann_mean(gaussian_nll(mean, log_variance, target), 16.0)
    torch.testing.assert_close(loss, robust_nll(mean, log_variance, target, 16.0))
