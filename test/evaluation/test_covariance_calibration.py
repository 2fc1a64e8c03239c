"""Factors of whole results folders: what was made too small comes out as the factor."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.data.results import ResultsWriter, trajectory_of
from robust_loc.data.trajectory import Trajectory, write_tum
from robust_loc.errors import ConfigurationError, TrajectoryError
from robust_loc.evaluation.covariance_calibration import INCREMENTS, folder_factors, increment_factors, pose_factors
from robust_loc.fusion import FusionConfig, LocalizationFilter
from robust_loc.fusion.simulation import Fixes, Scenario, simulate
from robust_loc.types import Estimate, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors


@pytest.fixture(scope="module")
def events():
    return simulate(Scenario(duration=120, fixes=[Fixes(period=0.2, understated=2.0, outliers=0.05)]), 1)


def of(events, source):
    return [e.estimate for e in events if e.source == source]


def increments(events, factor=1.0):
    scale = CovarianceFactors(factor, factor)
    usable = [scale.apply_to(e) for e in of(events, "odometry") if e.increment is not None]
    return trajectory_of(
        [Estimate(e.stamp, e.status, world_T_cam=e.increment, covariance=e.increment_covariance) for e in usable]
    )


def truth(events):
    moving = [e for e in events if e.source == "odometry"]
    return Trajectory(np.array([e.estimate.stamp for e in moving]), np.array([e.truth for e in moving]))


@pytest.fixture
def folder(events, tmp_path):
    with ResultsWriter(tmp_path / "run", {}, seed=1) as writer:
        for estimate in of(events, "relocalizer"):
            writer.add("relocalizer", estimate)
        writer.add("fusion", Estimate(1, Status.FAILED))
    write_tum(tmp_path / "run" / INCREMENTS, increments(events, 0.5))
    write_tum(tmp_path / "truth.tum", truth(events))
    return tmp_path / "run"


def test_poses_whose_sigmas_are_half_too_small_get_a_factor_of_two(events):
    factors = pose_factors(trajectory_of(of(events, "relocalizer")), truth(events))
    assert (factors.translation, factors.rotation) == pytest.approx((2.0, 2.0), rel=0.1)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_increments_of_drifting_scale_get_their_factor(events, factor):
    factors = increment_factors(increments(events, factor), truth(events))
    assert (factors.translation, factors.rotation) == pytest.approx((1 / factor, 1 / factor), rel=0.2)


def test_command_writes_factors_that_fusion_and_estimators_load(folder, tmp_path):
    (tmp_path / "map").mkdir()
    arguments = ["calibrate-covariance", str(folder), "--bag", str(tmp_path / "truth.tum"), "--json"]
    store = ["--store", "relocalizer", str(tmp_path / "map")]
    for _ in range(2):
        result = CliRunner().invoke(cli, [*arguments, *store])
        assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert set(printed) == {"odometry", "relocalizer"}
    assert printed["relocalizer"]["translation"] == pytest.approx(2.0, rel=0.1)
    stored = CovarianceCalibration.load_beside(tmp_path / "map").of("relocalizer")
    assert stored.translation == pytest.approx(printed["relocalizer"]["translation"] ** 2)  # twice on top of each other

    file = folder / "covariance_calibration.json"
    localizer = LocalizationFilter(FusionConfig(calibration_file=str(file)))
    assert localizer.calibration.of("odometry").translation == pytest.approx(2.0, rel=0.2)


def test_folders_without_anything_to_calibrate_are_refused(tmp_path, events):
    with pytest.raises(TrajectoryError, match="no source"):
        folder_factors(tmp_path, truth(events))
    with pytest.raises(TrajectoryError, match="no covariances"):
        pose_factors(truth(events), truth(events))
    with pytest.raises(TrajectoryError, match="stretches"):
        increment_factors(increments(events).select(slice(0, 20)), truth(events))


def test_storing_an_absent_source_or_in_an_absent_map_writes_nothing(folder, tmp_path):
    arguments = ["calibrate-covariance", str(folder), "--bag", str(tmp_path / "truth.tum"), "--store"]
    for store in (["regressor", str(tmp_path)], ["relocalizer", str(tmp_path / "nowhere")]):
        result = CliRunner().invoke(cli, [*arguments, *store])
        assert isinstance(result.exception, ConfigurationError)
    assert not (folder / "covariance_calibration.json").exists()
