import base64
import json
import re

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from noisy_trajectories import SIGMA, helix, noisy

from robust_loc.cli.evaluate import command
from robust_loc.data import write_tum
from robust_loc.data.results import ResultsWriter, read_source, sources_in
from robust_loc.data.writer import BagWriter
from robust_loc.errors import ConfigurationError, TrajectoryError
from robust_loc.evaluation import evaluate, write_report
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import Estimate, Status

TRUTH = helix(60)


@pytest.fixture
def results(tmp_path):
    """A results folder with two sources; the fusion refuses three frames."""
    estimate = noisy(TRUTH, SIGMA)
    with ResultsWriter(tmp_path / "out", {"filter": {"gate": 3.0}}, seed=7, recording="run.mcap") as writer:
        for index, stamp in enumerate(TRUTH.stamps):
            pose, covariance = estimate.world_T_cam[index], estimate.covariances[index]
            if index < 3:
                lost = Estimate(int(stamp), Status.REFUSED, "outside the map, so far", latency=0.01)
                writer.add("fusion", lost, "LOST")
            else:
                ok = Estimate(int(stamp), Status.OK, "", pose, covariance, probability=0.9, latency=0.02)
                writer.add("fusion", ok, "LOCALIZED")
            writer.add("odometry", Estimate(int(stamp), Status.OK, "", pose, covariance, latency=0.03))
    return tmp_path / "out"


@pytest.fixture
def bag(tmp_path):
    """A recording of the true trajectory."""
    image = np.zeros((8, 8, 3), np.uint8)
    from robust_loc.data.images import rgb_png

    with BagWriter(tmp_path / "run.mcap", CameraCalibration(8, 8, 8.0, 8.0, 3.5, 3.5)) as writer:
        for stamp, pose in zip(TRUTH.stamps, TRUTH.world_T_cam):
            writer.write_image(int(stamp), rgb_png(image), "png")
            writer.write_pose(int(stamp), pose)
    return tmp_path / "run.mcap"


def test_a_results_folder_keeps_configuration_seed_version_and_every_answer(results):
    run = json.loads((results / "run.json").read_text())
    assert run["seed"] == 7 and run["configuration"] == {"filter": {"gate": 3.0}} and run["version"]
    assert sources_in(results) == ["fusion", "odometry"]
    source = read_source(results, "fusion")
    assert len(source.trajectory) == 57 and len(source.stamps) == 60
    assert source.states[:4] == ("LOST", "LOST", "LOST", "LOCALIZED") and source.statuses[0] == "refused"
    assert source.latencies[0] == 0.01 and source.trajectory.covariances.shape == (57, 6, 6)
    with pytest.raises(TrajectoryError, match="fusion, odometry"):
        read_source(results, "regressor")


def test_the_command_judges_a_results_folder_by_its_recording(results, bag):
    outcome = CliRunner().invoke(command, [str(results), "--bag", str(bag), "--json"])
    assert outcome.exit_code == 0, outcome.output
    summary = json.loads(outcome.stdout)
    assert summary["frames"] == 60 and summary["estimated"] == 57
    assert (
        summary["state"].items() >= {"localized": 0.95, "localized_while_wrong": pytest.approx(0.0, abs=0.02)}.items()
    )
    assert summary["latency"]["p50"] == 0.02 and 0.01 < summary["ate"]["none"]["rmse"] < 0.05
    assert set(summary) == {
        "frames", "estimated", "ate", "rpe", "median", "recall", "uncertainty", "state", "latency"
    }  # fmt: skip
    assert (results / "report.html").exists()
    other = CliRunner().invoke(command, [str(results), "--bag", str(bag), "--source", "odometry", "--json"])
    assert json.loads(other.stdout)["estimated"] == 60 and "state" not in json.loads(other.stdout)


def test_frames_that_a_run_was_not_asked_about_do_not_count_unless_named(tmp_path, bag):
    with ResultsWriter(tmp_path / "out", {}, seed=7, recording=bag, frames=(40, None)) as writer:
        for stamp, pose in list(zip(TRUTH.stamps, TRUTH.world_T_cam))[40:]:
            writer.add("fusion", Estimate(int(stamp), Status.OK, "", pose, np.eye(6) * 1e-4), "LOCALIZED")

    def judged(*options):
        result = CliRunner().invoke(command, [str(tmp_path / "out"), "--bag", str(bag), "--json", *options])
        assert result.exit_code == 0, result.output
        summary = json.loads(result.output)
        return summary["frames"], summary["recall"]["0.05m_5deg"]

    assert judged() == (20, 1.0)
    assert judged("--from-frame", "20") == (40, 0.5)


def test_the_command_judges_a_trajectory_by_a_file_and_by_a_recording_alike(tmp_path, bag):
    write_tum(tmp_path / "est.tum", noisy(TRUTH, SIGMA))
    write_tum(tmp_path / "truth.tum", TRUTH)
    by_file, by_bag = (
        json.loads(CliRunner().invoke(command, [str(tmp_path / "est.tum"), str(reference), "--json"]).stdout)
        for reference in (tmp_path / "truth.tum", bag)
    )
    assert by_file["ate"]["se3"]["rmse"] == pytest.approx(by_bag["ate"]["se3"]["rmse"], abs=1e-8)
    part = CliRunner().invoke(
        command, [str(tmp_path / "est.tum"), str(bag), "--from-frame", "10", "--until-frame", "30", "--json"]
    )
    assert json.loads(part.stdout)["frames"] == 20
    table = CliRunner().invoke(command, [str(tmp_path / "est.tum"), str(bag)])
    assert "ATE, Sim(3)" in table.stdout and "ANEES" in table.stdout
    with pytest.raises(ConfigurationError, match="name the truth once"):
        CliRunner().invoke(command, [str(tmp_path / "est.tum")], catch_exceptions=False)


def test_the_report_holds_its_pictures_and_the_same_numbers(tmp_path):
    seconds = np.abs(np.random.default_rng(0).normal(0.03, 0.005, len(TRUTH)))
    evaluation = evaluate(noisy(TRUTH, SIGMA), TRUTH, latencies=(TRUTH.stamps, seconds))
    picture = cv2.imencode(".png", np.full((20, 30, 3), 128, np.uint8))[1].tobytes()
    page = write_report(tmp_path, evaluation, "odometry <first>", {"seed": 3}, [("a frame", picture)]).read_text()
    assert "odometry &lt;first&gt;" in page and "http" not in page
    images = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    assert [name for name, _ in images] == [
        "Trajectory (estimate aligned: none)", "Error over time", "Calibration of the covariance", "Timing", "a frame"
    ]  # fmt: skip
    for _, data in images[:-1]:
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[0] > 300 and len(np.unique(decoded)) > 20  # something is drawn
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ate"] == evaluation.summary["ate"] and report["alignment"] == "none"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_report_without_covariances_or_latencies_leaves_those_pictures_out(tmp_path):
    evaluation = evaluate(TRUTH, TRUTH)
    page = write_report(tmp_path, evaluation, "perfect").read_text()
    assert page.count("<img") == 2 and "ANEES" not in page
