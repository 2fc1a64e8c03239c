"""The network's parts: shapes, published layouts, encodings, tangent and information."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from robust_loc.errors import WeightsError
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.network import normalised, save_compact
from robust_loc.pose_regression import (
    PoseNetwork,
    PoseNetworkConfig,
    PoseTransformer,
    body_error,
    coarse_to_fine_loss,
    covariance_of_factor,
    information_factor,
    load_published,
)
from robust_loc.pose_regression.encoders import CompactEncoder, PublishedEncoder
from robust_loc.pose_regression.encoding import point_encoding, ray_encoding
from robust_loc.pose_regression.scene_coordinates import SceneCoordinateHead, dehomogenize
from robust_loc.pose_regression.tangent import ROTATION_SIGMA, TRANSLATION_SIGMA, numbers_for_sigma
from robust_loc.pose_regression.transformer import linear_attention, rotation_from_6d


def random_poses(count, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=dtype).repeat(count, 1, 1)
    poses[:, :3, :3] = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()).to(dtype)
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=dtype)
    return poses


def test_published_transformer_has_the_published_number_of_parameters():
    count = sum(parameter.numel() for parameter in PoseTransformer().parameters())
    assert count == pytest.approx(8.22e6, rel=2e-3)


def test_published_encoder_has_stride_8_and_rounds_up():
    with torch.no_grad():
        assert PublishedEncoder()(torch.zeros(1, 3, 52, 68)).shape == (1, 512, 7, 9)


@pytest.mark.parametrize("encoder", ["handmade", "compact"])
def test_network_answers_every_image_size(encoder):
    network = PoseNetwork(PoseNetworkConfig(encoder=encoder)).eval()
    intrinsics = torch.tensor([[280.0, 280.0, 160.0, 120.0]])
    for height, width in ((240, 320), (240, 427), (100, 130)):
        with torch.no_grad():
            prediction = network(torch.zeros(1, 3, height, width), intrinsics)
        assert len(prediction.poses) == 2
        assert prediction.world_T_cam.shape == (1, 4, 4)
        assert prediction.factor.shape == (1, 6, 6)
    assert sum(parameter.numel() for parameter in network.parameters()) < 2e6


def test_published_files_load_by_name_also_in_half_precision(tmp_path):
    network = PoseNetwork(PoseNetworkConfig.published())
    other = SceneCoordinateHead(512, 512)
    other.mean.fill_(3.0)
    expected = {"res3_conv1.weight", "0c0.weight", "0c2.bias", "fc3.weight", "mean", "max_scale", "min_scale"}
    expected |= {"max_inv_scale", "h_beta", "min_inv_scale"}
    assert expected <= set(other.state_dict())
    torch.save({name: value.half() for name, value in other.state_dict().items()}, tmp_path / "head.pt")
    load_published(network, head=tmp_path / "head.pt")
    assert network.scene.mean.mean() == 3.0
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "wrong.pt")
    with pytest.raises(WeightsError, match=r"wrong\.pt"):
        load_published(network, encoder=tmp_path / "wrong.pt")


def test_relocalizers_compact_weights_serve_as_encoder(tmp_path):
    torch.manual_seed(0)
    shared, narrow = CompactNetwork(), CompactNetwork(coarse_channels=64)
    save_compact(tmp_path / "features.safetensors", shared)
    save_compact(tmp_path / "narrow.safetensors", narrow)
    encoder = CompactEncoder()
    encoder.load_features(tmp_path / "features.safetensors")
    image = 255 * torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = shared.eval().trunk(normalised(image))[2]
        torch.testing.assert_close(encoder.eval()(image), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(WeightsError, match="64 coarse channels"):
        encoder.load_features(tmp_path / "narrow.safetensors")


def test_homogeneous_output_of_zero_has_unit_scale_and_is_bounded():
    values = torch.tensor([[2.0, 2.0], [0.0, 0.0], [-1.0, -1.0], [0.0, -1e9]])[None]
    points = dehomogenize(values)
    torch.testing.assert_close(points[0, :, 0], torch.tensor([2.0, 0.0, -1.0]))
    torch.testing.assert_close(points[0, :, 1], torch.tensor([8.0, 0.0, -4.0]))  # h is at least 1/4
    assert dehomogenize(torch.tensor([[1.0, 1.0, 1.0, 1e9]])[..., None])[0, 0].item() == pytest.approx(0.01)


def test_point_encoding_has_33_channels_and_clips_at_50_metres():
    encoded = point_encoding(torch.tensor([25.0, 80.0, -80.0]).reshape(1, 3, 1, 1))[0, :, 0, 0]
    assert len(encoded) == 33
    torch.testing.assert_close(encoded[:3], torch.tensor([math.pi / 2, math.pi, -math.pi]))
    torch.testing.assert_close(encoded[3], torch.tensor(1.0))


def test_ray_encoding_depends_on_the_ray_and_not_on_the_image_size():
    """Cells of two zooms of the same camera that look along the same ray get the same code."""
    small = ray_encoding(torch.tensor([[100.0, 100.0, 40.0, 24.0]]), 7, 11, 8, 16)
    large = ray_encoding(torch.tensor([[200.0, 200.0, 80.0, 48.0]]), 7, 11, 16, 16)
    torch.testing.assert_close(small, large)
    assert small.shape == (1, 16, 7, 11)
    centre = small[0, :, 3, 5]  # the principal ray: x = y = 0
    torch.testing.assert_close(centre, torch.tensor([0.0, 1.0, 0.0, 1.0] * 4))


def test_linear_attention_is_the_normalised_average_of_its_kernel():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(3))
    kernel = torch.einsum("blhc,bmhc->bhlm", torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1)
    expected = torch.einsum("bhlm,bmhc->blhc", kernel / kernel.sum(-1, keepdim=True), v)
    torch.testing.assert_close(linear_attention(q, k, v), expected, rtol=1e-4, atol=1e-5)


def test_masked_tokens_do_not_change_the_others():
    transformer = PoseTransformer(16, 1, 2, 1).eval()
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 4:] += 7.0
    mask = torch.tensor([[True] * 4 + [False] * 2])
    with torch.no_grad():
        a, b = transformer.layers[0](x, mask), transformer.layers[0](other, mask)
    torch.testing.assert_close(a[:, :4], b[:, :4])


def test_six_numbers_make_a_rotation_with_basis_rows():
    rotation = rotation_from_6d(torch.tensor([[0.0, 2.0, 0.0, 1.0, 5.0, 0.0]]))[0]
    torch.testing.assert_close(rotation, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))


def test_coarse_to_fine_loss_sums_metres_and_radians_of_all_stages():
    truth = random_poses(4)
    moved = truth.clone()
    moved[:, :3, 3] += torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64)
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, 0.2, 0.0]).as_matrix())
    moved[:, :3, :3] = moved[:, :3, :3] @ turn
    loss = coarse_to_fine_loss([moved, moved], truth)
    torch.testing.assert_close(loss, torch.full((4,), 2 * (0.1 + 0.2), dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_body_error_does_not_depend_on_the_world_frame():
    predicted, true, world = random_poses(20), random_poses(20, seed=1), random_poses(1, seed=2)
    error = body_error(predicted, true)
    torch.testing.assert_close(body_error(world @ predicted, world @ true), error)
    rebuilt = Rotation.from_matrix(predicted[:, :3, :3]) * Rotation.from_rotvec(error[:, 3:])
    torch.testing.assert_close(torch.from_numpy(rebuilt.as_matrix()), true[:, :3, :3])
    position = predicted[:, :3, 3] + (predicted[:, :3, :3] @ error[:, :3, None])[..., 0]
    torch.testing.assert_close(position, true[:, :3, 3])


def test_body_error_has_finite_gradients_at_zero_and_at_half_a_turn():
    true = random_poses(3)
    predicted = true.clone()
    predicted[1, :3, :3] = predicted[1, :3, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    predicted.requires_grad_()
    (gradient,) = torch.autograd.grad(body_error(predicted, true).square().sum(), predicted)
    assert gradient.isfinite().all()


def test_information_factor_starts_diagonal_at_the_asked_sigmas():
    numbers = torch.zeros(21)
    numbers[:6] = numbers_for_sigma(translation=0.3, rotation=0.15)
    covariance = covariance_of_factor(information_factor(numbers))
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([0.09] * 3 + [0.0225] * 3)))


def test_information_factor_is_bounded_and_valid_for_any_numbers():
    generator = torch.Generator().manual_seed(0)
    factor = information_factor(50 * torch.randn(200, 21, generator=generator, dtype=torch.float64))
    diagonal = 1 / torch.diagonal(factor, dim1=-2, dim2=-1)
    assert (diagonal[:, :3] >= TRANSLATION_SIGMA[0] * 0.999).all() and (diagonal[:, :3] <= 10.01).all()
    assert (diagonal[:, 3:] >= ROTATION_SIGMA[0] * 0.999).all() and (diagonal[:, 3:] <= ROTATION_SIGMA[1] * 1.001).all()
    assert (factor.triu(1) == 0).all()
    covariance = covariance_of_factor(factor)
    torch.testing.assert_close(
        covariance @ factor @ factor.mT, torch.eye(6).double().expand(200, 6, 6), atol=1e-6, rtol=0
    )
