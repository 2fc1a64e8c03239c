"""What a robot meets, told as statements: each run asserts the timeline of the states against the known truth."""

from dataclasses import replace

import numpy as np
import pytest

from robust_loc.fusion import FusionConfig, LocalizationFilter, State
from robust_loc.fusion.rigid import rotation_exp
from robust_loc.fusion.simulation import Fixes, Scenario, localized_while_wrong, run, simulate
from robust_loc.types import REPEATED_IMAGE
from robust_loc.uncertainty import perturb

WHITE = FusionConfig(
    fix_correlation_time=0.0, initial_odometry_inflation=1.0
)  # simulated fixes have independent errors
RELOCALIZER = Fixes("relocalizer", period=0.2, delay=0.1)
REGRESSOR = Fixes("regressor", period=0.1, position_sigma=0.05, rotation_sigma=0.02)
SEEDS = range(2)


def moved(x, y, z, yaw=0.0):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation_exp(np.array([0.0, 0.0, yaw])), [x, y, z]
    return T


def timeline(scenario, seed, config=WHITE):
    localizer = LocalizationFilter(config)
    moments = run(localizer, simulate(scenario, seed))
    assert localized_while_wrong(moments) <= 1.0, f"seed {seed}: LOCALIZED while wrong"
    return moments, localizer


def states(moments, start, end):
    return {m.localization.state for m in moments if start <= m.time <= end}


def first(moments, state, after):
    return next((m.time for m in moments if m.time >= after and m.localization.state is state), np.inf)


@pytest.mark.parametrize("seed", SEEDS)
def test_undisturbed_run_is_localized_from_the_third_fix_to_the_end(seed):
    moments, _ = timeline(Scenario(fixes=[RELOCALIZER]), seed)
    assert states(moments, 0.0, 0.3) == {State.INITIALIZING}
    assert states(moments, 1.0, 12.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_kidnapped_robot_is_relocalized_without_a_hint(seed):
    scenario = Scenario(fixes=[RELOCALIZER, REGRESSOR], kidnapped={6.0: moved(3.0, -2.0, 0.5, 2.0)})
    moments, _ = timeline(scenario, seed)
    assert first(moments, State.DEGRADED, 6.0) <= 7.0
    recovered = first(moments, State.LOCALIZED, 6.8)
    assert recovered <= 8.0
    assert states(moments, recovered, 12.0) == {State.LOCALIZED}
    assert np.linalg.norm(moments[-1].error[:3]) < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_kidnapped_robot_with_one_slow_source_becomes_lost_and_recovers(seed):
    slow = Fixes("relocalizer", period=0.6, delay=0.2)
    moments, _ = timeline(Scenario(fixes=[slow], duration=16, kidnapped={6.1: moved(1.0, 0.0, 0.0)}), seed)
    assert State.LOST in states(moments, 6.0, 9.5) or State.LOCALIZED in states(moments, 8.0, 9.5)
    assert states(moments, 10.5, 16.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_blackout_of_thirty_seconds_ends_in_lost_and_a_recovery_under_two_seconds(seed):
    moments, _ = timeline(Scenario(duration=44, fixes=[RELOCALIZER], dark=[(6.0, 36.0)]), seed)
    assert first(moments, State.DEGRADED, 6.0) < 7.0
    assert first(moments, State.LOST, 6.0) < 8.0
    assert states(moments, 8.0, 35.9) == {State.LOST}
    lost = next(m.localization for m in moments if m.time > 20)
    assert np.array_equal(lost.covariance, 9999.0 * np.eye(6)) and "uncertain" in lost.reason
    assert first(moments, State.LOCALIZED, 36.0) < 38.0
    assert states(moments, 38.0, 44.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_frozen_camera_is_noticed_by_its_repeated_fix(seed):
    moments, _ = timeline(Scenario(duration=16, fixes=[RELOCALIZER], frozen=[(6.0, 10.0)]), seed)
    assert first(moments, State.DEGRADED, 6.0) <= 6.6
    assert State.LOCALIZED not in states(moments, 6.6, 10.0)
    assert first(moments, State.LOST, 6.0) <= 9.0
    assert first(moments, State.LOCALIZED, 10.0) <= 12.0


def test_frozen_camera_whose_fixes_vary_is_noticed_by_the_odometry():
    """The relocalizer's answer to one image depends on its prior a little: only the odometry compares the images."""
    scenario = Scenario(fixes=[RELOCALIZER], duration=10, frozen=[(5.0, 8.0)])
    rng = np.random.default_rng(0)
    events = []
    for event in simulate(scenario, 0):
        estimate = event.estimate
        if 5.0 <= event.arrival < 8.0 and event.source == "odometry":
            estimate = replace(estimate, reason=REPEATED_IMAGE)
        elif estimate.has_pose and event.source != "odometry":
            estimate = replace(estimate, world_T_cam=perturb(estimate.world_T_cam, 1e-3 * rng.normal(size=6)))
        events.append(replace(event, estimate=estimate))
    moments = run(LocalizationFilter(WHITE), events)
    assert localized_while_wrong(moments) <= 1.0
    assert states(moments, 6.0, 7.9) <= {State.DEGRADED, State.LOST}
    assert first(moments, State.LOCALIZED, 8.0) <= 10.0


@pytest.mark.parametrize(
    "fault",
    [
        {"kidnapped": {6.0: moved(3.0, -2.0, 0.5, 2.0)}},
        {"dark": [(4.0, 7.0)]},
        {"frozen": [(4.0, 7.0)]},
        {"clock": {5.0: 30.0}},
    ],
    ids=lambda fault: next(iter(fault)),
)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_default_configuration_is_as_careful_with_quick_fixes(seed, fault):
    quick = Fixes("relocalizer", period=0.05, outliers=0.05)
    moments, _ = timeline(Scenario(fixes=[quick], duration=12, period=0.05, **fault), seed, FusionConfig())
    assert moments[-1].localization.state is State.LOCALIZED
    assert np.linalg.norm(moments[-1].error[:3]) < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_map_never_localizes(seed):
    nonsense = Fixes("relocalizer", outliers=1.0)
    moments, _ = timeline(Scenario(fixes=[nonsense]), seed)
    assert State.LOCALIZED not in states(moments, 0.0, 12.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_map_that_becomes_wrong_loses_the_robot(seed):
    before, after = Fixes(alive=(0.0, 6.0)), Fixes(alive=(6.0, 99.0), outliers=1.0)
    moments, _ = timeline(Scenario(duration=14, fixes=[before, after]), seed)
    assert states(moments, 3.0, 5.9) == {State.LOCALIZED}
    assert states(moments, 9.0, 14.0) == {State.LOST}


@pytest.mark.parametrize("seconds", [3600.0, 5.0, -5.0, -3600.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_clock_jump_is_survived(seed, seconds):
    moments, _ = timeline(Scenario(fixes=[RELOCALIZER], clock={6.0: seconds}), seed)
    assert State.LOCALIZED not in states(moments, 6.0, 6.1)
    assert first(moments, State.LOCALIZED, 6.0) <= 8.0
    assert states(moments, 8.0, 12.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_dying_source_is_replaced_by_the_other(seed):
    dying = Fixes("relocalizer", delay=0.1, alive=(0.0, 5.0))
    moments, _ = timeline(Scenario(fixes=[dying, REGRESSOR]), seed)
    assert states(moments, 1.5, 12.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_when_the_only_source_dies_the_state_degrades_with_age_and_is_lost_in_the_end(seed):
    config = FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0, fix_timeout=5.0, lost_timeout=15.0)
    dying = Fixes("relocalizer", delay=0.1, alive=(0.0, 5.0))
    moments, _ = timeline(Scenario(duration=22, fixes=[dying]), seed, config)
    assert State.LOCALIZED not in states(moments, 10.1, 22.0)
    assert states(moments, 20.1, 22.0) == {State.LOST}
    widths = [np.trace(m.localization.covariance[:3, :3]) for m in moments if 5.5 < m.time < 15]
    assert widths[-1] > 2 * widths[0]


@pytest.mark.parametrize("bias", [(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.3, 0.2, 0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_source_that_begins_to_lie_is_ignored(seed, bias):
    liar = Fixes("regressor", period=0.1, bias={(5.0, 99.0): bias}, position_sigma=0.015)
    moments, localizer = timeline(Scenario(fixes=[RELOCALIZER, liar]), seed)
    assert localizer.monitor.sources["regressor"].distrusted
    assert states(moments, 7.0, 12.0) == {State.LOCALIZED}
    assert "regressor" in moments[-1].localization.reason
    assert np.linalg.norm(moments[-1].error[:3]) < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_source_that_lies_from_the_start_prevents_localized(seed):
    liar = Fixes("regressor", period=0.1, bias={(0.0, 99.0): (1.0, 0.5, 0.0, 0.0, 0.0, 0.0)}, position_sigma=0.02)
    slow = Fixes("relocalizer", period=0.6, delay=0.2)
    moments, _ = timeline(Scenario(fixes=[slow, liar]), seed)
    assert State.LOCALIZED not in states(moments, 2.0, 12.0)
    assert "contradicts" in moments[-1].localization.reason


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_wrong_fixes_that_agree_with_each_other_never_move_the_filter(seed):
    """Another place that looks the same: four fixes in a row point there."""
    aliased = Fixes("relocalizer", bias={(5.0, 5.79): (2.0, 0.0, 0.0, 0.0, 0.0, 0.0)})
    moments, _ = timeline(Scenario(fixes=[aliased]), seed)
    errors = [np.linalg.norm(m.error[:3]) for m in moments if m.time > 2]
    assert max(errors) < 0.25
    assert states(moments, 6.2, 12.0) == {State.LOCALIZED}


@pytest.mark.parametrize("seed", SEEDS)
def test_any_number_of_wrong_fixes_that_alternate_with_right_ones_never_moves_the_filter(seed):
    right = Fixes("relocalizer", period=0.4)
    wrong = Fixes("regressor", period=0.2, alive=(3.0, 99.0), bias={(3.0, 99.0): (2.0, 0.0, 0.0, 0.0, 0.0, 0.0)})
    moments, _ = timeline(Scenario(fixes=[right, wrong]), seed)
    assert max(np.linalg.norm(m.error[:3]) for m in moments if m.time > 2) < 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_covariances_that_are_four_times_too_small_are_found_out_and_corrected(seed):
    boastful = Fixes("relocalizer", period=0.2, understated=4.0)
    localizer = LocalizationFilter(WHITE)
    moments = run(localizer, simulate(Scenario(duration=20, fixes=[boastful]), seed))
    settled = [m for m in moments if m.time > 5]
    assert localized_while_wrong(settled) <= 1.0
    assert states(moments, 5.0, 20.0) == {State.LOCALIZED}
    assert 0.5 < np.mean([m.nees for m in settled]) / 6 < 2.0


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_covariances_are_not_touched(seed):
    localizer = LocalizationFilter(WHITE)
    run(localizer, simulate(Scenario(fixes=[Fixes("relocalizer", outliers=0.2)]), seed))
    assert localizer._intake.noise["relocalizer"].source_factor == 1.0
    assert localizer._intake.odometry_factor == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_wrong_fixes_before_a_blackout_do_not_count_after_it(seed):
    """A place that two wrong fixes pointed to grows vague in the dark; a right fix must not seem to agree with it."""
    fixes = [Fixes(outliers=0.3, position_sigma=0.02)]
    moments, _ = timeline(Scenario(duration=16, fixes=fixes, dark=[(6.0, 8.0)]), seed)
    assert State.LOCALIZED not in states(moments, 6.6, 8.4)


@pytest.mark.parametrize("seed", SEEDS)
def test_odometry_that_is_ten_times_worse_than_it_says_is_found_out(seed):
    """The filter would follow it and reject right fixes; fixes that agree nearby take over and cost it its credit."""
    scenario = Scenario(duration=30, fixes=[RELOCALIZER], translation_sigma=0.02, rotation_sigma=0.01, understated=10.0)
    localizer = LocalizationFilter(WHITE)
    moments = run(localizer, simulate(scenario, seed))
    settled = [m for m in moments if m.time > 8]
    assert localized_while_wrong(settled) <= 1.0
    assert max(np.linalg.norm(m.error[:3]) for m in settled) < 0.25
    wrong = np.mean([m.localization.state is State.LOCALIZED and m.wrong() for m in settled])
    assert wrong < 0.1
    assert localizer._intake.odometry_factor == pytest.approx(100.0)
    assert 0.7 < np.mean([m.nees for m in settled]) / 6 < 1.4
