"""Refinement of a pose on scene coordinates."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, body_error
from robust_loc.pose_regression.refinement import refine_pose

INTRINSICS = torch.tensor([[280.0, 280.0, 160.0, 120.0]], dtype=torch.float64)


def scene(count, noise_pixels=0.0, outliers=0.0, seed=0):
    """World points seen at the cells of a 20x15 grid, and the true poses."""
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.meshgrid(torch.arange(15), torch.arange(20), indexing="ij")
    pixels = 16.0 * torch.stack([u, v], -1).reshape(-1, 2).double()
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    pose[:, :3, :3] = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())
    pose[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    depth = 1.0 + 3.0 * torch.rand(count, 300, 1, generator=generator, dtype=torch.float64)
    seen = pixels + noise_pixels * torch.randn(count, 300, 2, generator=generator, dtype=torch.float64)
    rays = torch.cat([(seen - INTRINSICS[0, 2:]) / 280.0, torch.ones(count, 300, 1)], -1)
    camera = depth * rays
    wrong = torch.rand(count, 300, 1, generator=generator) < outliers
    camera = torch.where(wrong, camera + torch.randn(count, 300, 3, generator=generator), camera)
    points = camera @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    return points, pixels, pose


def displaced(pose, metres, degrees, seed=1):
    turn = Rotation.from_rotvec(
        math.radians(degrees) * torch.nn.functional.normalize(torch.randn(len(pose), 3)).double().numpy()
    )
    moved = pose.clone()
    moved[:, :3, :3] = moved[:, :3, :3] @ torch.from_numpy(turn.as_matrix())
    moved[:, :3, 3] += metres * torch.nn.functional.normalize(torch.randn(len(pose), 3)).double()
    return moved


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_exact_points_give_the_exact_pose_from_half_a_metre_away():
    points, pixels, pose = scene(20)
    refined, _ = refine_pose(points, pixels, INTRINSICS.expand(20, 4), displaced(pose, 0.4, 10.0), 20)
    assert body_error(refined, pose).abs().max() < 1e-3


def test_a_third_of_wrong_points_is_ignored():
    points, pixels, pose = scene(20, noise_pixels=1.0, outliers=0.33)
    refined, _ = refine_pose(points, pixels, INTRINSICS.expand(20, 4), displaced(pose, 0.3, 8.0), 20)
    error = body_error(refined, pose)
    assert error[:, :3].norm(dim=-1).median() < 0.01 and error[:, 3:].norm(dim=-1).median() < math.radians(0.3)


@pytest.mark.parametrize("noise", [0.7, 1.4])
def test_covariance_follows_the_noise_of_the_points(noise):
    """The error is measured in units of its covariance: chi-square with six degrees of freedom on average."""
    points, pixels, pose = scene(300, noise_pixels=noise)
    start = displaced(pose, 0.1, 3.0)
    refined, covariance = refine_pose(points, pixels, INTRINSICS.expand(300, 4), start, 12)
    # without the floor, which dominates at this accuracy
    covariance = covariance - 1e-6 * torch.eye(6)
    error = body_error(refined, pose)
    normalised = torch.einsum("bi,bij,bj->b", error, torch.linalg.inv(covariance), error).mean() / 6
    assert 0.7 < normalised < 1.5


def test_no_visible_point_leaves_a_finite_answer():
    points, pixels, pose = scene(2)
    behind = pose.clone()
    behind[:, :3, 3] += (pose[:, :3, :3] @ torch.tensor([0.0, 0.0, 50.0], dtype=torch.float64)[:, None])[..., 0]
    refined, covariance = refine_pose(points, pixels, INTRINSICS.expand(2, 4), behind, 5)
    assert refined.isfinite().all() and covariance.isfinite().all()


def test_network_keeps_its_own_pose_unless_refinement_makes_more_points_agree():
    config = PoseNetworkConfig(encoder="compact", head_channels=16, width=16, blocks=2, heads=2)
    network = PoseNetwork(config).eval()
    points = torch.randn(3, 3, 15, 20)  # no pose explains them
    intrinsics = INTRINSICS.float().expand(3, 4)
    location = network.locate(points, intrinsics)
    plain = PoseNetwork(PoseNetworkConfig.from_mapping({**config.to_dict(), "refinement": 0})).eval()
    plain.load_state_dict(network.state_dict())
    unrefined = plain.locate(points, intrinsics)
    assert (location.agreement >= unrefined.agreement).all()
    assert torch.linalg.eigvalsh(location.body_covariance.double()).min() > 0
    torch.testing.assert_close(unrefined.world_T_cam, network.pose_of_points(points, intrinsics).world_T_cam)
