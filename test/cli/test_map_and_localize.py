"""``robust-loc map`` and ``localize``: from a recording to a trajectory, and clear errors on bad input."""

import json
from itertools import islice

import numpy as np
import pytest
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.data import BagWriter, Trajectory, read_tum, write_tum
from robust_loc.data.synthetic import demo_sequence
from robust_loc.errors import BagTopicError, ConfigurationError, MapFormatError
from robust_loc.geometry import CameraCalibration
from robust_loc.relocalization import Map
from robust_loc.types import Frame

KEYFRAMES = ["--keyframe-distance", "0.02", "--keyframe-angle", "0.1"]


def robust_loc(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def frames():
    return list(islice(demo_sequence(120), 32))


@pytest.fixture(scope="module")
def bag(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "room.mcap"
    camera = frames[0].camera
    calibration = CameraCalibration(camera.width, camera.height, *camera.intrinsics.tolist())
    with BagWriter(path, calibration) as writer:
        for frame in frames:
            writer.write_frame(frame)
    return path


@pytest.fixture(scope="module")
def map_folder(bag, tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "room.map"
    result = robust_loc("map", bag, "-o", path, *KEYFRAMES, "--no-calibrate", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    assert summary["points"] == len(Map.load(path)) > 500
    assert summary["alignment"]["metric"] is True and summary["alignment"]["residual"] == 0.0
    return path


def test_a_recording_is_mapped_and_localized(bag, map_folder, frames, tmp_path):
    result = robust_loc("localize", bag, "--map", map_folder, "--from-frame", 1, "--until-frame", 12, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    trajectory = read_tum(tmp_path / "relocalizer.tum")
    true = {frame.stamp: frame.world_T_cam for frame in frames}
    errors = [np.linalg.norm(T[:3, 3] - true[int(s)][:3, 3]) for s, T in zip(trajectory.stamps, trajectory.world_T_cam)]
    assert len(errors) >= 10 and np.median(errors) < 0.03
    assert trajectory.covariances is not None and np.all(np.isfinite(trajectory.covariances))
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["configuration"]["relocalizer"]["map"] == str(map_folder)


def test_the_map_knows_where_it_came_from(map_folder, bag):
    info = Map.load(map_folder).info
    assert info.provenance["recording"] == str(bag) and info.provenance["poses"] == "ground truth"


def test_a_map_is_written_as_a_colmap_model_too(bag, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    options = ["--until-frame", 6, "--no-calibrate", "--to-colmap", tmp_path / "model"]
    result = robust_loc("map", bag, "-o", tmp_path / "m", *KEYFRAMES, *options)
    assert result.exit_code == 0 and "keyframes" in result.output
    assert pycolmap.Reconstruction(str(tmp_path / "model")).num_reg_images() == Map.load(tmp_path / "m").keyframes


def test_poses_in_another_frame_and_scale_are_aligned(bag, frames, tmp_path):
    moved = np.array([frame.world_T_cam for frame in frames])
    moved[:, :3, 3] = 0.5 * moved[:, :3, 3] + [1.0, 2.0, 3.0]
    write_tum(tmp_path / "slam.tum", Trajectory(np.array([frame.stamp for frame in frames]), moved))
    options = ["--poses", tmp_path / "slam.tum", "--align-to", "ground truth", "--no-calibrate", "--json"]
    result = robust_loc("map", bag, "-o", tmp_path / "m", *KEYFRAMES, *options)
    assert result.exit_code == 0, result.output
    alignment = json.loads(result.output)["alignment"]
    assert alignment["metric"] and alignment["residual"] < 1e-6 and alignment["scale"] == pytest.approx(2.0)
    poses = Map.load(tmp_path / "m").arrays["keyframe_pose"]
    np.testing.assert_allclose(poses[0], frames[0].world_T_cam, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_odometry_gives_poses_metric_by_depth_or_up_to_scale(bag, frames, tmp_path):
    from robust_loc.geometry import umeyama

    blind = tmp_path / "blind.mcap"
    camera = frames[0].camera
    with BagWriter(blind, CameraCalibration(camera.width, camera.height, *camera.intrinsics.tolist())) as writer:
        for frame in frames:
            writer.write_frame(Frame(frame.image, frame.camera, frame.stamp))
    true = {frame.stamp: frame.world_T_cam[:3, 3] for frame in frames}
    for recording, metric in ((bag, True), (blind, False)):
        folder = tmp_path / f"{recording.stem}.map"
        options = ["--poses", "odometry", "--until-frame", 18, *KEYFRAMES, "--no-calibrate"]
        result = robust_loc("map", recording, "-o", folder, *options)
        assert result.exit_code == 0, result.output
        assert ("not metric" in result.output) is not metric
        map_ = Map.load(folder)
        alignment = map_.info.alignment
        assert alignment["metric"] is metric and alignment["to"] == ("depth" if metric else "odometry")
        assert map_.info.provenance["poses"] == "odometry" and len(map_) > 200
        found = np.asarray(map_.arrays["keyframe_pose"])[:, :3, 3]
        target = np.array([true[int(stamp)] for stamp in map_.arrays["keyframe_stamp"]])
        fit = umeyama(found, target, with_scale=True)
        residual = fit.scale * found @ fit.rotation.T + fit.translation - target
        assert np.sqrt((residual**2).sum(1).mean()) < 0.1 * np.linalg.norm(target[-1] - target[0])
        if metric:
            assert fit.scale == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "arguments, error, cause",
    [
        (["map", "-o", "x"], ConfigurationError, "name a recording"),
        (["map", "-o", "x", "--colmap", "."], ConfigurationError, "--images"),
        (["localize", "{bag}", "-o", "x"], ConfigurationError, "--map"),
        (["localize", "{bag}", "--map", "{bag}", "-o", "x"], MapFormatError, "no map"),
        (["map", "{bag}", "-o", "x", "--poses", "/nothing"], BagTopicError, "/nothing"),
    ],
)
def test_bad_input_ends_with_its_cause(bag, tmp_path, monkeypatch, arguments, error, cause):
    monkeypatch.chdir(tmp_path)
    result = robust_loc(*[str(a).format(bag=bag) for a in arguments])
    assert isinstance(result.exception, error) and cause in str(result.exception)
    assert not (tmp_path / "x").exists()
