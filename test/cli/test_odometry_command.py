"""``robust-loc odometry`` from recording to files, with an estimator that reads the truth off its first frames."""

import json
from collections import namedtuple

import numpy as np
import pytest
from click.testing import CliRunner

import robust_loc.cli.odometry as odometry_command
from robust_loc.config import Config
from robust_loc.data import BagWriter, read_tum
from robust_loc.errors import ConfigurationError, TrajectoryError, WeightsError
from robust_loc.evaluation.replay import replay
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import Camera, Estimate, Frame, Status

POINT = namedtuple("POINT", "stamp world_T_cam")
SECOND = 1_000_000_000


class StepEstimator:
    """Moves 0.1 a frame along x, refuses its first ``silent`` frames, remembers what it was shown."""

    def __init__(self, silent: int = 2) -> None:
        self.config = Config()
        self.silent, self.seen = silent, []

    def update(self, frame, prior=None):
        self.seen.append(frame)
        count = len(self.seen)
        if count <= self.silent:
            return None
        pose = np.eye(4)
        pose[0, 3] = 0.1 * count
        return Estimate(frame.stamp, Status.OK, "", pose, 0.01 * np.eye(6))

    def reset(self):
        self.seen = []

    def terminate(self):
        return [POINT(frame.stamp, np.eye(4)) for frame in self.seen if self.silent < len(self.seen)]


@pytest.fixture
def bag(tmp_path):
    camera = Camera(16, 12, 16.0, 16.0, 7.5, 5.5)
    with BagWriter(tmp_path / "run.mcap", CameraCalibration(16, 12, 16.0, 16.0, 7.5, 5.5)) as writer:
        for index in range(8):
            image = np.full((12, 16, 3), 10 * index, np.uint8)
            writer.write_frame(Frame(image, camera, (5 + index) * SECOND, world_T_cam=np.eye(4)))
    return tmp_path / "run.mcap"


def test_every_frame_is_answered_and_the_truth_is_hidden_from_the_estimator(bag):
    from robust_loc.data import open_bag

    estimator = StepEstimator()
    estimates = list(replay(open_bag(bag), estimator))
    assert [estimate.stamp for estimate in estimates] == [(5 + index) * SECOND for index in range(8)]
    assert [estimate.status for estimate in estimates[:3]] == [Status.REFUSED, Status.REFUSED, Status.OK]
    assert all(frame.world_T_cam is None for frame in estimator.seen)
    assert all(estimate.latency > 0 for estimate in estimates)


def test_the_command_writes_trajectory_covariances_and_what_made_them(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(odometry_command, "_odometry", lambda *_: StepEstimator())
    output, answers = tmp_path / "est.tum", tmp_path / "answers.tum"
    arguments = [str(bag), "-o", str(output), "--answers", str(answers), "--from-frame", "1", "--seed", "4", "--json"]
    result = CliRunner().invoke(odometry_command.command, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["frames"] == summary["poses"] == 7 and summary["status"] == {"refused": 2, "ok": 5}
    trajectory, live = read_tum(output), read_tum(answers)
    np.testing.assert_array_equal(trajectory.stamps, [stamp * SECOND for stamp in range(6, 13)])
    np.testing.assert_array_equal(trajectory.positions, np.zeros((7, 3)))  # the refined poses
    assert np.isnan(trajectory.covariances[:2]).all()  # frames without an answer
    np.testing.assert_allclose(trajectory.covariances[2:], live.covariances)
    np.testing.assert_allclose(live.positions[:, 0], [0.3, 0.4, 0.5, 0.6, 0.7])
    np.testing.assert_allclose(live.covariances, np.tile(0.01 * np.eye(6), (5, 1, 1)))
    run = json.loads((tmp_path / "est.tum.run.json").read_text())
    assert run["seed"] == 4 and run["recording"] == str(bag) and run["configuration"] == {"odometry": {}}


def test_a_recording_that_cannot_be_tracked_writes_nothing(bag, tmp_path, monkeypatch):
    monkeypatch.setattr(odometry_command, "_odometry", lambda *_: StepEstimator(silent=99))
    with pytest.raises(TrajectoryError, match="none of 8 frames"):
        CliRunner().invoke(
            odometry_command.command, [str(bag), "-o", str(tmp_path / "est.tum")], catch_exceptions=False
        )
    assert not (tmp_path / "est.tum").exists()


def test_bad_weights_and_contradicting_options_are_refused(bag, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    (tmp_path / "c.yaml").write_text("odometry: {ros__parameters: {}}\n")
    common = [str(bag), "-o", str(tmp_path / "est.tum"), "--preset", "cpu"]
    for extra, error in (
        (["--weights", str(tmp_path / "w.safetensors")], WeightsError),
        (["--config", str(tmp_path / "c.yaml")], ConfigurationError),
    ):
        with pytest.raises(error):
            CliRunner().invoke(odometry_command.command, [*common, *extra], catch_exceptions=False)


def test_the_network_runs_on_a_recording_and_the_same_seed_gives_the_same_file(tmp_path):
    import torch

    from robust_loc.odometry import PatchNetwork, PatchNetworkConfig

    rng = np.random.default_rng(0)
    camera = Camera(96, 64, 90.0, 90.0, 47.5, 31.5)
    with BagWriter(tmp_path / "run.mcap", CameraCalibration(96, 64, 90.0, 90.0, 47.5, 31.5)) as writer:
        texture = rng.integers(0, 256, (64, 120, 3), dtype=np.uint8)
        for index in range(10):
            writer.write_frame(Frame(texture[:, 2 * index : 2 * index + 96].copy(), camera, index * SECOND // 10 + 1))
    torch.manual_seed(0)
    PatchNetwork(PatchNetworkConfig.compact()).save(tmp_path / "w.safetensors")
    common = [str(tmp_path / "run.mcap"), "--preset", "cpu", "--weights", str(tmp_path / "w.safetensors"), "--json"]
    for name in ("one.tum", "two.tum"):
        result = CliRunner().invoke(odometry_command.command, [*common, "-o", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["frames"] == 10
    assert (tmp_path / "one.tum").read_bytes() == (tmp_path / "two.tum").read_bytes()
    covariances = read_tum(tmp_path / "one.tum").covariances
    assert np.linalg.eigvalsh(covariances).min() > 0
    run = json.loads((tmp_path / "one.tum.run.json").read_text())
    assert run["configuration"]["odometry"]["patches_per_frame"] == 32


def test_a_package_without_weights_says_so(monkeypatch):
    import robust_loc
    from robust_loc.odometry.weights import default_weights

    monkeypatch.setattr(robust_loc, "__path__", ["/nowhere"])
    with pytest.raises(WeightsError, match="odometry.safetensors"):
        default_weights()
