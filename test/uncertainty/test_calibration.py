"""Covariance factors: fitted, stored and applied."""

import numpy as np
import pytest

from robust_loc.errors import ConfigurationError
from robust_loc.types import Estimate, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors, anees, fit_factors, nees


def overconfident_sample(rng, count=4000, s_t=2.0, s_r=0.5):
    covariances = np.repeat(np.diag([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])[None] * 1e-4, count, 0)
    roots = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2)) * np.repeat([s_t, s_r], 3)
    return rng.normal(size=(count, 6)) * roots, covariances


@pytest.mark.parametrize("method", ["median", "mean"])
def test_factors_recover_the_size_of_the_errors(method):
    errors, covariances = overconfident_sample(np.random.default_rng(0))
    factors = fit_factors(errors, covariances, method)
    assert (factors.translation, factors.rotation) == pytest.approx((2.0, 0.5), rel=0.03)
    assert anees(nees(errors, factors.apply(covariances)), 6).value == pytest.approx(1.0, abs=0.05)


def test_a_few_wrong_poses_do_not_move_the_median_factors():
    errors, covariances = overconfident_sample(np.random.default_rng(1))
    errors[::20] += 5.0
    assert fit_factors(errors, covariances).translation == pytest.approx(2.0, rel=0.1)
    assert fit_factors(errors, covariances, "mean").translation > 10.0


def test_factors_scale_blocks_and_cross_terms():
    scaled = CovarianceFactors(2.0, 3.0).apply(np.ones((6, 6)))
    assert scaled[0, 0] == 4 and scaled[5, 5] == 9 and scaled[0, 5] == 6


def test_estimates_are_scaled_where_they_have_covariances():
    estimate = Estimate(0, Status.OK, world_T_cam=np.eye(4), covariance=np.eye(6))
    scaled = CovarianceFactors(2.0, 3.0).apply_to(estimate)
    assert scaled.covariance is not None and scaled.covariance[0, 0] == 4
    assert scaled.increment_covariance is None


def test_calibrations_survive_a_round_trip_and_default_to_one(tmp_path):
    saved = CovarianceCalibration({"relocalizer": CovarianceFactors(1.5, 0.5, 40)}, {"recording": "run.mcap"})
    saved.save(tmp_path)
    for loaded in (CovarianceCalibration.load(tmp_path), CovarianceCalibration.load_beside(tmp_path)):
        assert loaded.of("relocalizer") == CovarianceFactors(1.5, 0.5, 40)
        assert loaded.of("odometry") == CovarianceFactors()
        assert loaded.details["recording"] == "run.mcap"
    assert CovarianceCalibration.load_beside(tmp_path / "weights.safetensors").factors == {}
    assert [file.name for file in tmp_path.iterdir()] == ["covariance_calibration.json"]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "estimators": {"a": {"translation": -1}}}',
        '{"format": 1, "estimators": {"a": {"colour": 1}}}',
    ],
)
def test_bad_calibration_files_are_refused_with_their_name(tmp_path, text):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="bad.json"):
        CovarianceCalibration.load(file)


def test_too_few_errors_and_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        fit_factors(np.zeros((3, 6)), np.repeat(np.eye(6)[None], 3, 0))
    with pytest.raises(ValueError, match="method"):
        fit_factors(np.zeros((20, 6)), np.repeat(np.eye(6)[None], 20, 0), "mode")
