"""MSAC finds the planted pose, and knows when there is none."""

import numpy as np
import pytest

from robust_loc.relocalization.msac import MsacConfig, _samples, msac
from robust_loc.relocalization.synthetic import DIFFICULTIES, draw_query
from robust_loc.uncertainty import pose_error


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_the_planted_pose_is_found_and_stands_out(name):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        query = draw_query(rng, DIFFICULTIES[name], count=100)
        result = msac(query.maps, query.points, query.intrinsics, rng)
        error = pose_error(np.linalg.inv(result.cam_T_world), np.linalg.inv(query.cam_T_world))
        assert np.linalg.norm(error[:3]) < 0.25 and np.linalg.norm(error[3:]) < 0.05
        assert result.inlier_ratio > result.rival_ratio


def test_the_same_seed_gives_the_same_pose():
    query = draw_query(np.random.default_rng(0), DIFFICULTIES["medium"])
    poses = [msac(query.maps, query.points, query.intrinsics, np.random.default_rng(7)).cam_T_world for _ in range(2)]
    np.testing.assert_array_equal(*poses)


def test_maps_of_other_points_do_not_stand_out():
    rng = np.random.default_rng(1)
    query = draw_query(rng, DIFFICULTIES["easy"], count=100)
    right = msac(query.maps, query.points, query.intrinsics, rng)
    shuffled = rng.permutation(query.points)
    wrong = msac(query.maps, shuffled, query.intrinsics, rng, MsacConfig(max_iterations=1000))
    assert wrong.inlier_ratio < 0.5 * right.inlier_ratio
    assert wrong.inlier_ratio - wrong.rival_ratio < 0.25 * (right.inlier_ratio - right.rival_ratio)


def test_samples_hold_three_distinct_points_and_prefer_heavy_ones():
    rng = np.random.default_rng(2)
    weights = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    samples = _samples(np.arange(10, 16), weights, 500, rng)
    assert all(len(set(triplet)) == 3 for triplet in samples.tolist())
    counts = np.bincount(samples.ravel(), minlength=16)[10:]
    assert counts[0] > counts[1] > counts[2] > counts[4]


def test_fewer_than_three_informative_maps_give_no_pose():
    query = draw_query(np.random.default_rng(3), DIFFICULTIES["easy"])
    result = msac(query.maps.select(np.arange(2)), query.points[:2], query.intrinsics, np.random.default_rng(0))
    assert result.cam_T_world is None and result.iterations == 0
