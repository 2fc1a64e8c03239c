"""RobustNLL: the variance is the true one in every dimension, at every temperature and batch size."""

import math
import subprocess
import sys

import pytest
import torch

from robust_loc.losses import AnnealedTemperature, FixedTemperature, RobustNLL


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted_variance(loss, residuals, steps_averaged):
    """Fit one log-variance per problem to batches ``(steps, problems, N, D)`` by gradient descent; late average."""
    log_u = torch.full((residuals.shape[1], 1, 1), 0.7, dtype=torch.float64, requires_grad=True)
    history = []
    for step, batch in enumerate(residuals):
        value = loss(torch.zeros_like(batch), log_u.expand(*batch.shape[:-1], 1), batch).sum()
        (gradient,) = torch.autograd.grad(value, log_u)
        rate = 0.3 if step < len(residuals) // 2 else 0.05
        with torch.no_grad():
            log_u -= rate * gradient / batch.shape[-1]
        history.append(log_u.detach().exp().clone())
    return torch.stack(history[-steps_averaged:]).mean().item()


@pytest.mark.parametrize("dimension", [1, 2, 3, 6])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 16.0])
def test_true_variance_is_stationary_at_every_temperature_and_dimension(dimension, temperature):
    residuals = gaussian(400_000, dimension)
    log_u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = RobustNLL(FixedTemperature(temperature), memory=1)
    value = loss(torch.zeros_like(residuals), log_u.expand(len(residuals), 1), residuals)
    (gradient,) = torch.autograd.grad(value, log_u)
    assert abs(gradient.item()) / dimension < 0.01  # a 1 % variance error has a gradient of about 0.005 per dimension


@pytest.mark.parametrize("dimension", [1, 6])
def test_variance_does_not_collapse_at_low_temperature(dimension):
    """Where the published loss decreases without bound (T <= 4), this one pushes a tiny variance back up."""
    residuals = gaussian(20_000, dimension)
    loss = RobustNLL(FixedTemperature(1.0), memory=1)
    for log_u in (-6.0, -3.0, -1.0):
        variable = torch.full((1,), log_u, dtype=torch.float64, requires_grad=True)
        value = loss(torch.zeros_like(residuals), variable.expand(len(residuals), 1), residuals)
        assert torch.autograd.grad(value, variable)[0].item() < 0


@pytest.mark.parametrize("batch, dimension", [(4, 1), (8, 6), (16, 3), (256, 1)])
def test_default_gives_clean_variances_within_five_percent_at_any_batch_size(batch, dimension):
    steps = max(300, 4000 // batch)
    residuals = gaussian(steps, 16, batch, dimension)
    found = fitted_variance(RobustNLL(problems=(16,)), residuals, steps // 3)
    assert found == pytest.approx(1.0, abs=0.05)


def test_published_weighting_biases_small_batches_which_the_running_normaliser_cures():
    """In-batch normalisation alone (no memory) inflates the variance at batch 8, D = 6, T = 1; memory does not."""
    residuals = gaussian(600, 32, 8, 6)
    alone, remembered = (
        fitted_variance(RobustNLL(FixedTemperature(1.0), memory=size, problems=(32,)), residuals, 200)
        for size in (1, 512)
    )
    assert alone > 1.1
    assert remembered == pytest.approx(1.0, abs=0.05)


def test_half_the_samples_being_outliers_moves_the_variance_little():
    residuals = gaussian(300, 16, 64, 1)
    wrong = torch.rand(300, 16, 64, 1, generator=torch.Generator().manual_seed(1)) < 0.5
    residuals = torch.where(wrong, 30 * residuals, residuals)
    loss = RobustNLL(problems=(16,))
    found = fitted_variance(loss, residuals, 100)
    assert found == pytest.approx(1.0, abs=0.1)  # a plain likelihood would answer 450
    outliers = 1 - loss.mixture.shares[:, 0].mean().item()
    assert outliers == pytest.approx(0.5, abs=0.1)


def test_full_covariance_is_recovered_in_six_dimensions():
    mixing = torch.eye(6, dtype=torch.float64) + 0.4 * gaussian(6, 6, seed=3).tril(-1)
    residuals = gaussian(100_000, 6) @ mixing.T
    factor = torch.linalg.cholesky(torch.linalg.inv(mixing @ mixing.T)).requires_grad_()
    loss = RobustNLL(FixedTemperature(2.0), beta=0.0, memory=1)
    (gradient,) = torch.autograd.grad(loss.of_residual(residuals, factor.expand(len(residuals), 6, 6)), factor)
    assert (gradient.tril() @ factor.detach().inverse().mT).abs().max() < 0.02


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gradient_is_the_weighted_consistent_score(beta):
    """The covariance learns from the likelihood; the mean too, freed from sigma as far as beta says."""
    residual, log_variance = gaussian(11, 1), gaussian(11, 1, seed=1).requires_grad_()
    mean = torch.zeros_like(residual).requires_grad_()
    loss = RobustNLL(FixedTemperature(2.0), beta=beta)
    value = loss(mean, log_variance, residual)
    d_mean, d_log_variance = torch.autograd.grad(value, (mean, log_variance))
    variance = log_variance.detach().exp()
    squared = residual**2 / variance
    weight = torch.softmax(-squared / 4.0, 0)
    freed = (variance / log_variance.detach().mean().exp()) ** beta
    torch.testing.assert_close(d_mean, -weight * freed * 1.5 * residual / variance)
    torch.testing.assert_close(d_log_variance, 0.5 * weight * (1 - 1.5 * squared))
    torch.testing.assert_close(value.detach(), (0.5 * weight * (variance.log() + 1.5 * squared)).sum())


def test_training_does_not_depend_on_the_unit_of_the_target():
    residual, log_variance = gaussian(64, 2), gaussian(64, 2, seed=1)
    gradients = []
    for unit in (1.0, 1000.0):
        shifted = (log_variance + 2 * math.log(unit)).requires_grad_()
        mean = torch.zeros_like(residual).requires_grad_()
        d_mean, d_log = torch.autograd.grad(RobustNLL()(mean, shifted, unit * residual), (mean, shifted))
        gradients.append((unit * d_mean, d_log))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_clean_samples_keep_nearly_equal_weights():
    loss, residual = RobustNLL(), gaussian(4000, 1)
    loss(torch.zeros_like(residual), torch.zeros_like(residual), residual)
    assert loss.last_effective_sample_size.item() > 0.95


def test_weights_do_not_depend_on_the_scale_of_the_predicted_variance():
    residual = gaussian(64, 3)
    losses = [RobustNLL() for _ in range(2)]
    for loss, log_variance in zip(losses, (0.0, 4.0)):
        loss(torch.zeros_like(residual), torch.full((64, 1), log_variance, dtype=torch.float64), residual)
    torch.testing.assert_close(losses[0].weights, losses[1].weights)


def test_memory_survives_saving_and_is_forgotten_on_reset():
    residual, zeros = gaussian(8, 2), torch.zeros(8, 2, dtype=torch.float64)
    trained, restored = RobustNLL(memory=20), RobustNLL(memory=20)
    for _ in range(2):
        trained(zeros, zeros, residual)
    restored.load_state_dict(trained.state_dict())
    torch.testing.assert_close(restored(zeros, zeros, residual), trained(zeros, zeros, residual))
    restored.reset()
    torch.testing.assert_close(restored(zeros, zeros, residual), RobustNLL(memory=20)(zeros, zeros, residual))


def test_evaluation_does_not_touch_the_memory():
    loss = RobustNLL(memory=20).eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(gaussian(8), gaussian(8, seed=1), gaussian(8, seed=2))
    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_problems_side_by_side_are_as_if_alone():
    residual = gaussian(3, 8, 1)
    zeros = torch.zeros_like(residual)
    together = RobustNLL(problems=(3,))(zeros, zeros, residual)
    alone = torch.stack([RobustNLL()(zeros[i], zeros[i], residual[i]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    with pytest.raises(ValueError, match="problems"):
        RobustNLL()(zeros, zeros, residual)


def test_annealing_follows_the_progress_it_is_told():
    loss = RobustNLL(AnnealedTemperature(64.0, 1.0, until=1.0))
    for progress, expected in ((0.0, 64.0), (1.0, 1.0)):
        loss(gaussian(8), gaussian(8), gaussian(8), progress)
        assert loss.last_temperature.item() == pytest.approx(expected)


def test_gross_outliers_get_no_weight_and_leave_finite_gradients():
    residual = gaussian(32, 6)
    residual[:8] += 1e6
    factor = torch.eye(6, dtype=torch.float64).expand(32, 6, 6).clone().requires_grad_()
    loss = RobustNLL()
    (gradient,) = torch.autograd.grad(loss.of_residual(residual, factor), factor)
    assert gradient.isfinite().all()
    assert loss.weights[:8].max() == 0
    assert loss.last_effective_sample_size.item() < 0.76


def test_losses_import_needs_torch_alone():
    code = (
        "import sys; sys.modules.update({'numpy': None, 'scipy': None, 'cv2': None, 'yaml': None}); "
        "import robust_loc.losses"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
