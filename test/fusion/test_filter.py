"""The filter's interface: frames, statuses, late fixes, hints, scale, and what it refuses."""

import itertools

import numpy as np
import pytest

from robust_loc.errors import ConfigurationError
from robust_loc.fusion import FusionConfig, LastPose, LocalizationFilter, State
from robust_loc.fusion.rigid import inverse, rotation_exp
from robust_loc.fusion.simulation import Fixes, Scenario, run, simulate
from robust_loc.types import Estimate, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors

SECOND = 1_000_000_000
WHITE = FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0)
METRIC = FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0, metric_odometry=True)
TIGHT = 1e-4 * np.eye(6)


def pose(x, y=0.0, z=0.0, rotvec=(0.0, 0.0, 0.0)):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation_exp(np.array(rotvec)), [x, y, z]
    return T


def increment(stamp, motion, status=Status.OK, sigma=1e-3):
    return Estimate(stamp, status, increment=motion, increment_covariance=sigma**2 * np.eye(6))


def fix(stamp, map_T_cam, covariance=TIGHT, **fields):
    return Estimate(stamp, Status.OK, world_T_cam=map_T_cam, covariance=covariance, **fields)


def straight(localizer, start, end, speed=0.5, rate=10, source="relocalizer", every=2):
    """Drive along x; fixes at every second image, alternating by a millimetre so that no two are identical."""
    for k in range(int(start * rate), int(end * rate)):
        stamp = k * SECOND // rate
        said = localizer.predict(increment(stamp, pose(speed / rate)))
        if every and k % every == 0:
            said = localizer.correct(fix(stamp, pose(speed * k / rate, 0.001 * (-1) ** (k // every))), source)
    return said


def test_result_does_not_depend_on_the_order_in_which_fixes_arrive():
    events = simulate(Scenario(duration=6, fixes=[Fixes(period=0.3), Fixes("regressor", period=0.4)]), 5)
    odometry = [e for e in events if e.source == "odometry"]
    fixes = [e for e in events if e.source != "odometry"]
    config = FusionConfig(
        fix_correlation_time=0.0, initial_odometry_inflation=1.0, initial_scale=2.0, initial_scale_sigma=0.03
    )
    in_order, shuffled = LocalizationFilter(config), LocalizationFilter(config)
    for localizer in (in_order, shuffled):
        localizer.initial_pose(odometry[0].estimate.stamp, odometry[0].truth, TIGHT)
    run(in_order, events)
    for event in odometry:
        shuffled.predict(event.estimate)
    for index in np.random.default_rng(0).permutation(len(fixes)):
        shuffled.correct(fixes[index].estimate, fixes[index].source)
    a, b = in_order.localization(), shuffled.localization()
    assert b.map_T_base == pytest.approx(a.map_T_base, abs=1e-9)
    assert b.covariance == pytest.approx(a.covariance, rel=1e-6, abs=1e-12)
    assert b.scale == pytest.approx(a.scale)


def test_fix_between_two_odometry_stamps_counts_at_its_own_time():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 3)
    said = localizer.correct(fix(int(2.45 * SECOND), pose(0.5 * 2.45), 1e-8 * np.eye(6)), "relocalizer")
    assert said.map_T_base[0, 3] == pytest.approx(0.5 * 2.9, abs=0.01)


def test_fix_that_is_ahead_of_the_odometry_waits_for_it():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 2)
    before = localizer.localization()
    ahead = fix(2 * SECOND, pose(1.0), 1e-8 * np.eye(6))
    assert localizer.correct(ahead, "relocalizer").covariance == pytest.approx(before.covariance)
    said = localizer.predict(increment(2 * SECOND, pose(0.05)))
    assert said.covariance[0, 0] < 0.1 * before.covariance[0, 0]


def test_dead_odometry_does_not_keep_fixes_waiting():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 2)
    for k in range(20, 40):
        said = localizer.correct(fix(k * SECOND // 10, pose(0.05 * k, 0.001 * (-1) ** k)), "relocalizer")
    assert said.stamp >= 3 * SECOND
    assert said.map_T_base[0, 3] == pytest.approx(0.5 * said.stamp / SECOND, abs=0.05)


def test_late_fix_beyond_the_history_and_repeated_stamps_are_ignored_and_counted():
    localizer = LocalizationFilter(FusionConfig(history=1.0))
    straight(localizer, 0, 3)
    localizer.correct(fix(SECOND, pose(9.0)), "relocalizer")
    localizer.predict(increment(int(2.9 * SECOND), pose(1.0)))
    assert localizer.ignored == {"fix older than the history": 1, "odometry out of order": 1}


def test_frames_compose_and_extrinsics_carry_the_lever_arm():
    base_T_cam = pose(0.3, 0.1, 0.5, (-1.2, 1.2, -1.2))
    localizer = LocalizationFilter(METRIC, base_T_cam)
    for k in range(20):
        stamp, map_T_base = k * SECOND // 10, pose(0.05 * k, 0.0, 0.0, (0.0, 0.0, 0.02 * k))
        motion = inverse(pose(0.05 * (k - 1), 0.0, 0.0, (0.0, 0.0, 0.02 * (k - 1))) @ base_T_cam) @ map_T_base
        localizer.predict(increment(stamp, motion @ base_T_cam))
        said = localizer.correct(fix(stamp, pose(0, 1e-5 * (-1) ** k) @ map_T_base @ base_T_cam), "relocalizer")
    assert said.map_T_base == pytest.approx(map_T_base, abs=2e-3)
    assert said.map_T_odom @ said.odom_T_base == pytest.approx(said.map_T_base)
    assert said.twist[0] == pytest.approx(0.5 * np.cos(0.02 * 19), abs=0.02) and said.twist[5] == pytest.approx(
        0.2, abs=0.01
    )
    prior = localizer.prior()
    assert prior.world_T_cam == pytest.approx(said.map_T_base @ base_T_cam)


def test_scale_comes_from_absolute_poses_with_its_sigma():
    localizer = LocalizationFilter(WHITE)
    said = straight(localizer, 0, 0.1)
    assert said.scale_sigma == pytest.approx(3.0)
    for k in range(1, 60):
        localizer.predict(increment(k * SECOND // 10, pose(0.02)))
        if k % 2 == 0:
            said = localizer.correct(fix(k * SECOND // 10, pose(0.1 * k, 0.001 * (-1) ** (k // 2))), "relocalizer")
    assert said.scale == pytest.approx(5.0, rel=0.02)
    assert 0.0 < said.scale_sigma < 0.2


def test_metric_odometry_keeps_its_scale():
    said = straight(LocalizationFilter(METRIC), 0, 3, speed=0.7)
    assert said.scale == 1.0 and said.scale_sigma == 0.0


@pytest.mark.parametrize("use", ["motion", "scale"])
def test_external_odometry_gives_the_scale_and_the_odom_frame(use):
    localizer = LocalizationFilter(
        FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0, external_odometry=use)
    )
    localizer.initial_pose(0, pose(0.0), TIGHT)
    for k in range(60):
        localizer.observe_metric_odometry(k * SECOND // 10, pose(7.0 + 0.05 * k))
        said = localizer.predict(increment(k * SECOND // 10, pose(0.01)))
    assert said.scale == pytest.approx(5.0, rel=0.02)
    assert 0.0 < said.scale_sigma < 0.5
    assert said.odom_T_base[0, 3] == pytest.approx(7.0 + 0.05 * 59)
    assert said.map_T_base[0, 3] == pytest.approx(0.05 * 59, abs=0.1)


def test_external_odometry_bridges_a_blackout_of_the_camera():
    localizer = LocalizationFilter(WHITE)
    localizer.initial_pose(0, pose(0.0), TIGHT)
    for k in range(50):
        localizer.observe_metric_odometry(k * SECOND // 10, pose(0.05 * k))
        said = localizer.advance(k * SECOND // 10)
    assert said.map_T_base[0, 3] == pytest.approx(0.05 * 49)
    assert said.covariance[0, 0] < 0.1**2


def test_restarted_odometry_has_a_new_unit_of_length():
    localizer = LocalizationFilter(WHITE)
    before = straight(localizer, 0, 5)
    localizer.predict(Estimate(5 * SECOND, Status.INITIALIZING, "lost track"))
    said = localizer.predict(increment(int(5.1 * SECOND), pose(0.01)))
    assert before.scale_sigma < 0.2 and said.scale_sigma == pytest.approx(3.0 * said.scale, rel=0.01)


@pytest.mark.parametrize(
    ("status", "grows"),
    [(Status.OK, False), (Status.UNRELIABLE, False), (Status.NO_MOTION, False), (Status.DEGENERATE, True)],
)
def test_each_status_of_the_odometry_has_its_meaning(status, grows):
    localizer = LocalizationFilter(METRIC)
    before = straight(localizer, 0, 2).covariance
    motion = pose(0.0, rotvec=(0.0, 0.0, 0.1))
    for k in range(20, 25):
        said = localizer.predict(increment(k * SECOND // 10, motion, status))
    assert (said.covariance[0, 0] > before[0, 0] + 0.2**2) == grows
    assert said.covariance[5, 5] < 0.01**2
    assert said.map_T_base[:3, :3] == pytest.approx(rotation_exp(np.array([0.0, 0.0, 0.5])), abs=1e-2)


def test_still_camera_without_an_increment_does_not_move():
    localizer = LocalizationFilter(METRIC)
    before = straight(localizer, 0, 2)
    said = localizer.predict(Estimate(2 * SECOND, Status.NO_MOTION))
    assert said.map_T_base == pytest.approx(before.map_T_base)
    assert said.state is State.LOCALIZED


@pytest.mark.parametrize(
    "bad",
    [
        fix(0, np.full((4, 4), np.nan)),
        fix(0, 2.0 * np.eye(4)),
        fix(0, np.eye(4), np.full((6, 6), np.nan)),
        fix(0, np.eye(4), -np.eye(6)),
        fix(0, np.eye(4), probability=0.01),
        fix(0, np.eye(4), probability=float("nan")),
        Estimate(0, Status.OK, world_T_cam=np.eye(4)),
    ],
)
def test_malformed_and_improbable_fixes_are_ignored_and_counted(bad):
    localizer = LocalizationFilter(METRIC)
    before = straight(localizer, 0, 2)
    said = localizer.correct(bad, "relocalizer")
    assert np.array_equal(said.map_T_base, before.map_T_base)
    assert len(localizer.ignored) == 1 and next(iter(localizer.ignored)).startswith("relocalizer")


def test_malformed_increments_count_as_unobserved_motion():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 2)
    for k, bad in enumerate([np.full((4, 4), np.nan), 3 * np.eye(4)]):
        said = localizer.predict(increment((20 + 5 * (k + 1)) * SECOND // 10, bad))
    assert said.covariance[0, 0] > 0.3**2
    assert np.isfinite(said.map_T_base).all()


def test_zero_covariance_does_not_break_the_filter():
    localizer = LocalizationFilter(METRIC)
    for k in range(10):
        localizer.predict(increment(k * SECOND // 10, pose(0.05), sigma=0.0))
        said = localizer.correct(fix(k * SECOND // 10, pose(0.05 * k, 1e-4 * (-1) ** k), np.zeros((6, 6))), "a")
    assert said.state is State.LOCALIZED
    assert np.linalg.eigvalsh(said.covariance).min() > 0


def test_fixes_in_quick_succession_share_their_error():
    """Thirty fixes a second for one second count as about one per correlation time, not as thirty."""

    def spread(correlation_time):
        localizer = LocalizationFilter(
            FusionConfig(fix_correlation_time=correlation_time, metric_odometry=True, confirmation_time=0.1)
        )
        for k in range(31):
            localizer.predict(increment(k * SECOND // 30, np.eye(4), sigma=1e-6))
            said = localizer.correct(fix(k * SECOND // 30, pose(0.0, 1e-6 * (-1) ** k)), "regressor")
        return said.covariance[0, 0] / 1e-4

    assert spread(0.0) == pytest.approx(1 / 31, rel=0.1)
    assert 1 / 6 < spread(0.5) < 1 / 2


def test_initial_pose_is_honoured_and_replaced_by_consistent_fixes_elsewhere():
    localizer = LocalizationFilter(METRIC)
    rviz = np.diag([0.25, 0.25, 0.0, 0.0, 0.0, 0.0685])
    localizer.predict(increment(0, np.eye(4)))
    localizer.initial_pose(0, pose(10.0, 5.0), rviz)
    said = localizer.localization()
    assert said.map_T_base[0, 3] == 10.0 and said.state is State.DEGRADED
    assert np.linalg.eigvalsh(said.covariance).min() > 0
    near = [localizer.correct(fix(0, pose(10.3, 5.2), TIGHT), "relocalizer")]
    assert near[0].map_T_base[0, 3] == pytest.approx(10.3, abs=0.01)
    said = straight(localizer, 0.1, 3)
    assert said.state is State.LOCALIZED
    assert said.map_T_base[0, 3] == pytest.approx(0.5 * 2.9, abs=0.02)


def test_precise_initial_pose_is_enough_to_be_localized():
    localizer = LocalizationFilter(METRIC)
    localizer.initial_pose(0, pose(1.0), TIGHT)
    assert localizer.predict(increment(SECOND // 10, pose(0.05))).state is State.LOCALIZED


def test_initial_pose_in_the_middle_of_a_run_overrides_the_filter():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 3)
    localizer.initial_pose(int(2.55 * SECOND), pose(-4.0), TIGHT)
    said = localizer.predict(increment(3 * SECOND, pose(0.05)))
    assert said.map_T_base[0, 3] == pytest.approx(-4.0 + 0.5 * 0.4, abs=0.05)


@pytest.mark.parametrize("bad", [np.full((6, 6), np.nan), np.diag([1, 1, 1, 1, 1, 1.0]) - 2])
def test_malformed_initial_pose_is_refused(bad):
    with pytest.raises(ValueError, match="initial pose"):
        LocalizationFilter().initial_pose(0, np.eye(4), bad)


def test_saved_pose_is_offered_and_waits_for_a_fix(tmp_path):
    file = tmp_path / "last_pose.json"
    assert LastPose.load(file) is None
    first = straight(LocalizationFilter(METRIC), 0, 3)
    LastPose(first.stamp, first.map_T_base, first.covariance, "kitchen").save(file)
    assert [p.name for p in tmp_path.iterdir()] == ["last_pose.json"]

    second = LocalizationFilter(METRIC)
    last = LastPose.load(file)
    assert last.map_name == "kitchen"
    second.offer(last, 100 * SECOND)
    said = second.predict(increment(100 * SECOND + 1, np.eye(4)))
    assert said.state is State.INITIALIZING and "earlier run" in said.reason
    assert second.prior().world_T_cam == pytest.approx(first.map_T_base)
    for k in itertools.count(1):
        stamp = 100 * SECOND + k * SECOND // 10
        second.predict(increment(stamp, pose(0.05)))
        said = second.correct(fix(stamp, pose(1.5 + 0.05 * k, 1e-3 * (-1) ** k)), "relocalizer")
        if said.state is State.LOCALIZED or k > 9:
            break
    assert said.state is State.LOCALIZED and k <= 3


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": 1, "stamp": 0, "map": "", "map_T_base": [1], "covariance": []}']
)
def test_damaged_saved_pose_is_named(tmp_path, text):
    (tmp_path / "pose.json").write_text(text)
    with pytest.raises(ConfigurationError, match="pose.json"):
        LastPose.load(tmp_path / "pose.json")


def test_calibration_factors_are_applied_to_fixes_and_increments():
    calibration = CovarianceCalibration(
        {"relocalizer": CovarianceFactors(3.0, 3.0), "odometry": CovarianceFactors(10.0, 10.0)}
    )
    plain, scaled = (straight(LocalizationFilter(METRIC, calibration=c), 0, 3) for c in (None, calibration))
    assert scaled.covariance[0, 0] > 4 * plain.covariance[0, 0]


def test_reset_forgets_everything():
    localizer = LocalizationFilter(METRIC)
    straight(localizer, 0, 3)
    localizer.reset()
    said = localizer.localization()
    assert said.state is State.INITIALIZING and said.map_T_base is None and localizer.wants_relocalization


def test_memory_is_bounded_by_the_history():
    localizer = LocalizationFilter(FusionConfig(history=1.0))
    straight(localizer, 0, 20)
    assert len(localizer._timeline.stamps) <= 12
    assert len(localizer._main._prior) <= 12 and len(localizer._main._fixes) <= 12
    assert len(localizer._intake._stamps["relocalizer"]) <= 12


def test_extrinsics_must_be_rigid():
    with pytest.raises(ValueError, match="base_T_cam"):
        LocalizationFilter(base_T_cam=2 * np.eye(4))
