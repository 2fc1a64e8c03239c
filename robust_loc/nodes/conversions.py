"""The package's types to ROS messages and back.

Every number goes through ``float()`` or ``int()``: rclpy does not check fields by default, and a numpy scalar or an
int in a float field arrives as garbage.
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import Odometry as OdometryMessage
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from robust_loc.data.images import raw_from_rgb
from robust_loc.data.messages import rigid
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.nodes.optional import quaternion_of
from robust_loc.types import Estimate, FloatArray, Status

SECOND = 1_000_000_000
UNKNOWN_VARIANCE = 9999.0  # the diagonal of a covariance that says nothing

STATUS_CODES = {
    Status.OK: EstimateMessage.STATUS_OK,
    Status.INITIALIZING: EstimateMessage.STATUS_INITIALIZING,
    Status.NO_MOTION: EstimateMessage.STATUS_NO_MOTION,
    Status.DEGENERATE: EstimateMessage.STATUS_DEGENERATE,
    Status.UNRELIABLE: EstimateMessage.STATUS_UNRELIABLE,
    Status.REFUSED: EstimateMessage.STATUS_REFUSED,
    Status.FAILED: EstimateMessage.STATUS_FAILED,
}
_STATUS_OF_CODE = {code: status for status, code in STATUS_CODES.items()}


def time_message(stamp: int) -> Time:
    """Integer nanoseconds (>= 0) as a message."""
    return Time(sec=int(stamp) // SECOND, nanosec=int(stamp) % SECOND)


def nanoseconds(time: Any) -> int:
    """A time (or duration) message as integer nanoseconds."""
    return int(time.sec) * SECOND + int(time.nanosec)


def header(stamp: int, frame: str) -> Header:
    return Header(stamp=time_message(stamp), frame_id=frame)


def pose_message(a_T_b: FloatArray) -> Pose:
    """A 4x4 transform as a pose."""
    x, y, z, w = quaternion_of(a_T_b[:3, :3])
    px, py, pz = (float(value) for value in a_T_b[:3, 3])
    return Pose(position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w))


def covariance_list(covariance: FloatArray) -> list[float]:
    """A 6x6 covariance as the 36 row-major numbers of a message."""
    flat = np.asarray(covariance, dtype=np.float64).reshape(-1)
    if flat.size != 36:
        raise ValueError(f"covariance has {flat.size} numbers; expected 36")
    return [float(value) for value in flat]


def pose_with_covariance(a_T_b: FloatArray | None, covariance: FloatArray | None) -> PoseWithCovariance:
    """A pose with its 6x6 covariance; without a pose, the zero pose whose variances are 9999."""
    if a_T_b is None or covariance is None:
        return PoseWithCovariance(pose=Pose(), covariance=covariance_list(np.eye(6) * UNKNOWN_VARIANCE))
    return PoseWithCovariance(pose=pose_message(a_T_b), covariance=covariance_list(covariance))


def pose_stamped(stamp: int, frame: str, a_T_b: FloatArray, covariance: FloatArray) -> PoseWithCovarianceStamped:
    return PoseWithCovarianceStamped(header=header(stamp, frame), pose=pose_with_covariance(a_T_b, covariance))


def from_pose_with_covariance(message: PoseWithCovariance) -> tuple[FloatArray, FloatArray]:
    """The 4x4 transform and 6x6 covariance of a message; raises TrajectoryError on a quaternion of norm zero."""
    covariance = np.array(message.covariance, dtype=np.float64).reshape(6, 6)
    return rigid(message.pose.position, message.pose.orientation), covariance


def transform_message(stamp: int, parent: str, child: str, parent_T_child: FloatArray) -> TransformStamped:
    x, y, z, w = quaternion_of(parent_T_child[:3, :3])
    tx, ty, tz = (float(value) for value in parent_T_child[:3, 3])
    return TransformStamped(
        header=header(stamp, parent),
        child_frame_id=child,
        transform=Transform(translation=Vector3(x=tx, y=ty, z=tz), rotation=Quaternion(x=x, y=y, z=z, w=w)),
    )


def estimate_message(
    estimate: Estimate,
    *,
    source: str,
    world_frame: str,
    camera_frame: str,
    previous_stamp: int | None = None,
    unscaled: bool = False,
) -> EstimateMessage:
    """An ``Estimate`` as ``robust_loc/Estimate``; ``previous_stamp`` is where its increment starts."""
    has_increment = estimate.increment is not None and previous_stamp is not None
    return EstimateMessage(
        header=header(estimate.stamp, world_frame),
        child_frame_id=camera_frame,
        source=source,
        status=STATUS_CODES[estimate.status],
        reason=estimate.reason,
        has_pose=estimate.has_pose,
        pose=pose_with_covariance(estimate.world_T_cam, estimate.covariance),
        has_increment=has_increment,
        previous_stamp=time_message(previous_stamp or 0),
        increment=pose_with_covariance(
            estimate.increment if has_increment else None, estimate.increment_covariance if has_increment else None
        ),
        unscaled=unscaled,
        probability=_or_nan(estimate.probability),
        in_map_score=_or_nan(estimate.in_map_score),
        latency=float(estimate.latency),
    )


def estimate_of(message: EstimateMessage) -> Estimate:
    """The ``Estimate`` that ``estimate_message`` was given."""
    pose = from_pose_with_covariance(message.pose) if message.has_pose else (None, None)
    increment = from_pose_with_covariance(message.increment) if message.has_increment else (None, None)
    return Estimate(
        stamp=nanoseconds(message.header.stamp),
        status=_STATUS_OF_CODE[message.status],
        reason=message.reason,
        world_T_cam=pose[0],
        covariance=pose[1],
        increment=increment[0],
        increment_covariance=increment[1],
        probability=None if math.isnan(message.probability) else message.probability,
        in_map_score=None if math.isnan(message.in_map_score) else message.in_map_score,
        latency=message.latency,
    )


def odometry_message(estimate: Estimate, world_frame: str, camera_frame: str, interval: float | None) -> Any:
    """``nav_msgs/Odometry`` of an estimate with a pose; the twist, in the camera, is the increment over ``interval`` s.

    Without an increment the twist is zero and its variances are 9999.
    """
    message = OdometryMessage(header=header(estimate.stamp, world_frame), child_frame_id=camera_frame)
    message.pose = pose_with_covariance(estimate.world_T_cam, estimate.covariance)
    message.twist.covariance = covariance_list(np.eye(6) * UNKNOWN_VARIANCE)
    if estimate.increment is None or estimate.increment_covariance is None or not interval or interval <= 0:
        return message
    from scipy.spatial.transform import Rotation

    rotation = estimate.increment[:3, :3]
    # Velocities of the child, expressed in it: the increment is given in the previous camera.
    linear = rotation.T @ estimate.increment[:3, 3] / interval
    angular = Rotation.from_matrix(rotation).as_rotvec() / interval
    turn = np.kron(np.eye(2), rotation.T)
    message.twist.covariance = covariance_list(turn @ estimate.increment_covariance @ turn.T / interval**2)
    message.twist.twist.linear = Vector3(**dict(zip("xyz", map(float, linear))))
    message.twist.twist.angular = Vector3(**dict(zip("xyz", map(float, angular))))
    return message


def image_message(image: NDArray[np.uint8], stamp: int, frame: str, encoding: str = "rgb8") -> Image:
    """An RGB image (height, width, 3) as ``sensor_msgs/Image``."""
    data, step = raw_from_rgb(image, encoding)
    payload = array.array("B")
    payload.frombytes(data)  # an array is taken over as it is; bytes, lists and numpy arrays are copied item by item
    return Image(
        header=header(stamp, frame),
        height=int(image.shape[0]),
        width=int(image.shape[1]),
        encoding=encoding,
        is_bigendian=0,
        step=int(step),
        data=payload,
    )


def camera_info_message(calibration: CameraCalibration, stamp: int, frame: str) -> CameraInfo:
    k = calibration.pinhole.matrix
    return CameraInfo(
        header=header(stamp, frame),
        height=int(calibration.height),
        width=int(calibration.width),
        distortion_model=calibration.distortion_model,
        d=[float(value) for value in calibration.distortion],
        k=[float(value) for value in k.ravel()],
        r=[float(value) for value in np.eye(3).ravel()],
        p=[float(value) for value in np.hstack([k, np.zeros((3, 1))]).ravel()],
    )


def point_cloud(points: FloatArray, colours: NDArray[np.uint8], stamp: int, frame: str) -> PointCloud2:
    """Points (n, 3) and their RGB colours (n, 3) uint8 as ``PointCloud2`` with fields x, y, z, rgb (rviz's packing)."""
    cloud = np.zeros(len(points), dtype=[("xyz", "<f4", 3), ("bgra", "u1", 4)])
    cloud["xyz"] = points
    cloud["bgra"][:, :3] = np.asarray(colours)[:, ::-1]
    payload = array.array("B")
    payload.frombytes(cloud.tobytes())
    names = ("x", "y", "z", "rgb")
    return PointCloud2(
        header=header(stamp, frame),
        height=1,
        width=len(points),
        fields=[PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)],
        is_bigendian=False,
        point_step=16,
        row_step=16 * len(points),
        data=payload,
        is_dense=bool(np.isfinite(points).all()),
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
