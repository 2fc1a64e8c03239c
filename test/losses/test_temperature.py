"""Temperature schedules."""

import pytest
import torch
from scipy.stats import chi2

from robust_loc.losses import (
    AnnealedTemperature,
    FixedTemperature,
    QuantileTemperature,
    boltzmann_weights,
    chi_square_quantile,
    effective_sample_size,
    temperature_of_efficiency,
)


@pytest.mark.parametrize("dimension", [1, 2, 3, 6])
@pytest.mark.parametrize("probability", [0.01, 0.25, 0.5, 0.99])
def test_chi_square_quantiles_are_scipys(probability, dimension):
    assert chi_square_quantile(probability, dimension) == pytest.approx(chi2.ppf(probability, dimension), rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_temperature_keeps_the_effective_sample_size_it_is_asked_for(dimension):
    squared = torch.randn(200_000, dimension, generator=torch.Generator().manual_seed(0)).square().sum(-1)
    weights = boltzmann_weights(0.5 * squared, temperature_of_efficiency(0.745, dimension))
    assert effective_sample_size(weights).item() / len(squared) == pytest.approx(0.745, abs=5e-3)


def test_annealing_is_geometric_and_then_stays():
    schedule = AnnealedTemperature(64.0, 1.0, until=0.5)
    values = [schedule(torch.ones(3), 1, progress).item() for progress in (0.0, 0.25, 0.5, 1.0)]
    assert values == pytest.approx([64.0, 8.0, 1.0, 1.0])
    assert FixedTemperature(7.0)(torch.ones(2, 3), 1, 0.0).tolist() == [[7.0], [7.0]]


@pytest.mark.parametrize("dimension", [1, 6])
def test_quantile_temperature_is_blunt_on_clean_data_and_sharp_with_outliers(dimension):
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(20_000, dimension, generator=generator)
    schedule = QuantileTemperature()
    sharp = temperature_of_efficiency(0.745, dimension)
    clean = schedule(residual.square().sum(-1), dimension, 0.0).item()
    assert clean > 14 * dimension
    residual[:5000] *= 10
    dirty = schedule(residual.square().sum(-1), dimension, 0.0).item()
    assert sharp < dirty < 2.0 * sharp


def test_quantile_temperature_is_in_units_of_the_predicted_variance():
    squared = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).square()
    schedule = QuantileTemperature()
    torch.testing.assert_close(schedule(100 * squared, 1, 0.0), 100 * schedule(squared, 1, 0.0))


def test_perfect_residuals_leave_a_positive_temperature():
    assert QuantileTemperature()(torch.zeros(8), 1, 0.0).item() > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: FixedTemperature(0.0),
        lambda: AnnealedTemperature(end=-1.0),
        lambda: QuantileTemperature(quantile=1.0),
        lambda: QuantileTemperature(efficiency=1.0),
        lambda: chi_square_quantile(0.5, 0),
    ],
)
def test_impossible_schedules_are_refused(build):
    with pytest.raises(ValueError):
        build()
