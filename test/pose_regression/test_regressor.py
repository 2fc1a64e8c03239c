"""The estimator: conventions of its answer, refusals, weights on disk."""

import numpy as np
import pytest
import torch

from robust_loc.errors import WeightsError
from robust_loc.pose_regression import (
    PoseNetwork,
    PoseNetworkConfig,
    PoseRegressor,
    PoseRegressorConfig,
    load_network,
    reprojection_loss,
    save_network,
)
from robust_loc.pose_regression.reprojection import soft_clamp
from robust_loc.pose_regression.scene_gate import SceneGate, agreement
from robust_loc.types import Camera, Frame, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors, from_body_tangent

CAMERA = Camera(96, 80, 90.0, 90.0, 47.5, 39.5)


def frame(seed=0, stamp=7):
    image = np.random.default_rng(seed).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    return Frame(image, CAMERA, stamp)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return PoseNetwork(PoseNetworkConfig(image_height=64, head_channels=16, width=16, blocks=2, heads=2)).eval()


def test_estimate_is_a_proper_pose_with_a_covariance_in_the_world_frame(network):
    regressor = PoseRegressor(network=network)
    estimate = regressor.update(frame())
    assert estimate.status is Status.OK and estimate.stamp == 7 and estimate.latency > 0
    R = estimate.world_T_cam[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.eigvalsh(estimate.covariance).min() > 0
    answer = regressor._answer(frame())
    np.testing.assert_allclose(estimate.covariance, from_body_tangent(answer.body_covariance, answer.world_T_cam))


def test_prior_and_reset_change_nothing(network):
    regressor = PoseRegressor(network=network)
    first = regressor.update(frame())
    regressor.reset()
    np.testing.assert_array_equal(regressor.update(frame(), prior=first).world_T_cam, first.world_T_cam)


def test_scene_centre_moves_the_answer_with_the_scene(network):
    before = PoseRegressor(network=network).update(frame()).world_T_cam
    network.scene.mean += torch.tensor([10.0, -20.0, 30.0]).reshape(1, 3, 1, 1)
    after = PoseRegressor(network=network).update(frame()).world_T_cam
    np.testing.assert_allclose(after[:3, 3] - before[:3, 3], [10.0, -20.0, 30.0], atol=1e-4)
    np.testing.assert_allclose(after[:3, :3], before[:3, :3], atol=1e-5)


def test_blank_image_fails_and_says_so(network):
    blank = Frame(np.full((80, 96, 3), 12, np.uint8), CAMERA, 1)
    estimate = PoseRegressor(network=network).update(blank)
    assert estimate.status is Status.FAILED and "blank" in estimate.reason and not estimate.has_pose


def test_answer_that_is_not_finite_is_refused(network):
    with torch.no_grad():
        network.uncertainty.layers[-1].bias[0] = torch.nan
    estimate = PoseRegressor(network=network).update(frame())
    assert estimate.status is Status.REFUSED and "not finite" in estimate.reason


def test_image_unlike_the_training_scene_is_refused_unless_the_gate_is_off(network):
    network.gate.remember(torch.randn(40, 2 * network.encoder.channels, generator=torch.Generator().manual_seed(0)))
    network.gate.minimum_similarity.fill_(0.9)
    estimate = PoseRegressor(network=network).update(frame())
    assert estimate.status is Status.REFUSED and "similarity" in estimate.reason and estimate.in_map_score < 0.9
    assert PoseRegressor(PoseRegressorConfig(gate=False), network).update(frame()).has_pose


def test_gate_knows_what_it_remembers():
    gate = SceneGate(8)
    descriptors = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    assert gate.similarity(descriptors[:2]).tolist() == [1.0, 1.0]  # an empty gate accepts everything
    gate.remember(descriptors)
    assert gate.similarity(descriptors[[0, -1]]).min() > 0.999
    assert gate.similarity(torch.randn(5, 16, generator=torch.Generator().manual_seed(1))).max() < 0.95


def test_agreement_counts_the_points_on_their_rays():
    pixels = torch.tensor([[[0.0, 50.0, 90.0]], [[0.0, 40.0, 10.0]]])
    intrinsics = torch.tensor([[90.0, 90.0, 47.5, 39.5]])
    rays = torch.cat([(pixels - intrinsics[0, 2:, None, None]) / 90.0, torch.ones(1, 1, 3)])
    points = 3.0 * rays[None]
    assert agreement(points, torch.eye(4)[None], intrinsics, pixels).item() == 1.0
    points[0, :, 0, 1] = -points[0, :, 0, 1]  # behind the camera
    assert agreement(points, torch.eye(4)[None], intrinsics, pixels).item() == pytest.approx(2 / 3)


def test_reprojection_loss_is_zero_at_the_truth_and_treats_points_behind_the_camera_apart():
    intrinsics = torch.tensor([[90.0, 90.0, 47.5, 39.5]]).expand(3, 4)
    pixels = torch.tensor([[0.0, 0.0], [50.0, 40.0], [90.0, 10.0]])
    rays = torch.cat([(pixels - intrinsics[:, 2:]) / 90.0, torch.ones(3, 1)], -1)
    identity = torch.eye(4).expand(3, 4, 4)
    perfect = reprojection_loss(4 * rays, identity, intrinsics, pixels, 0.0)
    assert perfect.loss.item() == pytest.approx(0.0, abs=1e-4) and perfect.valid == 1
    shifted = reprojection_loss(4 * rays, identity, intrinsics, pixels + 1.0, 1.0)
    assert shifted.loss.item() == pytest.approx(np.tanh(2.0), rel=1e-3)  # tau is 1 at the end
    behind = reprojection_loss(-4 * rays, identity, intrinsics, pixels, 0.0)
    assert behind.valid == 0 and behind.loss.item() == pytest.approx((14 * rays.abs().sum(-1)).mean().item(), rel=1e-5)


def test_soft_clamp_goes_from_51_pixels_to_1_along_a_circle():
    assert [soft_clamp(p) for p in (0.0, 0.6, 1.0)] == pytest.approx([51.0, 41.0, 1.0])


def test_weights_come_back_with_their_configuration_and_calibration(network, tmp_path):
    path = tmp_path / "scene.safetensors"
    save_network(network, path, {"frames": 3})
    CovarianceCalibration({"regressor": CovarianceFactors(2.0, 3.0, 10)}).save(
        tmp_path / "scene.covariance_calibration.json"
    )
    loaded = PoseRegressor(PoseRegressorConfig(weights=path))
    plain = PoseRegressor(network=network).update(frame())
    estimate = loaded.update(frame())
    np.testing.assert_allclose(estimate.world_T_cam, plain.world_T_cam, atol=1e-6)
    np.testing.assert_allclose(estimate.covariance[:3, :3], 4 * plain.covariance[:3, :3], rtol=1e-5)
    np.testing.assert_allclose(estimate.covariance[3:, 3:], 9 * plain.covariance[3:, 3:], rtol=1e-5)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "other", "nan"])
def test_unusable_weights_are_refused_with_their_name(network, tmp_path, damage):
    path = tmp_path / "scene.safetensors"
    if damage == "nan":
        network.transformer.head.fc_t.weight.data[0, 0] = torch.nan
    save_network(network, path)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"scene\.safetensors"):
        load_network(path)
