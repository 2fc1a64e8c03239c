"""The whole system on a rendered room: from a recording and a map to a fused trajectory that can be judged."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.data import BagWriter
from robust_loc.data.results import read_source, sources_in, trajectory_of
from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import BagTopicError, ConfigurationError
from robust_loc.evaluation import evaluate
from robust_loc.evaluation.pipeline import localize
from robust_loc.fusion import FusionConfig, LocalizationFilter, State
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.odometry import Odometry, OdometryConfig, OracleOperator
from robust_loc.relocalization import Relocalizer


@pytest.fixture(scope="module")
def files(room, room_map, tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    camera = room[0].camera
    calibration = CameraCalibration(camera.width, camera.height, *camera.intrinsics)
    with BagWriter(folder / "room.mcap", calibration) as writer:
        for frame in room:
            writer.write_frame(frame)
    room_map.save(folder / "map")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_recording_and_map_become_a_results_folder_that_can_be_judged(files):
    bag, out = files / "room.mcap", files / "out"
    result = invoke(
        "localize", bag, "--map", files / "map", "--no-odometry", "--every", "relocalizer", 2, "-o", out, "--json",
        "--from-frame", 4, "--until-frame", 28,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["frames"] == 24 and told["states"]["LOCALIZED"] >= 6
    assert sources_in(out) == ["fusion", "relocalizer"]
    assert len(read_source(out, "relocalizer").stamps) == 12
    run = json.loads((out / "run.json").read_text())["configuration"]
    assert run["relocalizer"]["map"] == str(files / "map") and run["fusion"]["confirmations"] == 3

    result = invoke("evaluate", out, "--bag", bag, "--from-frame", 4, "--until-frame", 28, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["state"]["localized_while_wrong"] == 0.0
    assert summary["ate"]["none"]["median"] < 0.05
    assert (out / "report.html").exists()


def test_wheels_and_extrinsics_are_taken_from_the_recording_or_the_command_line(files):
    bag, out = files / "room.mcap", files / "wheels"
    common = ["localize", bag, "--map", files / "map", "--no-odometry", "--until-frame", 16, "-o", out]
    result = invoke(*common, "--odom-topic", "/ground_truth/pose", "--every", "relocalizer", 3, "--json")
    assert result.exit_code == 0, result.output
    run = json.loads((out / "run.json").read_text())["configuration"]
    assert run["odom_topic"] == "/ground_truth/pose"
    np.testing.assert_allclose(run["base_T_cam"], np.eye(4), atol=1e-12)
    assert json.loads(result.output)["states"]["LOCALIZED"] >= 4  # between its rare fixes too
    result = invoke(*common, "--odom-topic", "/wheels")
    assert isinstance(result.exception, BagTopicError) and "/wheels" in str(result.exception)
    result = invoke(*common, "--base-from-camera", *[0.0] * 7)
    assert isinstance(result.exception, ConfigurationError) and "--base-from-camera" in str(result.exception)


class OracleOdometry:
    """The tracker with a network that knows the truth, up to a few tenths of a pixel."""

    def __init__(self, room):
        self.truth = {frame.stamp: frame for frame in room}
        config = OdometryConfig.preset("cpu", device="cpu", motion_threshold=0.5)
        self.tracker = Odometry(config, OracleOperator(config.patches_per_frame, sigma=0.05, seed=3))

    def update(self, frame, prior=None):
        assert frame.world_T_cam is None
        return self.tracker.update(self.truth[frame.stamp])

    def reset(self):
        self.tracker.reset()


def test_odometry_without_scale_and_rare_fixes_give_a_metric_pose_every_frame(room, room_map):
    answers = list(
        localize(
            room,
            LocalizationFilter(FusionConfig(fix_correlation_time=0.0)),
            odometry=OracleOdometry(room),
            absolute={"relocalizer": Relocalizer(room_map)},
            every={"relocalizer": 4},
        )
    )
    states = [answer.localization.state for answer in answers]
    settled = states.index(State.LOCALIZED)
    assert settled <= 28 and states[-1] is State.LOCALIZED
    truth = Trajectory(np.array([f.stamp for f in room]), np.array([f.world_T_cam for f in room]))
    fused = trajectory_of([answer.fusion for answer in answers[settled:]])
    timeline = (np.array([a.stamp for a in answers]), [state.name for state in states])
    summary = evaluate(fused, truth, states=timeline).summary
    assert summary["state"]["localized_while_wrong"] <= 0.05
    assert summary["ate"]["none"]["rmse"] < 0.05
    assert answers[-1].localization.scale_sigma < 0.5 * answers[-1].localization.scale


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ([], "nothing to localize with"),
        (["--map", "{map}", "--every", "regressor", "2"], "--every regressor"),
    ],
)
def test_runs_that_cannot_answer_are_refused(files, options, cause):
    named = [option.replace("{map}", str(files / "map")) for option in options]
    result = invoke("localize", files / "room.mcap", "-o", files / "none", "--no-odometry", *named)
    assert isinstance(result.exception, ConfigurationError) and cause in str(result.exception)
    assert not (files / "none").exists()
