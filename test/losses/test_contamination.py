"""The mixture of residuals: shares and scale of the inliers, and the temperature chosen for them."""

import pytest
import torch

from robust_loc.losses import LabelWeights, ResidualMixture, least_uncertain_weighting


def squares(count, dimension, share=0.0, ratio=10.0, seed=0):
    """Squared lengths of unit Gaussian residuals, a share of them ``ratio`` times as long."""
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    residual[: round(share * count)] *= ratio
    return residual.square().sum(-1)


@pytest.mark.parametrize("dimension", [1, 3, 6])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("ratio", [5.0, 100.0])
def test_share_and_scale_of_the_inliers_are_found(dimension, share, ratio):
    mixture = ResidualMixture()
    for _ in range(20):
        mixture.fit(squares(4000, dimension, share, ratio), dimension)
    assert 1 - mixture.shares[0].item() == pytest.approx(share, abs=0.08 if dimension == 1 else 0.02)
    assert mixture.variance.item() == pytest.approx(1.0, rel=0.2 if dimension == 1 else 0.05)


def test_weighting_is_the_analytic_one_on_clean_data():
    """No outliers: the consistency factor is (T + 1) / T and the mean weight that of a Gaussian."""
    shares = torch.zeros(8, dtype=torch.float64)
    shares[0] = 1
    for dimension in (1, 6):
        T, mean_weight, consistency = least_uncertain_weighting(shares, shares.new_ones(1), dimension)
        assert T > 500  # weights only lose information here
        torch.testing.assert_close(consistency, 1 + 1 / T)
        torch.testing.assert_close(mean_weight, (1 + 1 / T) ** (-dimension / 2))


@pytest.mark.parametrize("dimension", [1, 6])
def test_consistency_factor_makes_the_inliers_variance_stationary_among_outliers(dimension):
    squared = squares(200_000, dimension, 0.4, 4.0)
    shares = torch.zeros(8, dtype=torch.float64)
    shares[0], shares[2] = 0.6, 0.4  # a ratio of 4 is a variance of 16, the third rung
    T, mean_weight, consistency = least_uncertain_weighting(shares, shares.new_ones(1), dimension)
    weight = torch.exp(-squared / (2 * T))
    assert T < 20
    assert weight.mean().item() == pytest.approx(mean_weight.item(), rel=0.01)
    assert (weight * (dimension - consistency * squared)).mean().item() == pytest.approx(0, abs=0.01 * dimension)


def test_scale_of_the_distances_scales_the_temperature_alone():
    one, other = (ResidualMixture().fit(factor * squares(1000, 2, 0.3), 2) for factor in (1.0, 1e6))
    torch.testing.assert_close(other.temperature, 1e6 * one.temperature)
    torch.testing.assert_close(other.consistency, one.consistency)


@pytest.mark.parametrize(
    "squared", [torch.zeros(8), torch.full((8,), torch.inf), torch.tensor([0.0, 1e38, 1.0, 1e-38])]
)
def test_degenerate_distances_leave_finite_weightings(squared):
    mixture = ResidualMixture()
    for _ in range(3):
        weighting = mixture.fit(squared, 3)
        assert all(value.isfinite().all() and (value > 0).all() for value in weighting)


def test_an_impossible_share_is_refused():
    with pytest.raises(ValueError, match="most_outliers"):
        ResidualMixture(most_outliers=1.0)


def test_labels_that_contradict_the_others_get_no_weight():
    """Forty labels, half of them wrong: single errors overlap, their means do not."""
    generator = torch.Generator().manual_seed(0)
    weights = LabelWeights(40)
    for _ in range(30):
        label = torch.randint(40, (200,), generator=generator)
        size = torch.where(label < 20, 4.0, 60.0)
        answer = weights(label, size * torch.rand(200, generator=generator))
    assert answer.shape == label.shape
    assert answer[label >= 20].max() < 0.01
    assert answer[label < 20].min() > 1.0


def test_right_labels_keep_their_weight_and_unseen_ones_the_middle_one():
    generator = torch.Generator().manual_seed(0)
    weights = LabelWeights(40)
    for _ in range(30):
        label = torch.randint(39, (200,), generator=generator)
        weights(label, 4 * torch.rand(200, generator=generator))
    of_labels = weights.of_labels()
    assert of_labels.min() > 0.7
    assert of_labels[39] == pytest.approx(of_labels.median().item(), rel=0.1)


def test_labels_need_a_count_and_a_memory():
    with pytest.raises(ValueError, match="positive"):
        LabelWeights(0)
