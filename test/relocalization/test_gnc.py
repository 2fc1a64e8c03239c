"""The smoothed cost, its derivatives against finite differences, and the solver."""

import numpy as np
import pytest

from robust_loc.relocalization.gnc import (
    evaluate,
    pose_jacobian,
    positive_curvature,
    refine,
    retract,
    sigma_schedule,
)
from robust_loc.relocalization.loss_maps import project_points
from robust_loc.relocalization.synthetic import DIFFICULTIES, draw_query
from robust_loc.uncertainty import pose_error


@pytest.fixture
def query():
    return draw_query(np.random.default_rng(0), DIFFICULTIES["medium"])


def numeric_gradient(function, at, step=1e-6):
    columns = []
    for k in range(6):
        delta = np.zeros(6)
        delta[k] = step
        columns.append((function(retract(at, delta)) - function(retract(at, -delta))) / (2 * step))
    return np.stack(columns, -1)


def test_schedules_are_those_of_the_paper_without_its_repeated_one():
    assert sigma_schedule(2.0, 0.6) == [2.0, 1.0, 0.9, 0.8, 0.7, 0.6]
    assert sigma_schedule(8.0, 0.6) == [8.0, 4.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.6]


def test_the_smoothed_cost_is_the_definition(query):
    terms = evaluate(query.maps, query.points, query.intrinsics, query.cam_T_world, 1.3)
    pixels, _ = project_points(query.points, query.intrinsics, query.cam_T_world)
    for n in range(5):
        rows = slice(query.maps.starts[n], query.maps.starts[n + 1])
        r2 = (query.maps.x[rows] - pixels[n, 0]) ** 2 + (query.maps.y[rows] - pixels[n, 1]) ** 2
        kernel = np.exp(-r2 / (2 * 1.3**2)) / (2 * np.pi * 1.3**2)
        expected = -((query.maps.ceiling - query.maps.loss[rows].astype(float)) * kernel).sum()
        assert terms.cost[n] == pytest.approx(expected, rel=1e-10)


def test_the_jacobian_of_the_projection_agrees_with_finite_differences(query):
    numeric = numeric_gradient(lambda pose: project_points(query.points, query.intrinsics, pose)[0], query.cam_T_world)
    terms = evaluate(query.maps, query.points, query.intrinsics, query.cam_T_world, 1.0)
    analytic = pose_jacobian(terms.local, query.intrinsics, query.cam_T_world[:3, 3])
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.6, 2.0, 8.0])
def test_the_gradient_of_the_cost_agrees_with_finite_differences(query, sigma):
    pose = retract(query.cam_T_world, np.array([0.01, -0.02, 0.01, 0.03, 0.02, -0.05]))

    def total(p):
        return evaluate(query.maps, query.points, query.intrinsics, p, sigma).cost.sum()

    terms = evaluate(query.maps, query.points, query.intrinsics, pose, sigma)
    J = pose_jacobian(terms.local, query.intrinsics, pose[:3, 3])
    analytic = -np.einsum("nij,ni->j", J, terms.pull)
    np.testing.assert_allclose(analytic, numeric_gradient(total, pose), rtol=1e-5, atol=1e-6)


def test_the_curvature_in_the_pixel_plane_agrees_with_finite_differences(query):
    """Moving the principal point moves every projection alike."""

    def pull(shift):
        moved = query.intrinsics + np.array([0, 0, *shift])
        return evaluate(query.maps, query.points, moved, query.cam_T_world, 0.8).pull

    h = 1e-5
    terms = evaluate(query.maps, query.points, query.intrinsics, query.cam_T_world, 0.8)
    along_x = -(pull([h, 0]) - pull([-h, 0])) / (2 * h)
    along_y = -(pull([0, h]) - pull([0, -h])) / (2 * h)
    np.testing.assert_allclose(terms.curvature[:, :2], along_x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms.curvature[:, 1:], along_y, rtol=1e-5, atol=1e-6)


def test_the_positive_part_of_a_curvature_keeps_its_positive_eigenvalues():
    curvature = np.random.default_rng(1).normal(size=(200, 3))
    for c, part in zip(curvature, positive_curvature(curvature)):
        values, vectors = np.linalg.eigh([[c[0], c[1]], [c[1], c[2]]])
        np.testing.assert_allclose(part, (vectors * np.maximum(values, 0)) @ vectors.T, atol=1e-12)


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_a_disturbed_pose_returns_to_the_planted_one(name):
    rng = np.random.default_rng(5)
    for _ in range(5):
        query = draw_query(rng, DIFFICULTIES[name], count=200)
        start = retract(query.cam_T_world, rng.normal(0, 0.01, 6))
        result = refine(query.maps, query.points, query.intrinsics, start, sigma_schedule(2.0, 0.6))
        error = pose_error(np.linalg.inv(result.cam_T_world), np.linalg.inv(query.cam_T_world))
        assert result.converged and result.iterations < 60
        assert np.linalg.norm(error[:3]) < 0.06 and np.linalg.norm(error[3:]) < 0.015


def test_the_solver_stops_where_the_gradient_vanishes(query):
    result = refine(query.maps, query.points, query.intrinsics, query.cam_T_world, sigma_schedule(2.0, 0.6))
    terms = evaluate(query.maps, query.points, query.intrinsics, result.cam_T_world, 0.6)
    J = pose_jacobian(terms.local, query.intrinsics, result.cam_T_world[:3, 3])
    assert np.abs(np.einsum("nij,ni->j", J, terms.pull)).max() < 1e-2
    assert abs(terms.cost.sum() - result.cost) < 1e-9


def test_maps_that_say_nothing_leave_the_pose_alone(query):
    empty = query.maps.select(np.array([], int))
    result = refine(empty, np.empty((0, 3)), query.intrinsics, query.cam_T_world, [2.0, 1.0])
    np.testing.assert_array_equal(result.cam_T_world, query.cam_T_world)
