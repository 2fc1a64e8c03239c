import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robust_loc.data.trajectory import Trajectory, associate, format_stamp, parse_stamp, read_tum, write_tum
from robust_loc.errors import TrajectoryError

RNG = np.random.default_rng(5)


def random_trajectory(count: int = 9, with_covariances: bool = False) -> Trajectory:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=4).as_matrix()
    poses[:, :3, 3] = RNG.normal(size=(count, 3))
    factors = RNG.normal(size=(count, 6, 6))
    covariances = factors @ factors.transpose(0, 2, 1) if with_covariances else None
    return Trajectory(1_700_000_000_123_456_789 + np.arange(count) * 33_333_333, poses, covariances)


def test_a_tum_file_keeps_every_nanosecond_pose_and_covariance(tmp_path):
    trajectory = random_trajectory(with_covariances=True)
    write_tum(tmp_path / "est.tum", trajectory)
    back = read_tum(tmp_path / "est.tum")
    np.testing.assert_array_equal(back.stamps, trajectory.stamps)
    np.testing.assert_allclose(back.world_T_cam, trajectory.world_T_cam, atol=3e-9)
    np.testing.assert_allclose(back.covariances, trajectory.covariances, rtol=1e-8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["est.tum", "est.tum.cov.csv"]


def test_a_pose_without_covariance_stays_without(tmp_path):
    trajectory = random_trajectory(with_covariances=True)
    trajectory.covariances[3] = np.nan
    write_tum(tmp_path / "est.tum", trajectory)
    back = read_tum(tmp_path / "est.tum").covariances
    assert np.isnan(back[3]).all() and np.isfinite(np.delete(back, 3, axis=0)).all()


def test_a_stale_covariance_file_does_not_survive_a_run_without_covariances(tmp_path):
    write_tum(tmp_path / "est.tum", random_trajectory(with_covariances=True))
    write_tum(tmp_path / "est.tum", random_trajectory())
    assert read_tum(tmp_path / "est.tum").covariances is None


@pytest.mark.parametrize("text, stamp", [("0.000000", 0), ("1.403715529112143517e+09", 1403715529112143517)])
def test_stamps_are_exact(text, stamp):
    assert parse_stamp(text) == stamp
    assert parse_stamp(format_stamp(stamp)) == stamp


@pytest.mark.parametrize(
    "line, message",
    [
        ("1.0 0 0 0 0 0 0", r"est\.tum:2: 7 values"),
        ("1.0 0 0 zero 0 0 0 1", r"est\.tum:2: not a number"),
        ("1.0 0 0 nan 0 0 0 1", "not finite"),
        ("1.0 0 0 0 0 0 0 0", "no rotation"),
    ],
)
def test_a_malformed_tum_file_is_refused_by_its_line(tmp_path, line, message):
    (tmp_path / "est.tum").write_text(f"# comment\n{line}\n")
    with pytest.raises(TrajectoryError, match=message):
        read_tum(tmp_path / "est.tum")


def test_poses_are_sorted_by_time_on_reading(tmp_path):
    (tmp_path / "est.tum").write_text("2.0 2 0 0 0 0 0 1\n1.0 1 0 0 0 0 0 1\n")
    np.testing.assert_array_equal(read_tum(tmp_path / "est.tum").positions[:, 0], [1, 2])


def test_association_takes_the_nearest_within_the_tolerance():
    stamps = np.array([0, 100, 200, 300], dtype=np.int64) * 1_000_000
    poses = np.tile(np.eye(4), (4, 1, 1))
    truth = Trajectory(stamps, poses)
    estimate = Trajectory(np.array([1, 98, 104, 215], dtype=np.int64) * 1_000_000, poses)
    i, j = associate(estimate, truth, tolerance=10_000_000)
    np.testing.assert_array_equal(i, [0, 1, 2])
    np.testing.assert_array_equal(j, [0, 1, 1])
    i, j = associate(estimate, truth, tolerance=20_000_000, unique=True)
    np.testing.assert_array_equal(i, [0, 1, 3])
    np.testing.assert_array_equal(j, [0, 1, 2])
    j, i = associate(truth.select([0, 1]), estimate, tolerance=20_000_000)
    np.testing.assert_array_equal(i, [0, 1])


def test_interpolation_is_exact_for_constant_velocity_and_refuses_gaps():
    angles = np.array([0.0, 0.2, 0.4])
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(angles[:, None] * [0.0, 0.6, 0.8]).as_matrix()
    poses[:, 0, 3] = [0.0, 1.0, 2.0]
    trajectory = Trajectory(np.array([0, 100, 1000]) * 1_000_000, poses)
    between = trajectory.at(25_000_000)
    np.testing.assert_allclose(between[:3, 3], [0.25, 0, 0])
    np.testing.assert_allclose(Rotation.from_matrix(between[:3, :3]).as_rotvec(), np.array([0, 0.6, 0.8]) * 0.05)
    assert trajectory.at(500_000_000) is None
    assert trajectory.at(-1) is None and trajectory.at(2_000_000_000) is None


def test_covariances_turn_with_the_world():
    trajectory = random_trajectory(with_covariances=True)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.random(random_state=8).as_matrix()
    turned = trajectory.in_frame(turn)
    direction = RNG.normal(size=3)
    rotated = turn[:3, :3] @ direction
    for block in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(
            rotated @ turned.covariances[2, block, block] @ rotated,
            direction @ trajectory.covariances[2, block, block] @ direction,
        )
