"""The covariance against Monte Carlo: errors of synthetic queries are as large as it says."""

import numpy as np
import pytest
from scipy.stats import chi2

from robust_loc.relocalization.covariance import (
    MAX_VARIANCE,
    pose_covariance,
    pose_information,
    tangent_covariance,
)
from robust_loc.relocalization.gnc import evaluate, pose_jacobian, refine, retract, sigma_schedule
from robust_loc.relocalization.synthetic import DIFFICULTIES, draw_query
from robust_loc.uncertainty import pose_error


def squared_errors(name, seeds):
    """NEES of refined poses, started at the truth: the local error is judged, not the search."""
    values = []
    for seed in seeds:
        query = draw_query(np.random.default_rng(seed), DIFFICULTIES[name])
        pose = refine(
            query.maps, query.points, query.intrinsics, query.cam_T_world, sigma_schedule(2.0, 0.6)
        ).cam_T_world
        covariance = pose_covariance(query.maps, query.points, query.intrinsics, pose)
        error = pose_error(np.linalg.inv(pose), np.linalg.inv(query.cam_T_world))
        values.append(error @ np.linalg.solve(covariance, error))
    return np.array(values)


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_anees_is_inside_its_chi_square_band_after_one_calibration_factor(name):
    factor = squared_errors(name, range(60)).mean() / 6
    assert 0.4 < factor < 2.5
    held_out = squared_errors(name, range(1000, 1060)) / factor
    # Both means are random: the ratio of two chi-squares of 360 degrees of freedom, at 99.9 %.
    low, high = chi2.ppf([0.0005, 0.9995], 360) / 360
    assert low / high**0.5 < held_out.mean() / 6 < high / low**0.5


def test_the_information_is_the_hessian_where_every_map_is_convex():
    query = draw_query(np.random.default_rng(0), DIFFICULTIES["easy"], count=300)
    pose = query.cam_T_world
    terms = evaluate(query.maps, query.points, query.intrinsics, pose, 0.6)
    minors = terms.curvature[:, 0] * terms.curvature[:, 2] - terms.curvature[:, 1] ** 2
    # At a peak, the gradient's own curvature term vanishes with the pull.
    keep = np.flatnonzero((terms.curvature[:, 0] > 0) & (minors > 0))
    maps, points = query.maps.select(keep), query.points[keep]
    pose = refine(maps, points, query.intrinsics, pose, [0.6]).cam_T_world

    def gradient(p):
        t = evaluate(maps, points, query.intrinsics, p, 0.6)
        return -np.einsum("nij,ni->j", pose_jacobian(t.local, query.intrinsics, p[:3, 3]), t.pull)

    h, numeric = 1e-6, np.empty((6, 6))
    for k in range(6):
        delta = np.eye(6)[k] * h
        numeric[:, k] = (gradient(retract(pose, delta)) - gradient(retract(pose, -delta))) / (2 * h)
    information = pose_information(maps, points, query.intrinsics, pose)
    assert np.linalg.norm(information - numeric) < 0.15 * np.linalg.norm(numeric)


def test_a_direction_without_information_has_a_large_but_finite_variance():
    covariance = tangent_covariance(np.diag([4.0, 1.0, 1.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(np.diag(covariance), [0.25, 1, 1, 1, 1, MAX_VARIANCE])


def test_the_scale_multiplies_the_variances():
    query = draw_query(np.random.default_rng(1), DIFFICULTIES["easy"])
    arguments = (query.maps, query.points, query.intrinsics, query.cam_T_world)
    np.testing.assert_allclose(pose_covariance(*arguments, scale=3.0), 3 * pose_covariance(*arguments))
