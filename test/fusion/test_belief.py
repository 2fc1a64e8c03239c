"""Prediction and correction against samples, and the merging of fixes of one image."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robust_loc.fusion.belief import Belief, Fix, MotionModel, Step
from robust_loc.fusion.gating import Gate, intersect, with_shared_error
from robust_loc.fusion.rigid import fraction_of, inverse, is_pose, rotation_exp, rotation_log
from robust_loc.uncertainty import perturb, pose_error

QUIET = MotionModel(0.0, 0.5, 0.5, 3.0)
GATE = Gate(0.95, 0.999)


def pose(x, y, z, *rotvec):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation_exp(np.array(rotvec or (0.0, 0.0, 0.0))), [x, y, z]
    return T


def covariance(rng, sigma=0.01, dimension=6):
    A = rng.normal(size=(dimension, dimension))
    return sigma**2 * (A @ A.T + np.eye(dimension))


def test_rotation_exp_and_log_agree_with_scipy_at_all_angles():
    rng = np.random.default_rng(0)
    for angle in (0.0, 1e-9, 1e-5, 1e-3, 0.5, 2.0, 2.99, 3.05, 3.14, np.pi):
        v = rng.normal(size=3)
        v *= angle / np.linalg.norm(v)
        R = Rotation.from_rotvec(v).as_matrix()
        assert rotation_exp(v) == pytest.approx(R, abs=1e-12)
        assert Rotation.from_rotvec(rotation_log(R)).as_matrix() == pytest.approx(R, abs=1e-9)


def test_a_motion_is_the_product_of_its_parts():
    motion = pose(1.0, 2.0, 3.0, 0.3, -0.2, 0.5)
    part = fraction_of(motion, 0.3)
    assert part @ (inverse(part) @ motion) == pytest.approx(motion)
    assert is_pose(part) and not is_pose(2 * motion) and not is_pose(np.full((4, 4), np.nan))


def test_predicted_covariance_is_that_of_samples():
    rng = np.random.default_rng(1)
    joint = covariance(rng, 0.02, 7)
    belief = Belief(pose(1.0, 2.0, 0.5, 0.3, -0.4, 1.0), 2.0, joint)
    step = Step(0.1, pose(0.4, -0.2, 0.3, 0.1, 0.2, -0.1), covariance(rng))
    predicted = belief.predicted(step, QUIET)

    x = rng.multivariate_normal(np.zeros(7), joint, 100_000)
    poses = perturb(belief.map_T_cam, x[:, :6])
    increments = perturb(step.increment, rng.multivariate_normal(np.zeros(6), step.covariance, len(x)))
    increments[:, :3, 3] *= 2.0 * (1 + x[:, 6:])
    errors = np.concatenate([pose_error(predicted.map_T_cam, poses @ increments), x[:, 6:]], 1)
    assert np.cov(errors.T) == pytest.approx(predicted.covariance, abs=0.03 * np.abs(predicted.covariance).max())


def test_two_fixes_give_the_scale_exactly_however_wrong_the_first_guess():
    """The pose is linear in the scale: one correction moves it from 1 to 8 without overshoot."""
    belief = Belief.at(np.eye(4), 1e-8 * np.eye(6), scale=1.0, relative_sigma=10.0)
    moved = belief.predicted(Step(1.0, pose(0.5, 0.0, 0.0), 1e-10 * np.eye(6)), QUIET)
    fixed = moved.corrected([Fix(0, "a", pose(4.0, 0.0, 0.0), 1e-6 * np.eye(6))], [1.0], Gate(0.95, 0.999999))
    assert fixed.scale == pytest.approx(8.0, rel=1e-3)
    assert np.sqrt(fixed.covariance[6, 6]) == pytest.approx(1e-3 / 4.0, rel=0.05)


def test_correction_is_the_information_weighted_mean():
    belief = Belief.at(np.eye(4), 0.04 * np.eye(6), 1.0, 0.0)
    corrected = belief.corrected([Fix(0, "a", pose(0.1, 0.0, 0.0), 0.01 * np.eye(6))], [1.0], GATE)
    assert corrected.map_T_cam[0, 3] == pytest.approx(0.1 * 0.8)
    assert corrected.covariance[0, 0] == pytest.approx(0.04 * 0.01 / 0.05)


def test_outside_the_gate_nothing_changes_and_at_its_edge_little():
    belief = Belief.at(np.eye(4), 1e-4 * np.eye(6), 1.0, 0.0)
    noise = 1e-4 * np.eye(6)
    far = belief.corrected([Fix(0, "a", pose(1.0, 0.0, 0.0), noise)], [1.0], GATE)
    assert far is belief
    edge = np.sqrt(2e-4 * 20.0)  # NIS 20: between the 95 % and the 99.9 % quantile
    near = belief.corrected([Fix(0, "a", pose(edge, 0.0, 0.0), noise)], [1.0], GATE)
    assert 0.0 < near.map_T_cam[0, 3] < 0.5 * edge
    assert GATE.weight(np.nan) == 0.0


def test_two_sources_on_one_image_are_not_counted_twice():
    """Covariance intersection of equal covariances leaves them as they are; independent fixes would halve them."""
    belief = Belief.at(np.eye(4), 100.0 * np.eye(6), 1.0, 0.0)
    fixes = [Fix(0, "relocalizer", np.eye(4), 0.01 * np.eye(6)), Fix(0, "regressor", np.eye(4), 0.01 * np.eye(6))]
    corrected = belief.corrected(fixes, [1.0, 1.0], GATE)
    assert corrected.covariance[0, 0] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.5, 1.0])
def test_covariance_intersection_is_consistent_for_any_correlation(correlation):
    rng = np.random.default_rng(2)
    A, B = covariance(rng), covariance(rng)
    a, b = np.linalg.cholesky(A), np.linalg.cholesky(B)
    shared, own = rng.normal(size=(2, 2000, 6))
    first = shared @ a.T
    second = (correlation * shared + np.sqrt(1 - correlation**2) * own) @ b.T
    merged = [intersect([(x, A), (y, B)])[0] for x, y in zip(first[:300], second[:300])]
    claimed = intersect([(first[0], A), (second[0], B)])[1]
    nees = [x @ np.linalg.solve(claimed, x) for x in merged]
    assert np.mean(nees) / 6 < 1.15


def test_unobserved_motion_grows_with_the_square_of_the_gap():
    belief = Belief.at(np.eye(4), 1e-6 * np.eye(6), 1.0, 0.0)
    silent = Step(0.5, np.eye(4), np.zeros((6, 6)), False, True, True)
    for _ in range(4):
        belief = belief.predicted(silent, QUIET)
    assert np.sqrt(belief.covariance[0, 0]) == pytest.approx(0.5 * 2.0, rel=1e-3)
    for _ in range(100):
        belief = belief.predicted(silent, QUIET)
    assert np.sqrt(belief.covariance[3, 3]) <= np.pi / 2 + 1e-6
    seen = belief.predicted(Step(0.5, np.eye(4), np.zeros((6, 6))), QUIET)
    assert seen.gap_translation == 0.0


def test_a_shared_error_never_makes_the_pose_much_more_certain_than_the_fix_nor_keeps_a_fix_from_counting():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    noise = root @ root.T
    for prior_size, smallest, largest in ((100.0, 0.9, 1.4), (1.0, 0.85, 1.01), (0.2, 0.18, 0.201)):
        extra, scaled = with_shared_error(prior_size * noise, noise, 9.0)
        prior = prior_size * noise + extra
        after = prior - prior @ np.linalg.solve(prior + scaled, prior)
        ratio = np.exp((np.linalg.slogdet(after)[1] - np.linalg.slogdet(noise)[1]) / 6)
        assert smallest < ratio < largest, (prior_size, ratio)
    extra, scaled = with_shared_error(noise, noise, 1.0)
    assert not extra.any() and scaled is noise


def test_two_poses_with_one_common_error_are_not_taken_for_two():
    """The bound holds at full correlation: the prior's error is the fix's own."""
    noise = np.diag([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    prior = noise + np.diag([4.0, 0.5, 0.0, 0.3, 0.0, 0.1])  # the common error and another
    extra, scaled = with_shared_error(prior, noise, 9.0)
    total = prior + extra
    gain = np.linalg.solve(total + scaled, total).T
    claimed = (np.eye(6) - gain) @ total
    own = prior - noise
    joint = (np.eye(6) - gain) @ own @ (np.eye(6) - gain).T + noise  # the common error stays whole
    assert np.linalg.eigvalsh(claimed - joint).min() > -1e-9
