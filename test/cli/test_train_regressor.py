"""``robust-loc train regressor``: one small scene from a recording to weights that the estimator loads."""

import json

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from robust_loc.cli import cli
from robust_loc.data import BagWriter, open_bag
from robust_loc.errors import ConfigurationError, WeightsError
from robust_loc.geometry import CameraCalibration
from robust_loc.pose_regression import (
    PoseNetwork,
    PoseNetworkConfig,
    PoseRegressor,
    PoseRegressorConfig,
    load_network,
    save_network,
)
from robust_loc.training.finetune.frames import Role
from robust_loc.training.finetune.replay import load_memory
from robust_loc.uncertainty import CovarianceCalibration

CALIBRATION = CameraCalibration(96, 64, 70.0, 70.0, 47.5, 31.5)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks on a busy machine are much faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """100 labelled frames of smooth pictures, and small initial weights."""
    folder = tmp_path_factory.mktemp("scene")
    random = np.random.default_rng(0)
    with BagWriter(folder / "bag.mcap", CALIBRATION) as writer:
        for k in range(100):
            picture = random.uniform(0, 255, (8, 12, 3)).astype(np.float32)
            image = cv2.resize(picture, (96, 64), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
            stamp = 1_000_000_000 + k * 33_000_000
            writer.write_image(stamp, cv2.imencode(".png", image)[1].tobytes(), "png")
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("y", k, degrees=True).as_matrix()
            pose[:3, 3] = [0.02 * k, 0.0, 0.0]
            writer.write_pose(stamp, pose)
    torch.manual_seed(0)
    config = PoseNetworkConfig(encoder="compact", image_height=64, head_channels=16, width=16, blocks=2, heads=2)
    save_network(PoseNetwork(config), folder / "initial.safetensors")
    return folder


def train(recording, output, *options):
    arguments = ["train", "regressor", str(recording / "bag.mcap"), "-o", str(output), "--json"]
    return CliRunner().invoke(cli, [*arguments, "--scale-steps", "0.002", *options])


def test_trained_weights_answer_frames_of_the_recording(recording, tmp_path):
    output = tmp_path / "scene.safetensors"
    result = train(recording, output, "--initial", str(recording / "initial.safetensors"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["frames"] == 90
    assert set(report["held_out"]) == {"translation", "rotation_deg", "anees", "coverage_90"}
    factors = CovarianceCalibration.load_beside(output).of("regressor")
    assert factors.samples == 10
    assert factors.translation == pytest.approx(report["covariance_factors"]["translation"])
    regressor = PoseRegressor(PoseRegressorConfig(weights=output, gate=False))
    estimate = regressor.update(next(iter(open_bag(recording / "bag.mcap"))))
    assert estimate.has_pose
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "scene.covariance_calibration.json",
        "scene.replay.npz",
        "scene.safetensors",
    ]
    memory = load_memory(output)
    assert len(memory) == 100 and [memory.count(role) for role in Role] == [90, 5, 5]


def test_interrupted_run_goes_on_after_its_last_stage(recording, tmp_path):
    output = tmp_path / "scene.safetensors"
    before = load_network(recording / "initial.safetensors")
    save_network(before, tmp_path / "scene.partial.safetensors", {"stage": "uncertainty", "seed": 0})
    result = train(recording, output, "--resume")
    assert result.exit_code == 0, result.output
    after = load_network(output)
    torch.testing.assert_close(after.scene.fc3.weight, before.scene.fc3.weight)  # the map stage was not repeated
    assert not torch.equal(after.transformer.head.fc_t.weight, before.transformer.head.fc_t.weight)


def test_what_cannot_be_trained_is_refused(recording, tmp_path):
    result = train(recording, tmp_path / "a.safetensors", "--resume")
    assert isinstance(result.exception, WeightsError)
    result = train(recording, tmp_path / "a.safetensors", "--preset", "published")
    assert isinstance(result.exception, ConfigurationError) and "encoder" in str(result.exception)
    short = ("--initial", str(recording / "initial.safetensors"), "--until-frame", "40")
    result = train(recording, tmp_path / "a.safetensors", *short)
    assert isinstance(result.exception, ConfigurationError) and "40 labelled frames" in str(result.exception)
