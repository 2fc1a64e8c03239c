"""The evaluation object: right on cases whose answer is known, absent where it cannot be computed."""

import numpy as np
import pytest
from noisy_trajectories import SECOND, SIGMA, helix, noisy
from scipy.spatial.transform import Rotation

from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import TrajectoryError
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.evaluation.metrics import kitti_drift, relative_errors
from robust_loc.uncertainty import compose, perturb


def test_a_similarity_of_the_truth_has_no_error_after_sim3_and_its_scale_is_found():
    truth = helix()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.random(random_state=2).as_matrix()
    turn[:3, 3] = [4, -2, 1]
    moved = truth.in_frame(turn)
    poses = moved.world_T_cam.copy()
    poses[:, :3, 3] *= 0.25
    summary = evaluate(Trajectory(truth.stamps, poses), truth, alignment=AlignmentMode.SIM3).summary
    assert summary["ate"]["sim3"]["rmse"] < 1e-9 and summary["ate"]["sim3"]["scale"] == pytest.approx(4.0)
    assert summary["ate"]["none"]["rmse"] > 1
    assert summary["ate"]["se3"]["rmse"] > 0.1
    assert summary["rpe"]["translation"]["rmse"] < 1e-9 and summary["recall"]["0.05m_5deg"] == 1.0
    assert "uncertainty" not in summary and "state" not in summary and "latency" not in summary


def test_true_covariances_have_an_anees_of_one_and_cover_what_they_say():
    uncertainty = evaluate(noisy(helix(2000), SIGMA), helix(2000)).summary["uncertainty"]
    assert uncertainty["anees"] == pytest.approx(1.0, abs=0.06)
    assert uncertainty["band"][0] < 1.0 < uncertainty["band"][1]
    for level in ("0.5", "0.9", "0.95"):
        assert uncertainty["coverage"][level] == pytest.approx(float(level), abs=0.04)


def test_a_claim_of_half_the_true_sigma_has_an_anees_of_four():
    uncertainty = evaluate(noisy(helix(2000), SIGMA, claimed=0.5), helix(2000)).summary["uncertainty"]
    assert uncertainty["anees"] == pytest.approx(4.0, abs=0.25)
    assert uncertainty["coverage"]["0.95"] < 0.5


def test_the_anees_survives_the_alignment_of_a_scaled_and_turned_world():
    truth = helix(2000)
    estimate = noisy(truth, SIGMA)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.random(random_state=2).as_matrix()
    moved = estimate.in_frame(turn)
    poses, scale = moved.world_T_cam.copy(), np.diag([0.1] * 3 + [1.0] * 3)
    poses[:, :3, 3] *= 0.1
    scaled = Trajectory(truth.stamps, poses, scale @ moved.covariances @ scale)
    summary = evaluate(scaled, truth, alignment=AlignmentMode.SIM3).summary
    assert summary["uncertainty"]["anees"] == pytest.approx(1.0, abs=0.06)


def test_an_odometry_is_judged_from_its_start_with_the_covariance_that_it_accumulates():
    truth, rng = helix(300), np.random.default_rng(6)
    steps = np.linalg.inv(truth.world_T_cam[:-1]) @ truth.world_T_cam[1:]
    sigma = np.array([1e-3, 1e-3, 1e-3, 2e-4, 2e-4, 2e-4])
    poses, covariances = [np.eye(4)], [1e-12 * np.eye(6)]
    for step in steps:
        noisy_step = perturb(step, rng.normal(size=6) * sigma)
        pose, covariance = compose(poses[-1], covariances[-1], noisy_step, np.diag(sigma**2))
        poses.append(pose)
        covariances.append(covariance)
    shrink = np.diag([0.1] * 3 + [1.0] * 3)
    scaled = np.array(poses)
    scaled[:, :3, 3] *= 0.1
    odometry = Trajectory(truth.stamps, scaled, shrink @ np.array(covariances) @ shrink)
    evaluation = evaluate(odometry, truth, alignment=AlignmentMode.START)
    assert evaluation.series.translation[0] < 1e-12 and set(evaluation.summary["ate"]) == {"none", "se3", "sim3"}
    assert 0.3 < evaluation.summary["uncertainty"]["anees"] < 2.0  # one run is one draw


def test_uncertainty_that_grows_with_the_error_has_a_smaller_ause_than_one_that_does_not():
    truth = helix(1000)
    scale = np.linspace(0.2, 5.0, 1000)
    noise = np.random.default_rng(3).normal(size=(1000, 6)) * SIGMA * scale[:, None]
    poses = perturb(truth.world_T_cam, noise)
    knowing = Trajectory(truth.stamps, poses, np.diag(SIGMA**2) * scale[:, None, None] ** 2)
    guessing = Trajectory(truth.stamps, poses, np.diag(SIGMA**2) * scale[::-1, None, None] ** 2)
    good, bad = (evaluate(e, truth).summary["uncertainty"]["ause"] for e in (knowing, guessing))
    assert good["translation"] < 0.5 * bad["translation"] and good["rotation"] < 0.5 * bad["rotation"]


def test_unanswered_frames_count_as_failures_of_the_recall():
    truth = helix(100)
    summary = evaluate(truth.select(slice(0, 80)), truth).summary
    assert summary["frames"] == 100 and summary["estimated"] == 80
    assert set(summary["recall"].values()) == {0.8}


def test_two_estimates_for_one_frame_count_once():
    truth = helix(50)
    stamps = np.sort(np.concatenate([truth.stamps, truth.stamps + 1_000_000]))
    double = Trajectory(stamps, np.repeat(truth.world_T_cam, 2, axis=0))
    assert evaluate(double, truth).summary["recall"]["0.05m_5deg"] == 1.0
    assert evaluate(double, truth).summary["estimated"] == 50


def test_a_camera_that_stands_still_has_no_aligned_ate_and_no_drift():
    still = Trajectory(np.arange(30) * SECOND // 10, np.tile(np.eye(4), (30, 1, 1)))
    summary = evaluate(still, still).summary
    assert set(summary["ate"]) == {"none"} and "kitti" not in summary
    with pytest.raises(TrajectoryError, match="sim3 is not determined"):
        evaluate(still, still, alignment=AlignmentMode.SIM3)


def test_trajectories_of_different_clocks_are_refused():
    truth = helix(20)
    late = Trajectory(truth.stamps + 100 * SECOND, truth.world_T_cam)
    with pytest.raises(TrajectoryError, match="same clock"):
        evaluate(late, truth)


def test_on_a_straight_road_a_scale_error_of_one_percent_is_a_drift_of_one_percent():
    poses = np.tile(np.eye(4), (3000, 1, 1))
    poses[:, 2, 3] = 0.1 * np.arange(3000)
    road = Trajectory(np.arange(3000) * SECOND // 10, poses)
    scaled = poses.copy()
    scaled[:, 2, 3] *= 1.01
    every = np.arange(3000)
    drift = kitti_drift(Trajectory(road.stamps, scaled), road, (every, every))
    assert drift.translation == pytest.approx(0.01, rel=2e-3) and drift.rotation < 1e-9
    assert kitti_drift(road, road.select(slice(0, 900)), (every[:900], every[:900])) is None


def test_relative_errors_follow_one_another_by_delta_frames():
    truth = helix(31)
    poses = truth.world_T_cam.copy()
    poses[16:, 0, 3] += 0.5  # one jump
    jumped = Trajectory(truth.stamps, poses)
    for all_pairs, hits in ((False, 1), (True, 10)):
        errors, _ = relative_errors(jumped, truth, 10, all_pairs)
        assert np.sum(errors > 0.49) == hits


def test_localized_while_wrong_counts_confident_errors_and_huge_covariances_alike():
    truth = helix(100)
    poses = truth.world_T_cam.copy()
    poses[10:15, 0, 3] += 0.1  # within the metric bound, but many sigma
    poses[20:30, 0, 3] += 1.0  # beyond the metric bound, hidden by a huge covariance
    poses[40:50, 0, 3] += 1.0  # as wrong, but the state says so
    covariances = np.tile(np.eye(6) * 1e-4, (100, 1, 1))
    covariances[20:30] *= 1e6
    states = ["LOCALIZED"] * 100
    states[40:60] = ["LOST"] * 20
    summary = evaluate(Trajectory(truth.stamps, poses, covariances), truth, states=(truth.stamps, states)).summary
    assert summary["state"].items() >= {"localized": 0.8, "localized_while_wrong": 0.15}.items()


def test_a_covariance_that_is_not_positive_definite_is_left_out_and_said():
    estimate = noisy(helix(50), SIGMA)
    estimate.covariances[7] = -np.eye(6)
    estimate.covariances[8] = np.nan
    evaluation = evaluate(estimate, helix(50))
    assert evaluation.warnings == ("1 covariances are not positive definite and are left out",)
    assert np.isnan(evaluation.series.nees).sum() == 2
