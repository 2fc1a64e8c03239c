"""Consistency statistics on samples whose distribution is known."""

import numpy as np
import pytest
from scipy import stats

from robust_loc.uncertainty import consistency as c


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def honest_sample(rng, count, dimension=6, factor=1.0):
    """Errors drawn from their own covariances (times ``factor`` squared)."""
    root = rng.normal(size=(count, dimension, dimension)) + 2 * np.eye(dimension)
    errors = factor * (root @ rng.normal(size=(count, dimension, 1)))[..., 0]
    return errors, root @ np.swapaxes(root, -1, -2)


def test_nees_is_the_squared_mahalanobis_distance():
    assert c.nees(np.array([3.0, 4.0]), np.diag([9.0, 4.0])) == pytest.approx(1.0 + 4.0)
    errors = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert c.nees(errors, np.eye(2)) == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.diag([1.0, -1.0]), np.full((2, 2), np.nan)])
def test_nees_refuses_what_is_not_a_covariance(bad):
    with pytest.raises(ValueError, match="covariance"):
        c.nees(np.ones(2), bad)


def test_anees_of_true_covariances_falls_in_its_band_as_often_as_it_says(rng):
    inside = [c.anees(rng.chisquare(6, 100), 6).contains_value for _ in range(1000)]
    assert 0.93 < np.mean(inside) < 0.97


def test_anees_band_is_the_chi_square_interval():
    band = c.anees(np.full(10, 6.0), 6)
    assert band.value == pytest.approx(1.0)
    assert (band.low, band.high) == pytest.approx((40.482 / 60, 83.298 / 60), rel=1e-3)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_covariances_of_the_wrong_size_leave_the_band(rng, factor):
    band = c.anees(c.nees(*honest_sample(rng, 300, factor=factor)), 6)
    assert band.value == pytest.approx(factor**2, rel=0.1)
    assert not band.contains_value


def test_coverage_of_true_covariances_equals_the_levels(rng):
    for level, covered in c.coverage(c.nees(*honest_sample(rng, 20_000)), 6).items():
        assert covered == pytest.approx(level, abs=0.01)


def test_interval_calibration_error_sees_the_axis_whose_sigma_is_wrong(rng):
    error = c.interval_calibration_error(rng.normal(size=(20_000, 3)) * [1, 1, 3], np.ones((20_000, 3)))
    assert error[0] < 0.01 and error[1] < 0.01 and error[2] > 0.2


def test_white_innovations_pass_and_correlated_ones_do_not(rng):
    p_values = [c.innovation_whiteness(rng.normal(size=(200, 3)), np.eye(3)).p_value for _ in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    noise = rng.normal(size=(201, 3))
    coloured = (noise[1:] + 0.5 * noise[:-1]) / np.sqrt(1.25)
    result = c.innovation_whiteness(coloured, np.eye(3))
    assert result.p_value < 1e-6
    assert result.correlation[0] == pytest.approx(0.4, abs=0.1) and result.correlation[0] > result.bound


def test_block_bootstrap_covers_the_mean_of_correlated_values(rng):
    """AR(1) with coefficient 0.8: resampling single values would cover about half as often as promised."""
    hits_block, hits_single = 0, 0
    for trial in range(60):
        noise, x = rng.normal(size=500), np.zeros(500)
        for k in range(1, 500):
            x[k] = 0.8 * x[k - 1] + noise[k]
        band = c.block_bootstrap(x, samples=200, seed=trial)
        hits_block += band.low <= 0 <= band.high
        single = c.block_bootstrap(x, block=1, samples=200, seed=trial)
        hits_single += single.low <= 0 <= single.high
    assert hits_block >= 48 and hits_single <= 42


def test_block_bootstrap_is_reproducible():
    values = np.sin(np.arange(50.0))
    assert c.block_bootstrap(values, seed=1) == c.block_bootstrap(values, seed=1)


def test_ause_is_zero_for_a_perfect_ranking_and_grows_as_it_worsens(rng):
    errors = rng.exponential(size=2000)
    perfect, random, reversed_ = (c.ause(errors, u) for u in (errors**2, rng.uniform(size=2000), -errors))
    assert perfect == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < random < reversed_
    assert c.sparsification(errors, errors**2).spearman == pytest.approx(1.0)
    assert c.sparsification(errors, rng.uniform(size=2000)).by_uncertainty == pytest.approx(1.0, abs=0.5)


def test_auroc_is_one_for_separating_scores_and_half_for_ties():
    wrong = np.array([False, False, True, True])
    assert c.auroc(np.array([1.0, 2.0, 3.0, 4.0]), wrong) == 1.0
    assert c.auroc(np.array([4.0, 3.0, 2.0, 1.0]), wrong) == 0.0
    assert c.auroc(np.ones(4), wrong) == 0.5
    assert np.isnan(c.auroc(np.ones(4), np.ones(4, bool)))
