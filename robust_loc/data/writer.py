"""Write a recording: rosbag2 with images, camera_info, depth, ground truth and tf."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.data import images
from robust_loc.errors import BagError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import FloatArray, Frame

CAMERA_FRAME = "camera_optical_frame"
GROUND_TRUTH_FRAME = "camera_optical_frame_gt"  # a name of its own, so that replay cannot disturb an estimator's tree
WORLD_FRAME = "world"

IMAGE_TOPIC = "/camera/image_raw"
CAMERA_INFO_TOPIC = "/camera/camera_info"
DEPTH_TOPIC = "/camera/depth/image_raw"
GROUND_TRUTH_TOPIC = "/ground_truth/pose"


class BagWriter:
    """Writes one camera's recording; use it as a context manager.

    ``path`` ending in ``.mcap`` or ``.db3`` becomes one such file, any other name a rosbag2 folder (mcap). The
    recording appears under its name only when it is complete; after an exception nothing is left behind.

    Args:
        calibration: published as camera_info with every image, distortion included.
        overwrite: replace an existing recording instead of refusing.

    Raises:
        BagError: the path exists and ``overwrite`` is not set.
    """

    def __init__(self, path: str | Path, calibration: CameraCalibration, overwrite: bool = False) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path} exists; remove it or choose another name")
        self.calibration = calibration
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._types = self._store.types
        self._connections: dict[str, Any] = {}
        self._camera_info = _camera_info(self._types, calibration)

    def __enter__(self) -> BagWriter:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        plugin = StoragePlugin.SQLITE3 if self.path.suffix == ".db3" else StoragePlugin.MCAP
        self._writer = Writer(self._folder / (self.path.stem or "bag"), version=9, storage_plugin=plugin)
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            written = self._folder / (self.path.stem or "bag")
            if self.path.suffix in (".mcap", ".db3"):
                written = next(written.glob(f"*{self.path.suffix}"))
            if self.path.is_dir():
                shutil.rmtree(self.path)
            os.replace(written, self.path)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def write_image(self, stamp: int, encoded: bytes, kind: str, received: int | None = None) -> None:
        """One camera image as encoded bytes, unchanged (``kind`` is "jpeg" or "png"), and its camera_info before it.

        ``received`` is the recorder's clock (ns), by which a recording is ordered; the image's stamp where None.
        """
        received = stamp if received is None else received
        info = self._camera_info
        info.header = self._header(stamp, CAMERA_FRAME)
        self._write(CAMERA_INFO_TOPIC, info, received)
        message = self._types["sensor_msgs/msg/CompressedImage"](
            header=info.header, format=kind, data=np.frombuffer(encoded, np.uint8)
        )
        self._write(IMAGE_TOPIC + "/compressed", message, received)

    def write_depth(self, stamp: int, encoded: bytes) -> None:
        """One depth image as the bytes of a 16-bit PNG in millimetres (REP 118)."""
        message = self._types["sensor_msgs/msg/CompressedImage"](
            header=self._header(stamp, CAMERA_FRAME),
            format="16UC1; png compressed ",
            data=np.frombuffer(encoded, np.uint8),
        )
        self._write(DEPTH_TOPIC + "/compressed", message, stamp)

    def write_pose(self, stamp: int, world_T_cam: FloatArray) -> None:
        """The camera's true pose (4x4): on the ground-truth topic and on tf."""
        t, header = self._types, self._header(stamp, WORLD_FRAME)
        x, y, z = (float(value) for value in world_T_cam[:3, 3])
        rotation = t["geometry_msgs/msg/Quaternion"](*map(float, Rotation.from_matrix(world_T_cam[:3, :3]).as_quat()))
        pose = t["geometry_msgs/msg/Pose"](position=t["geometry_msgs/msg/Point"](x, y, z), orientation=rotation)
        self._write(GROUND_TRUTH_TOPIC, t["geometry_msgs/msg/PoseStamped"](header=header, pose=pose), stamp)
        transform = t["geometry_msgs/msg/Transform"](
            translation=t["geometry_msgs/msg/Vector3"](x, y, z), rotation=rotation
        )
        stamped = t["geometry_msgs/msg/TransformStamped"](
            header=header, child_frame_id=GROUND_TRUTH_FRAME, transform=transform
        )
        self._write("/tf", t["tf2_msgs/msg/TFMessage"](transforms=[stamped]), stamp)

    def write_frame(self, frame: Frame, quality: int = 95) -> None:
        """A frame with whatever it carries; the image as JPEG of ``quality``, or as PNG where ``quality`` is 0.

        A frame is undistorted: the writer's calibration should be the frame's pinhole.
        """
        jpeg = quality > 0
        encoded = images.rgb_jpeg(frame.image, quality) if jpeg else images.rgb_png(frame.image)
        self.write_image(frame.stamp, encoded, "jpeg" if jpeg else "png")
        if frame.depth is not None:
            self.write_depth(frame.stamp, images.depth_png(frame.depth))
        if frame.world_T_cam is not None:
            self.write_pose(frame.stamp, frame.world_T_cam)

    def write_raw_image(self, stamp: int, height: int, width: int, encoding: str, step: int, data: bytes) -> None:
        """One uncompressed camera image on the raw topic, with its camera_info before it."""
        info = self._camera_info
        info.header = self._header(stamp, CAMERA_FRAME)
        self._write(CAMERA_INFO_TOPIC, info, stamp)
        message = self._types["sensor_msgs/msg/Image"](
            header=info.header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=step,
            data=np.frombuffer(data, np.uint8),
        )
        self._write(IMAGE_TOPIC, message, stamp)

    def _header(self, stamp: int, frame: str) -> Any:
        time = self._types["builtin_interfaces/msg/Time"](sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)
        return self._types["std_msgs/msg/Header"](stamp=time, frame_id=frame)

    def _write(self, topic: str, message: Any, stamp: int) -> None:
        msgtype = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=self._store)
        self._writer.write(self._connections[topic], stamp, self._store.serialize_cdr(message, msgtype))


def _camera_info(types: Any, calibration: CameraCalibration) -> Any:
    k = calibration.pinhole.matrix
    return types["sensor_msgs/msg/CameraInfo"](
        header=None,
        height=calibration.height,
        width=calibration.width,
        distortion_model=calibration.distortion_model,
        d=np.array(calibration.distortion or (0.0,) * 5, dtype=np.float64),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )
