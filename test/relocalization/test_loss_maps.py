"""Loss maps: truncation, exact sparse storage, interpolation and the coarse-to-fine windows."""

import math

import numpy as np
import pytest
import torch

from robust_loc.relocalization.loss_maps import EPSILON, LossMaps, correspondence_maps, project_points, refine_maps


def dense_losses(probabilities):
    ceiling = math.log(probabilities.shape[1] * probabilities.shape[2] + 1)
    return np.minimum(ceiling, -np.log(probabilities + EPSILON)), ceiling


@pytest.fixture
def probabilities():
    scores = np.random.default_rng(0).normal(0, 3, (6, 9, 13))
    flat = np.exp(scores).reshape(6, -1)
    return (flat / flat.sum(1, keepdims=True)).reshape(scores.shape)


@pytest.fixture
def maps(probabilities):
    return LossMaps.from_dense(torch.from_numpy(probabilities), width=13, height=9)


def test_correspondence_maps_are_distributions_over_the_whole_grid():
    C = correspondence_maps(torch.randn(5, 8), torch.randn(7, 11, 8))
    assert C.shape == (5, 7, 11)
    torch.testing.assert_close(C.sum((1, 2)), torch.ones(5))


def test_stored_pixels_are_exactly_those_below_the_ceiling(probabilities, maps):
    expected, ceiling = dense_losses(probabilities)
    assert len(maps.x) == (expected < ceiling).sum() < expected.size
    restored = np.full(expected.shape, ceiling)
    for n in range(len(maps)):
        rows = slice(maps.starts[n], maps.starts[n + 1])
        restored[n, maps.y[rows], maps.x[rows]] = maps.loss[rows]
    np.testing.assert_allclose(restored, expected, atol=1e-6)


def test_a_certain_pixel_is_kept_although_its_loss_is_zero():
    C = torch.zeros(1, 4, 5)
    C[0, 2, 3] = 1.0
    maps = LossMaps.from_dense(C, width=5, height=4)
    assert (maps.x.tolist(), maps.y.tolist()) == ([3], [2])
    assert maps.interpolate(np.array([[3.0, 2.0]]))[0] == pytest.approx(0.0, abs=1e-6)


def test_interpolation_is_bilinear_in_the_truncated_map_and_the_ceiling_outside(probabilities, maps):
    expected, ceiling = dense_losses(probabilities)
    rng = np.random.default_rng(1)
    for _ in range(50):
        pixels = rng.uniform([-2, -2], [14, 10], (len(maps), 2))
        values = maps.interpolate(pixels)
        for n, (u, v) in enumerate(pixels):
            if not (0 <= u <= 12 and 0 <= v <= 8):
                assert values[n] == ceiling
                continue
            i, j = min(int(v), 7), min(int(u), 11)
            a, b = u - j, v - i
            corners = expected[n, i : i + 2, j : j + 2]
            exact = np.array([1 - b, b]) @ corners @ np.array([1 - a, a])
            assert values[n] == pytest.approx(exact, abs=1e-6)


def test_a_point_behind_the_camera_costs_the_ceiling(maps):
    points = np.tile([0.0, 0.0, -2.0], (len(maps), 1))
    cost = maps.cost(points, np.array([10.0, 10.0, 6.0, 4.0]), np.eye(3)[None], np.zeros((1, 3)))
    np.testing.assert_array_equal(cost, maps.ceiling)


def test_the_cost_of_a_pose_is_the_interpolated_loss_at_the_projections(maps):
    rng = np.random.default_rng(2)
    points = rng.uniform([-1, -1, 2], [1, 1, 4], (len(maps), 3))
    intrinsics = np.array([10.0, 10.0, 6.0, 4.0])
    pixels, _ = project_points(points, intrinsics, np.eye(4))
    cost = maps.cost(points, intrinsics, np.eye(3)[None], np.zeros((1, 3)))
    np.testing.assert_allclose(cost[0], maps.interpolate(pixels))


def test_scoring_many_poses_at_once_gives_the_same_costs(maps):
    rng = np.random.default_rng(4)
    points = rng.uniform([-2, -2, -1], [2, 2, 4], (len(maps), 3))
    intrinsics = np.array([10.0, 10.0, 6.0, 4.0])
    R, t = np.tile(np.eye(3), (20, 1, 1)), rng.normal(0, 0.2, (20, 3))
    together = maps.cost(points, intrinsics, R, t)
    single = [maps.cost(points, intrinsics, R[p : p + 1], t[p : p + 1])[0] for p in range(20)]
    np.testing.assert_allclose(together, single, rtol=1e-6)


def test_selected_maps_keep_their_entries(maps):
    chosen = maps.select(np.array([4, 1]))
    pixels = np.array([[5.3, 2.2], [7.7, 6.1]])
    every = np.zeros((len(maps), 2))
    every[[4, 1]] = pixels
    np.testing.assert_array_equal(chosen.interpolate(pixels), maps.interpolate(every)[[4, 1]])


def test_one_hot_maps_stand_at_the_peaks(probabilities, maps):
    pixels, losses = maps.to_peaks().peaks()
    flat = probabilities.reshape(len(maps), -1).argmax(1)
    np.testing.assert_array_equal(pixels, np.stack([flat % 13, flat // 13], 1))
    np.testing.assert_allclose(losses, 1e-3)


def naive_refinement(descriptors, features, coarse, pixels, window, ratio):
    """Appendix D.1 pixel by pixel."""
    H, W, _ = features.shape
    out = np.zeros((len(pixels), H, W))
    for n, (u, v) in enumerate(pixels):
        left, top = int(np.floor(u + 0.5)) - window // 2, int(np.floor(v + 0.5)) - window // 2
        inside = [(y, x) for y in range(top, top + window) for x in range(left, left + window)]
        inside = [(y, x) for y, x in inside if 0 <= y < H and 0 <= x < W]
        scores = np.array([descriptors[n] @ features[y, x] for y, x in inside])
        local = np.exp(scores - scores.max())
        local /= local.sum()
        cells = [(y // ratio, x // ratio) for y, x in inside if y % ratio == 0 and x % ratio == 0]
        norm = sum(coarse[n, y, x] for y, x in cells)
        for (y, x), value in zip(inside, local):
            out[n, y, x] = value * norm / ratio**2
    return out


@pytest.mark.parametrize("pixels", [[[20.3, 17.8], [30.0, 12.4]], [[1.0, 2.0], [38.6, 31.0]]])
def test_fine_windows_agree_with_the_definition_also_at_the_border(pixels):
    rng = np.random.default_rng(3)
    descriptors, features = rng.normal(size=(2, 8)) * 2, rng.normal(size=(32, 40, 8))
    coarse = rng.dirichlet(np.full(20, 0.05), 2).reshape(2, 4, 5)
    pixels = np.array(pixels)
    maps = refine_maps(
        torch.tensor(descriptors), torch.tensor(features), torch.tensor(coarse), pixels, window=16, ratio=8
    )
    expected = LossMaps.from_dense(
        torch.tensor(naive_refinement(descriptors, features, coarse, pixels, 16, 8)), width=40, height=32
    )
    np.testing.assert_array_equal(maps.starts, expected.starts)
    np.testing.assert_array_equal(maps.x, expected.x)
    np.testing.assert_array_equal(maps.y, expected.y)
    np.testing.assert_allclose(maps.loss, expected.loss, rtol=1e-4)


def test_a_planted_fine_peak_is_found_where_it_was_planted():
    features = torch.zeros(96, 128, 4)
    features[70, 90] = torch.tensor([1.0, 0, 0, 0]) * 30
    coarse = torch.zeros(1, 12, 16)
    coarse[0, 9, 11] = 1.0
    maps = refine_maps(torch.tensor([[1.0, 0, 0, 0]]), features, coarse, np.array([[85.2, 66.1]]))
    assert maps.peaks()[0].tolist() == [[90, 70]]


def test_a_window_off_the_image_or_an_unseen_point_gives_an_empty_map():
    maps = refine_maps(
        torch.randn(2, 4), torch.randn(32, 32, 4), torch.ones(2, 4, 4) / 16, np.array([[500.0, 3.0], [np.nan, np.nan]])
    )
    assert len(maps.x) == 0
    np.testing.assert_array_equal(maps.interpolate(np.array([[3.0, 3.0], [3.0, 3.0]])), maps.ceiling)
