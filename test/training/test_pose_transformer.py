"""Pre-training of the pose transformer: synthetic scene maps, resuming, weights."""

import json

import pytest
import torch
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.errors import WeightsError
from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, PoseTransformer
from robust_loc.pose_regression.weights import default_transformer, load_transformer, save_transformer
from robust_loc.training.pose_transformer import PretrainingConfig, TransformerTrainer, pretrain
from robust_loc.training.scene_maps import SceneMapConfig, draw_scene_maps, random_rotations

SMALL = SceneMapConfig(height=6, width=8, jitter_rotation=0.3, jitter_translation=0.2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks on a busy machine are much faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_points_lie_on_their_cells_rays_in_front_of_the_camera():
    config = SceneMapConfig(largest_noise=0.005, largest_outliers=0.0)
    maps = draw_scene_maps(config, 20, generator())
    R, t = maps.world_T_cam[:, :3, :3], maps.world_T_cam[:, :3, 3:]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(R) > 0.99).all()
    camera = R.mT @ (maps.points.flatten(2) - t)
    assert (camera[:, 2] > 0).float().mean() > 0.999 and camera[:, 2].max() < 20
    pixels = camera[:, :2] / camera[:, 2:] * maps.intrinsics[:, :2, None] + maps.intrinsics[:, 2:, None]
    v, u = torch.meshgrid(16.0 * torch.arange(15), 16.0 * torch.arange(20), indexing="ij")
    error = (pixels - torch.stack([u, v]).flatten(1)).norm(dim=1)
    assert error.median() < 3  # 5 mm of noise at a few metres


def test_rooms_have_furniture_and_walls_at_many_depths():
    maps = draw_scene_maps(SceneMapConfig(), 30, generator())
    camera = maps.world_T_cam[:, :3, :3].mT @ (maps.points.flatten(2) - maps.world_T_cam[:, :3, 3:])
    depth = camera[:, 2]
    assert (depth.std(-1) > 0.1).all()
    assert 0.5 < depth.median() < 5


def test_errors_are_of_the_configured_size():
    exact = draw_scene_maps(SceneMapConfig(largest_noise=0.005, largest_outliers=0.0), 50, generator()).points
    dirty = draw_scene_maps(SceneMapConfig(largest_noise=0.005, largest_outliers=1.0), 50, generator()).points
    far = (exact - dirty).norm(dim=1) > 0.1
    assert 0.35 < far.float().mean() < 0.6  # half of the cells on average


def test_random_rotations_stay_within_their_angle():
    turns = random_rotations(200, 0.2, generator())
    angle = torch.acos(((torch.diagonal(turns, dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert angle.max() < 0.2 * 3**0.5 * 1.1 and angle.max() > 0.2


def trainer(steps):
    torch.manual_seed(0)
    config = PretrainingConfig(steps=steps, batch=16, checkpoint_every=5)
    return TransformerTrainer(PoseTransformer(16, 2, 2, 1), config, SMALL)


def test_training_reduces_the_error_on_unseen_rooms(tmp_path):
    run = trainer(150)
    before = run.validate()
    pretrain(run, tmp_path)
    after = run.validate()
    assert after["translation"] < 0.8 * before["translation"]


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole = trainer(10)
    losses = [whole.train_step() for _ in range(10)]
    first = trainer(10)
    for _ in range(5):
        first.train_step()
    first.save(tmp_path)
    second = trainer(10)
    second.load(tmp_path)
    assert [second.train_step() for _ in range(5)] == pytest.approx(losses[5:], rel=1e-5)


def test_transformer_weights_fit_networks_of_their_shape_only(tmp_path):
    config = PoseNetworkConfig(encoder="compact", head_channels=16, width=16, blocks=2, heads=2)
    transformer = PoseTransformer(16, 2, 2, 2)
    save_transformer(transformer, config, tmp_path / "t.safetensors")
    network = PoseNetwork(config)
    load_transformer(network, tmp_path / "t.safetensors")
    torch.testing.assert_close(network.transformer.head.fc_t.weight, transformer.head.fc_t.weight)
    with pytest.raises(WeightsError, match="does not fit"):
        load_transformer(PoseNetwork(PoseNetworkConfig(encoder="compact")), tmp_path / "t.safetensors")


def test_the_packages_transformer_fits_the_compact_network_and_knows_rooms_it_has_not_seen():
    network = PoseNetwork()
    maps = SceneMapConfig(height=8, width=10, stride=32)
    random, trained = ({}, {})
    for result in (random, trained):
        if result is trained:
            load_transformer(network, default_transformer())
        result.update(TransformerTrainer(network.transformer, PretrainingConfig(batch=64), maps).validate(1))
    assert trained["rotation_deg"] < 0.4 * random["rotation_deg"]
    assert trained["translation"] < 0.7 * random["translation"]


def test_command_trains_stops_and_resumes(tmp_path):
    arguments = ["train", "pose_transformer", "-o", str(tmp_path), "--steps", "4", "--batch", "2", "--json"]
    stopped = CliRunner().invoke(cli, [*arguments, "--seconds", "0"])
    assert stopped.exit_code == 0 and json.loads(stopped.stdout)["step"] == 0
    finished = CliRunner().invoke(cli, [*arguments, "--resume"])
    report = json.loads(finished.stdout)
    assert report["step"] == 4
    load_transformer(PoseNetwork(), report["weights"])
