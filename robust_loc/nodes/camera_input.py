"""Images and their calibration out of the topics: one ``Frame`` per image, converted once, whoever asks."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from robust_loc.data.messages import calibration_of, stamp_of
from robust_loc.errors import CameraError, RobustLocError
from robust_loc.geometry.cameras import CameraCalibration, Undistorter
from robust_loc.nodes.optional import rgb_of
from robust_loc.types import Frame


def image_qos(lockstep: bool) -> QoSProfile:
    """Sensor data: best effort, newest only. In lockstep: reliable, nothing is lost."""
    if lockstep:
        return QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
    return QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


class Lens:
    """Keeps the undistortion tables of the calibration in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._undistorter: Undistorter | None = None

    def undistorter(self, calibration: CameraCalibration) -> Undistorter:
        with self._lock:
            if self._undistorter is None or self._undistorter.calibration != calibration:
                self._undistorter = Undistorter(calibration)
            return self._undistorter


class IncomingImage:
    """An image message with its camera_info; ``frame()`` converts it at the first call, the others share the result."""

    def __init__(self, image: Any, info: CameraInfo | None, info_topic: str, lens: Lens) -> None:
        self.stamp = stamp_of(image)
        self.camera_frame = image.header.frame_id
        self.arrival = time.monotonic()
        self._image, self._info, self._info_topic, self._lens = image, info, info_topic, lens
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._error: RobustLocError | None = None

    def frame(self) -> Frame:
        """The undistorted frame; raises ImageEncodingError or CameraError."""
        with self._lock:
            if self._frame is None and self._error is None:
                try:
                    self._frame = self._convert()
                except RobustLocError as error:
                    self._error = error
                self._image = self._info = None
            if self._error is not None:
                raise self._error
            assert self._frame is not None
            return self._frame

    def _convert(self) -> Frame:
        if self._info is None:
            raise CameraError(f"no camera_info on {self._info_topic} yet")
        try:
            undistorter = self._lens.undistorter(calibration_of(self._info))
        except CameraError as error:
            raise CameraError(f"{self._info_topic}: {error}") from error
        return Frame(undistorter.image(rgb_of(self._image)), undistorter.camera, self.stamp)


class CameraInput:
    """Subscribes to ``image``, ``image/compressed`` and ``camera_info``; hands every image to ``deliver``.

    Of the raw and the compressed topic the one that speaks first is used. Live, an image goes with the calibration of
    its own stamp or else the newest; in lockstep it waits for the one of its stamp.
    """

    HELD = 100  # images or calibrations kept while their partners are awaited

    def __init__(self, node: Any, deliver: Callable[[IncomingImage], None], lockstep: bool) -> None:
        self._node = node
        self._deliver = deliver
        self._lockstep = lockstep
        self._lens = Lens()
        self._infos: collections.OrderedDict[int, CameraInfo] = collections.OrderedDict()
        self._newest: CameraInfo | None = None
        self._waiting: collections.OrderedDict[int, list[Any]] = collections.OrderedDict()
        qos = image_qos(lockstep)
        image_topic = node.resolve_topic_name("image")
        self.info_topic = node.resolve_topic_name("camera_info")
        self._images: dict[type, Any] = {
            kind: node.create_subscription(kind, topic, self._on_image, qos)
            for kind, topic in ((Image, image_topic), (CompressedImage, image_topic + "/compressed"))
        }
        self._info = node.create_subscription(CameraInfo, self.info_topic, self._on_info, qos)

    def close(self) -> None:
        for subscription in (*self._images.values(), self._info):
            self._node.destroy_subscription(subscription)
        self._images = {}

    def _on_info(self, info: CameraInfo) -> None:
        stamp = stamp_of(info)
        self._newest = info
        self._infos[stamp] = info
        while len(self._infos) > self.HELD:
            self._infos.popitem(last=False)
        for image in self._waiting.pop(stamp, []):
            self._hand_over(image, info)

    def _on_image(self, image: Any) -> None:
        for kind in [kind for kind in self._images if not isinstance(image, kind)]:
            self._node.destroy_subscription(self._images.pop(kind))
        stamp = stamp_of(image)
        info = self._infos.get(stamp)
        if info is None and self._lockstep:
            self._waiting.setdefault(stamp, []).append(image)
            if len(self._waiting) > self.HELD:  # their calibration will not come
                for late in self._waiting.popitem(last=False)[1]:
                    self._hand_over(late, None)
            return
        self._hand_over(image, info or self._newest)

    def _hand_over(self, image: Any, info: CameraInfo | None) -> None:
        self._deliver(IncomingImage(image, info, self.info_topic, self._lens))
