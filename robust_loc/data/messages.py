"""Fields of ROS messages to the package's types; works on rclpy and on rosbags messages, imports neither."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robust_loc.data import images
from robust_loc.errors import CameraError, TrajectoryError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import FloatArray


def stamp_of(message: Any) -> int:
    """``header.stamp`` as integer nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def calibration_of(message: Any) -> CameraCalibration:
    """A ``sensor_msgs/CameraInfo`` (either ROS) as a calibration of the published image, binning and window applied.

    Raises:
        CameraError: zero or NaN K, unknown distortion model, impossible binning.
    """
    k = np.asarray(getattr(message, "k", getattr(message, "K", None)), dtype=np.float64)
    d = tuple(float(value) for value in getattr(message, "d", getattr(message, "D", ())))
    model = str(message.distortion_model)
    if not any(d) and model != "equidistant":  # an ideal pinhole, whatever the model is called
        model, d = "plumb_bob", ()
    roi = message.roi
    window = (int(roi.width) or int(message.width), int(roi.height) or int(message.height))
    bx, by = int(message.binning_x) or 1, int(message.binning_y) or 1
    if k.size != 9:
        raise CameraError(f"camera_info has a K of {k.size} numbers; expected 9")
    return CameraCalibration(
        window[0] // bx,
        window[1] // by,
        float(k[0]) / bx,
        float(k[4]) / by,
        (float(k[2]) - int(roi.x_offset)) / bx,
        (float(k[5]) - int(roi.y_offset)) / by,
        model,
        d,
    )


def rgb_of(message: Any) -> NDArray[np.uint8]:
    """A ``sensor_msgs/Image`` or ``CompressedImage`` as (height, width, 3) uint8 RGB; raises ImageEncodingError."""
    if hasattr(message, "encoding"):
        return images.rgb_from_raw(
            message.height, message.width, message.encoding, message.step, message.is_bigendian, message.data
        )
    return images.rgb_from_compressed(message.data)


def depth_of(message: Any, units_per_metre: float = images.MILLIMETRES) -> NDArray[np.float32]:
    """A depth ``Image`` or ``CompressedImage`` as (height, width) float32 metres; raises ImageEncodingError."""
    if hasattr(message, "encoding"):
        return images.depth_from_raw(
            message.height,
            message.width,
            message.encoding,
            message.step,
            message.is_bigendian,
            message.data,
            units_per_metre,
        )
    return images.depth_from_compressed(message.data, message.format, units_per_metre)


def rigid(translation: Any, rotation: Any) -> FloatArray:
    """A ROS translation (or point) and quaternion as a 4x4 transform.

    Raises:
        TrajectoryError: a zero quaternion, or a number that is not finite.
    """
    quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    if not np.all(np.isfinite(quaternion)) or np.linalg.norm(quaternion) < 1e-6:
        raise TrajectoryError(f"the quaternion {quaternion} is no rotation")
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    pose[:3, 3] = [translation.x, translation.y, translation.z]
    if not np.all(np.isfinite(pose)):
        raise TrajectoryError(f"the position {pose[:3, 3]} is not finite")
    return pose


def pose_of(message: Any) -> tuple[FloatArray, FloatArray | None]:
    """The 4x4 transform and, where it is filled, the 6x6 covariance of a stamped pose, odometry or transform."""
    if hasattr(message, "transform"):
        return rigid(message.transform.translation, message.transform.rotation), None
    pose = message.pose
    covariance = None
    if hasattr(pose, "covariance"):
        matrix = np.asarray(pose.covariance, dtype=np.float64).reshape(6, 6)
        covariance = matrix if np.any(matrix) else None  # all zeros is how ROS says "unknown"
        pose = pose.pose
    return rigid(pose.position, pose.orientation), covariance
