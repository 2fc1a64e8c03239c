"""Types go to messages and back without loss."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from rclpy.serialization import deserialize_message, serialize_message
from robust_loc.msg import Estimate as EstimateMessage
from scipy.spatial.transform import Rotation

from robust_loc.data.messages import calibration_of
from robust_loc.errors import CameraError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.nodes import conversions
from robust_loc.types import Estimate, Status

RNG = np.random.default_rng(1)


def random_pose():
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(RNG.normal(size=3)).as_matrix()
    pose[:3, 3] = RNG.normal(size=3)
    return pose


def random_covariance():
    a = RNG.normal(size=(6, 6))
    return a @ a.T + np.eye(6)


@pytest.mark.parametrize("status", list(Status))
def test_an_estimate_survives_the_wire(status):
    estimate = Estimate(
        stamp=1_700_000_000_123_456_789,
        status=status,
        reason="because",
        world_T_cam=random_pose(),
        covariance=random_covariance(),
        increment=random_pose(),
        increment_covariance=random_covariance(),
        probability=0.75,
        latency=0.05,
    )
    message = conversions.estimate_message(
        estimate, source="odometry", world_frame="w", camera_frame="c", previous_stamp=5, unscaled=True
    )
    back = conversions.estimate_of(deserialize_message(serialize_message(message), EstimateMessage))
    assert (back.stamp, back.status, back.reason) == (estimate.stamp, status, "because")
    assert back.probability == 0.75 and back.in_map_score is None and back.latency == 0.05
    for name in ("world_T_cam", "covariance", "increment", "increment_covariance"):
        np.testing.assert_allclose(getattr(back, name), getattr(estimate, name), atol=1e-12)
    assert message.previous_stamp.nanosec == 5 and message.unscaled


def test_an_estimate_without_a_pose_says_so_with_variances_of_9999():
    message = conversions.estimate_message(
        Estimate(1, Status.REFUSED, "outside"), source="relocalizer", world_frame="map", camera_frame="c"
    )
    assert not message.has_pose and not message.has_increment
    np.testing.assert_array_equal(np.array(message.pose.covariance).reshape(6, 6), np.eye(6) * 9999)
    back = conversions.estimate_of(message)
    assert not back.has_pose and back.covariance is None and back.increment is None


def test_numpy_scalars_and_float32_arrive_unchanged():
    pose = random_pose().astype(np.float32)
    message = conversions.pose_message(pose)
    assert message.position.x == float(pose[0, 3]) and type(message.position.x) is float
    with pytest.raises(ValueError, match="36"):
        conversions.covariance_list(np.eye(5))


def test_the_twist_of_an_odometry_message_is_the_motion_in_the_child_frame():
    # A camera that moves along its own z at 2 m/s and turns about its own y at 0.5 rad/s, for 0.1 s.
    increment = np.eye(4)
    increment[:3, :3] = Rotation.from_rotvec([0, 0.05, 0]).as_matrix()
    increment[:3, 3] = increment[:3, :3] @ [0, 0, 0.2]
    spread = np.diag([1.0, 2, 3, 4, 5, 6]) * 1e-4
    estimate = Estimate(1, Status.OK, "", random_pose(), np.eye(6), increment, spread)
    message = conversions.odometry_message(estimate, "w", "c", 0.1)
    assert message.twist.twist.linear.z == pytest.approx(2.0)
    assert message.twist.twist.angular.y == pytest.approx(0.5)
    covariance = np.array(message.twist.covariance).reshape(6, 6)
    assert np.trace(covariance) == pytest.approx(np.trace(spread) / 0.01)
    silent = conversions.odometry_message(estimate, "w", "c", None)
    assert silent.twist.twist.linear.z == 0 and silent.twist.covariance[0] == 9999


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", ()),
        ("plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.01)),
        ("rational_polynomial", (0.1, 0.2, 0.001, 0.002, 0.01, 0.1, 0.2, 0.3)),
        ("equidistant", (0.1, 0.01, 0.0, 0.0)),
    ],
)
def test_a_calibration_survives_camera_info(model, distortion):
    calibration = CameraCalibration(64, 48, 50.0, 51.0, 30.5, 22.5, model, distortion)
    assert calibration_of(conversions.camera_info_message(calibration, 1, "camera")) == calibration


@pytest.mark.parametrize("bad", [0.0, float("nan"), -1.0])
def test_an_uncalibrated_camera_info_is_refused(bad):
    message = conversions.camera_info_message(CameraCalibration(64, 48, 50.0, 51.0, 30.5, 22.5), 1, "camera")
    message.k[0] = bad
    with pytest.raises(CameraError):
        calibration_of(message)


def test_a_point_cloud_carries_positions_and_colours():
    points = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    cloud = conversions.point_cloud(points, np.array([[255, 128, 0], [1, 2, 3]], np.uint8), 1, "w")
    raw = np.frombuffer(cloud.data, np.uint8).reshape(2, 16)
    np.testing.assert_array_equal(raw[:, :12].copy().view("<f4"), points.astype(np.float32))
    assert raw[0, 12:].copy().view("<u4")[0] == 0xFF8000  # 0x00RRGGBB, as rviz reads it
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgb"] and cloud.width == 2
