"""Two hundred runs with known truth: errors and innovations are as large as the covariances say.

At any one time the runs are independent: the mean NEES over them lies in its 95 % chi-square band at 95 % of the times.
Eight hundred runs gave an ANEES of 1.001 +- 0.015 undisturbed and 1.013 +- 0.016 with 20 % outlier fixes.
"""

import numpy as np
import pytest

from robust_loc.fusion import FusionConfig, LocalizationFilter
from robust_loc.fusion.simulation import Fixes, Scenario, run, simulate
from robust_loc.uncertainty import block_bootstrap, chi_square_band, innovation_whiteness

RUNS = 200
SHORT = {"duration": 6.6, "period": 0.3}
SLOW_DRIFT = 0.1 / np.sqrt(SHORT["duration"])  # a random walk of 10 % over the run
SCENARIOS = {
    "undisturbed": Scenario(**SHORT, fixes=[Fixes(period=0.6)]),
    "20 % outlier fixes": Scenario(**SHORT, fixes=[Fixes(period=0.6, outliers=0.2)]),
    "fixes delayed by 300 ms": Scenario(**SHORT, fixes=[Fixes(period=0.6, delay=0.3)]),
    "scale drifting 10 %": Scenario(**SHORT, fixes=[Fixes(period=0.6)], scale_walk=SLOW_DRIFT),
    "all at once": Scenario(**SHORT, fixes=[Fixes(period=0.6, outliers=0.2, delay=0.3)], scale_walk=SLOW_DRIFT),
}
SETTLED = 2.4  # seconds: four fixes


def monte_carlo(scenario, runs):
    """Per run: NEES at each odometry step, and (stamp, NIS, innovation, covariance) of each honest fix."""
    config = FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0, scale_walk=scenario.scale_walk)
    errors, innovations = [], []
    for seed in range(runs):
        localizer, compared = LocalizationFilter(config), []

        def watch(event, localizer=localizer, compared=compared):
            seen = localizer.innovation
            new = seen is not None and not any(seen is innovation for _, innovation in compared)
            if event.source != "odometry" and event.honest and new:
                compared.append((event.estimate.stamp, seen))

        moments = run(localizer, simulate(scenario, seed), watch)
        errors.append([m.nees for m in moments if m.time >= SETTLED])
        innovations.append(compared)
    return np.array(errors), innovations


def share_in_band(mean_per_dof, counts):
    bands = [chi_square_band(int(count), 6) for count in counts]
    return np.mean([low <= value <= high for value, (low, high) in zip(mean_per_dof, bands)])


def assert_consistent(scenario, runs):
    nees, innovations = monte_carlo(scenario, runs)
    started = np.isfinite(nees)
    assert started[:, -1].mean() > 0.99
    anees = np.nanmean(nees, 0) / 6
    # Times of one run are correlated: with 95 % expected inside, one excursion takes several of them along.
    assert share_in_band(anees, started.sum(0)) >= 0.75, np.round(anees, 3)
    low, high = block_bootstrap(np.nanmean(nees, 1) / 6, block=1, level=0.99)[1:]  # runs are independent
    assert low <= 1.0 <= high, (low, high)

    by_stamp: dict[int, list[float]] = {}
    for compared in innovations:
        for stamp, innovation in compared:
            by_stamp.setdefault(stamp, []).append(innovation.nis)
    series = [np.array(values) for _, values in sorted(by_stamp.items()) if len(values) > runs // 2]
    mean_nis = np.array([values.mean() / 6 for values in series])
    assert share_in_band(mean_nis, [len(values) for values in series]) >= 0.75, np.round(mean_nis, 3)
    assert np.mean(mean_nis) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("name", SCENARIOS)
def test_anees_and_nis_lie_in_their_bands(name):
    assert_consistent(SCENARIOS[name], RUNS)


def test_innovations_are_white():
    scenario = Scenario(duration=30, period=0.3, fixes=[Fixes(period=0.6)])
    _, innovations = monte_carlo(scenario, 12)
    p_values = [
        innovation_whiteness(
            np.array([i.residual for _, i in compared]), np.array([i.covariance for _, i in compared]), max_lag=5
        ).p_value
        for compared in innovations
    ]
    assert np.median(p_values) > 0.1 and min(p_values) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_longer_runs_at_full_rate_stay_consistent(name):
    from dataclasses import replace

    short = SCENARIOS[name]
    longer = replace(short, duration=20.0, period=0.1, fixes=[replace(short.fixes[0], period=0.3)])
    assert_consistent(longer, RUNS // 4)
