"""The tracker, proven with an operator that knows the truth, and its behaviour on bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from odometry_frames import CAMERA, pose, render, sequence, wander

from robust_loc.errors import ConfigurationError, DatasetError, ImageEncodingError
from robust_loc.geometry import umeyama
from robust_loc.odometry import Odometry, OdometryConfig, OracleOperator, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.weights import default_weights
from robust_loc.types import Camera, Frame, Status
from robust_loc.uncertainty import CovarianceFactors
from robust_loc.uncertainty.conversions import pose_error

CONFIG = OdometryConfig.preset(
    "cpu",
    image_pixels=0,
    device="cpu",
    patches_per_frame=20,
    patch_lifetime=6,
    removal_window=8,
    motion_threshold=0.3,
    keyframe_threshold=3.0,
    still_threshold=0.05,
)


def oracle(**config) -> Odometry:
    chosen = replace(CONFIG, **config)
    return Odometry(chosen, OracleOperator(chosen.patches_per_frame))


def error_share(odometry: Odometry, frames: list[Frame]) -> float:
    """Sim(3)-aligned RMSE over the path length."""
    points = odometry.terminate()
    assert [p.stamp for p in points] == [f.stamp for f in frames]
    truth = np.stack([f.world_T_cam for f in frames])[:, :3, 3]
    found = np.stack([p.world_T_cam for p in points])[:, :3, 3]
    errors = umeyama(found, truth, with_scale=True).apply(found) - truth
    return float(np.sqrt((errors**2).sum(1).mean()) / np.linalg.norm(np.diff(truth, axis=0), axis=1).sum())


def is_positive_definite(covariance: np.ndarray) -> bool:
    return bool(np.allclose(covariance, covariance.T) and np.linalg.eigvalsh(covariance).min() > 0)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return sequence(60)


def test_trajectory_is_within_half_a_percent_of_the_path(frames) -> None:
    odometry = oracle()
    estimates = [odometry.update(frame) for frame in frames]
    assert len(odometry.graph) < 45  # keyframes were removed
    assert error_share(odometry, frames) < 0.005
    assert [e.stamp for e in estimates] == [f.stamp for f in frames]
    assert {e.status for e in estimates[:7]} == {Status.INITIALIZING}
    assert {e.status for e in estimates[8:]} <= {Status.OK, Status.DEGENERATE}
    for estimate in estimates:
        assert estimate.has_pose and is_positive_definite(estimate.covariance)
    assert estimates[0].increment is None
    assert all(is_positive_definite(e.increment_covariance) for e in estimates[1:])


@pytest.mark.parametrize("threshold", [0.0, 1.0, 8.0])
def test_keyframe_removal_keeps_the_trajectory(frames, threshold: float) -> None:
    odometry = oracle(keyframe_threshold=threshold)
    for frame in frames:
        odometry.update(frame)
    kept = {frame.number for frame in odometry.graph.frames}
    if threshold == 8.0:
        assert max(np.diff(sorted(kept))) > 4
    assert error_share(odometry, frames) < 0.005


def test_gaps_in_time_are_bridged(frames) -> None:
    gaps = (*range(15, 20), 30, 31, 41)
    left = [frame for i, frame in enumerate(frames) if i not in gaps]
    odometry = oracle()
    for frame in left:
        odometry.update(frame)
    assert error_share(odometry, left) < 0.005


def test_increments_chain_to_the_poses(frames) -> None:
    """An increment leads from the previous answer to this one, in the map as it is now known."""
    odometry = oracle()
    estimates = [odometry.update(frame) for frame in frames]
    scale = umeyama(
        np.stack([e.world_T_cam[:3, 3] for e in estimates[10:]]),
        np.stack([f.world_T_cam[:3, 3] for f in frames[10:]]),
        with_scale=True,
    ).scale
    for k in range(20, 60):
        truth = np.linalg.inv(frames[k - 1].world_T_cam) @ frames[k].world_T_cam
        truth[:3, 3] /= scale
        error = pose_error(estimates[k].increment, truth)
        assert np.linalg.norm(error[3:]) < 1e-3
        assert np.linalg.norm(error[:3]) < 0.02 * np.linalg.norm(truth[:3, 3]) + 1e-3 / scale


def test_intrinsics_may_change_from_frame_to_frame() -> None:
    cameras = [Camera(160, 128, 150.0 + 8 * (i % 3), 148.0 + 8 * (i % 3), 70.0 + i % 5, 62.0) for i in range(45)]
    moving = [render(wander(i / 20), i * 50_000_000, camera) for i, camera in enumerate(cameras)]
    odometry = oracle()
    for frame in moving:
        odometry.update(frame)
    assert error_share(odometry, moving) < 0.005


def test_an_off_centre_principal_point_loses_no_patches() -> None:
    """The image's true size bounds reprojections, not twice the principal point."""
    camera = replace(CAMERA, cx=15.0, cy=10.0)
    moving = sequence(30, camera=camera)
    odometry = oracle()
    for frame in moving:
        odometry.update(frame)
    assert error_share(odometry, moving) < 0.005


def test_large_images_are_scaled_down() -> None:
    camera = Camera(322, 250, 300.0, 298.0, 160.0, 125.0)
    moving = sequence(30, camera=camera)
    odometry = oracle(image_pixels=160 * 124)
    for frame in moving:
        odometry.update(frame)
    assert error_share(odometry, moving) < 0.01  # depth is sampled between pixels


def test_same_seed_same_answers(frames) -> None:
    odometry = oracle()
    first = [odometry.update(frame).world_T_cam for frame in frames[:15]]
    odometry.reset()
    second = [odometry.update(frame).world_T_cam for frame in frames[:15]]
    np.testing.assert_array_equal(first, second)


def test_stored_covariance_factors_scale_increments(frames) -> None:
    noisy = [OracleOperator(CONFIG.patches_per_frame, sigma=0.05, seed=3) for _ in range(2)]
    noisy[1].covariance_factors = CovarianceFactors(2.0, 3.0)
    plain, calibrated = (Odometry(CONFIG, operator) for operator in noisy)
    for frame in frames[:14]:
        before, after = plain.update(frame), calibrated.update(frame)
    ratio = np.diag(after.increment_covariance) / np.diag(before.increment_covariance)
    np.testing.assert_allclose(ratio, [4, 4, 4, 9, 9, 9], rtol=1e-3)  # a floor is not scaled
    np.testing.assert_array_equal(before.increment, after.increment)


def test_standing_still_is_said_and_does_not_drift(frames) -> None:
    """Before the first map and after it, with images that differ."""
    odometry = oracle()
    noise = np.random.default_rng(0)

    def still(frame: Frame, index: int) -> Frame:
        image = np.clip(frame.image + noise.integers(-3, 4, frame.image.shape), 0, 255).astype(np.uint8)
        return replace(frame, image=image, stamp=frame.stamp + index)

    early = [odometry.update(still(frames[0], i)) for i in range(5)]
    assert {e.status for e in early[1:]} == {Status.NO_MOTION}
    for frame in frames[1:20]:
        moving = odometry.update(frame)
    late = [odometry.update(still(frames[19], 1 + i)) for i in range(30)]
    assert {e.status for e in late} == {Status.NO_MOTION}
    for e in late:
        np.testing.assert_array_equal(e.increment, np.eye(4))
        np.testing.assert_allclose(e.world_T_cam, moving.world_T_cam, atol=1e-12)
        assert is_positive_definite(e.increment_covariance)
    assert np.trace(late[-1].covariance) == pytest.approx(np.trace(late[0].covariance))
    assert odometry.update(frames[20]).status == Status.OK


def test_motion_that_the_operator_does_not_see_at_once_is_not_standing_still(frames) -> None:
    class Slow(OracleOperator):
        """Says nothing of an edge at first sight, as a network may whose reach is shorter than the motion."""

        def revise(self, hidden, *arguments):
            revision = super().revise(hidden, *arguments)
            return revision._replace(hidden=hidden + 1, delta=revision.delta * (hidden > 0))

    odometry = Odometry(CONFIG, Slow(CONFIG.patches_per_frame))
    assert odometry.update(frames[0]).status == Status.INITIALIZING
    assert odometry.update(frames[2]).status == Status.INITIALIZING


def test_pure_rotation_is_degenerate_and_its_rotation_is_right(frames) -> None:
    odometry = oracle()
    for frame in frames[:25]:
        odometry.update(frame)
    start = frames[24].world_T_cam
    last, turned = start, []
    for i in range(1, 19):
        now = start @ pose((0, 0, 0), yaw=0.03 * i)
        estimate = odometry.update(render(now, frames[24].stamp + i * 50_000_000))
        turned.append(estimate.status)
        assert np.linalg.norm(pose_error(estimate.increment, np.linalg.inv(last) @ now)[3:]) < 2e-3
        last = now
    assert turned[-1] == Status.DEGENERATE


def test_a_start_with_pure_rotation_waits_for_translation(frames) -> None:
    odometry = oracle()
    for i in range(15):
        estimate = odometry.update(render(pose((0, 0, 0), yaw=0.02 * i), i * 50_000_000))
    assert estimate.status == Status.DEGENERATE and not odometry.initialized
    assert np.linalg.norm(pose_error(estimate.increment, pose((0, 0, 0), yaw=0.02))[3:]) < 1e-3
    for i in range(15):
        T = pose((0.05 * i, 0.02 * i, 0), yaw=0.28)
        estimate = odometry.update(render(T, (15 + i) * 50_000_000))
    assert odometry.initialized and estimate.status == Status.OK


# --- bad input ----------------------------------------------------------------------------------------------------


def blackened(frame: Frame, stamp: int) -> Frame:
    return replace(frame, image=np.zeros_like(frame.image), stamp=stamp)


def test_black_frames_are_bridged_and_covariance_grows(frames) -> None:
    odometry = oracle()
    for frame in frames[:25]:
        ordinary = odometry.update(frame)
    black = [odometry.update(blackened(f, f.stamp)) for f in frames[25:29]]
    assert {e.status for e in black} == {Status.UNRELIABLE} and "contrast" in black[0].reason
    for e in black:
        assert e.has_pose and np.trace(e.covariance) > 10 * np.trace(ordinary.covariance)
    after = [odometry.update(frame) for frame in frames[29:]]
    assert after[0].status == Status.OK
    # the increment leads from the guess of the last black frame to the truth, so it is as uncertain as the guess
    assert np.trace(after[0].increment_covariance) > np.trace(ordinary.increment_covariance)
    assert np.trace(after[1].covariance) < 10 * np.trace(ordinary.covariance)
    assert error_share(odometry, frames) < 0.03  # the black frames' own poses are guesses


def test_a_covered_lens_ends_in_failure_and_a_new_start(frames) -> None:
    odometry = oracle(lost_after=5)
    for frame in frames[:20]:
        last = odometry.update(frame)
    black = [odometry.update(blackened(frame, frame.stamp)) for frame in frames[20:25]]
    assert [e.status for e in black] == [Status.UNRELIABLE] * 4 + [Status.FAILED]
    assert not black[-1].has_pose and "starts again" in black[-1].reason
    again = [odometry.update(frame) for frame in frames[25:45]]
    assert again[0].status == Status.INITIALIZING and again[-1].status == Status.OK
    assert np.linalg.norm(again[0].world_T_cam[:3, 3] - last.world_T_cam[:3, 3]) < 1.0
    assert len(odometry.terminate()) == 44  # all but the frame that failed


def test_a_black_start_is_answered() -> None:
    odometry = oracle()
    frame = render(wander(0), 0)
    estimates = [odometry.update(blackened(frame, i)) for i in range(12)]
    assert {e.status for e in estimates} == {Status.INITIALIZING}
    assert all(e.has_pose and is_positive_definite(e.covariance) for e in estimates)


def test_frozen_frames_are_no_motion(frames) -> None:
    odometry = oracle()
    for frame in frames[:12]:
        odometry.update(frame)
    frozen = odometry.update(replace(frames[11], stamp=frames[11].stamp + 1))
    assert frozen.status == Status.NO_MOTION and "identical" in frozen.reason


@pytest.mark.parametrize("back", [0, 100_000_000])
def test_duplicate_and_late_stamps_are_ignored(frames, back: int) -> None:
    odometry, undisturbed = oracle(), oracle()
    for frame in frames[:12]:
        odometry.update(frame)
        undisturbed.update(frame)
    refused = odometry.update(replace(frames[11], stamp=frames[11].stamp - back))
    assert refused.status == Status.REFUSED and not refused.has_pose and "ignored" in refused.reason
    np.testing.assert_array_equal(odometry.update(frames[12]).world_T_cam, undisturbed.update(frames[12]).world_T_cam)


def test_a_clock_that_jumps_back_restarts_tracking(frames) -> None:
    odometry = oracle()
    for frame in frames[:30]:
        before = odometry.update(frame)
    after = odometry.update(frames[0])
    assert after.status == Status.INITIALIZING and "time went back" in after.reason
    np.testing.assert_allclose(after.world_T_cam, before.world_T_cam)
    for frame in frames[1:15]:
        after = odometry.update(frame)
    assert after.status == Status.OK


def test_another_image_size_restarts_tracking(frames) -> None:
    network = PatchNetwork(PatchNetworkConfig(hidden=8, features=8, width=4))
    odometry = Odometry(CONFIG, network)
    for frame in frames[:10]:
        odometry.update(frame)
    small = Camera(128, 96, 120.0, 120.0, 64.0, 48.0)
    after = odometry.update(render(wander(0.5), frames[10].stamp, small))
    assert after.status == Status.INITIALIZING and "160x128 to 128x96" in after.reason
    for i in range(1, 12):
        assert odometry.update(render(wander(0.5 + i / 20), frames[10].stamp + i, small)).has_pose


def test_noise_images_do_not_break_an_untrained_network(frames) -> None:
    odometry = Odometry(CONFIG, PatchNetwork(PatchNetworkConfig(hidden=8, features=8, width=4)))
    g = np.random.default_rng(0)
    for i in range(14):
        image = g.integers(0, 256, (128, 160, 3), dtype=np.uint8)
        estimate = odometry.update(Frame(image, CAMERA, i))
        assert estimate.has_pose and np.isfinite(estimate.world_T_cam).all()
        assert is_positive_definite(estimate.covariance)


def test_noise_between_the_frames_is_not_tracked_but_bridged(frames) -> None:
    """With the package's weights: they give patches in noise next to no weight."""
    odometry = Odometry(CONFIG, PatchNetwork.from_checkpoint(default_weights()))
    g = np.random.default_rng(1)
    for frame in frames[:24:2]:
        before = odometry.update(frame)
    assert before.status == Status.OK
    for number in (1, 2):
        noise = g.integers(0, 256, frames[0].image.shape, dtype=np.uint8)
        estimate = odometry.update(replace(frames[22], image=noise, stamp=frames[22].stamp + number * 10_000_000))
        assert estimate.status == Status.UNRELIABLE and "found again" in estimate.reason
        assert np.trace(estimate.covariance) > np.trace(before.covariance)
    assert odometry.update(frames[24]).status == Status.OK


def test_an_operator_that_returns_nan_is_survived(frames) -> None:
    class Broken(OracleOperator):
        def revise(self, *arguments):
            revision = super().revise(*arguments)
            return revision._replace(delta=torch.full_like(revision.delta, torch.nan))

    odometry = Odometry(replace(CONFIG, lost_after=3), Broken(20))
    statuses = [odometry.update(frame) for frame in frames[:14]]
    assert all(e.status in (Status.INITIALIZING, Status.DEGENERATE, Status.UNRELIABLE) for e in statuses)
    assert all(np.isfinite(e.world_T_cam).all() for e in statuses)


def test_tiny_images_are_refused() -> None:
    camera = Camera(48, 40, 40.0, 40.0, 24.0, 20.0)
    with pytest.raises(ImageEncodingError, match="48x40"):
        oracle().update(render(wander(0), 0, camera))


def test_the_oracle_needs_ground_truth(frames) -> None:
    with pytest.raises(DatasetError, match="no ground truth"):
        oracle().update(replace(frames[0], depth=None))


def test_presets() -> None:
    assert OdometryConfig.preset("default").patches_per_frame == 96
    assert OdometryConfig.preset("fast", seed=3).seed == 3
    with pytest.raises(ConfigurationError, match="default, fast, cpu"):
        OdometryConfig.preset("slow")
    with pytest.raises(ConfigurationError, match="at most removal_window"):
        OdometryConfig(optimization_window=30)


def test_memory_is_bounded() -> None:
    odometry = oracle(keep_trajectory=False, keyframe_threshold=0.0)
    for i in range(50):
        odometry.update(render(wander(i / 20), i * 50_000_000))
    assert len(odometry.graph) <= CONFIG.removal_window + CONFIG.patch_lifetime
    assert len(odometry._operator._frames) == len(odometry.graph)
    assert odometry.trajectory() == []


def test_frames_skipped_before_the_first_map_are_placed_by_their_flow(frames) -> None:
    """A slow start: what counted as standing still when it was answered lies on the way to the next keyframe."""
    odometry = oracle(motion_threshold=1.0)
    slow = [render(wander(i / 60), 1000 + i * 16_666_667) for i in range(60)]
    estimates = [odometry.update(frame) for frame in slow]
    assert [e.status for e in estimates[:20]].count(Status.NO_MOTION) >= 5
    assert error_share(odometry, slow) < 0.005
