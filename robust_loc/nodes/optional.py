"""What a robot's ROS distribution may have and other machines lack, guarded in this one place.

Where a package is importable it is used; elsewhere this module says what takes its place:

===================== =========================================================================
``cv_bridge``         the numpy conversions of ``robust_loc.data.images`` (same rules, tested)
``tf2_ros``           plain publishers and subscriptions of ``/tf`` and ``/tf_static``
``tf2_msgs``          no TF at all; extrinsics come from parameters
``tf_transformations`` scipy's rotations
``nav2_msgs``         no service ``set_initial_pose``; the topic ``/initialpose`` does the same
===================== =========================================================================
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robust_loc.data import messages
from robust_loc.errors import ImageEncodingError
from robust_loc.types import FloatArray


def optional_module(name: str) -> Any | None:
    """The module, or None where it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):  # AttributeError: compiled against another numpy
        return None


cv_bridge = optional_module("cv_bridge")
tf2_ros = optional_module("tf2_ros")
tf2_msgs = optional_module("tf2_msgs.msg")
nav2_msgs = optional_module("nav2_msgs.srv")
tf_transformations = optional_module("tf_transformations")

_bridge = cv_bridge.CvBridge() if cv_bridge is not None else None


def rgb_of(message: Any) -> NDArray[np.uint8]:
    """A camera image message (raw or compressed) as (height, width, 3) uint8 RGB; raises ImageEncodingError.

    The encodings are those of ``robust_loc.data.images.COLOUR_ENCODINGS``, whoever converts.
    """
    from robust_loc.data.images import COLOUR_ENCODINGS

    if _bridge is None or getattr(message, "encoding", None) not in COLOUR_ENCODINGS:
        return messages.rgb_of(message)
    try:
        return np.ascontiguousarray(_bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # CvBridgeError, and ValueError or TypeError on bytes that do not fit
        raise ImageEncodingError(f"image cannot be converted: {error}") from error


def quaternion_of(rotation: FloatArray) -> tuple[float, float, float, float]:
    """Quaternion x y z w of a rotation matrix (3, 3)."""
    if tf_transformations is not None:
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        x, y, z, w = tf_transformations.quaternion_from_matrix(matrix)
    else:
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(x), float(y), float(z), float(w)


class TransformBroadcaster:
    """Publishes moving transforms on ``/tf``; silent (``available`` is False) where there is no ``tf2_msgs``."""

    def __init__(self, node: Any) -> None:
        self._send: Any = None
        if tf2_ros is not None:
            self._send = tf2_ros.TransformBroadcaster(node).sendTransform
        elif tf2_msgs is not None:
            publisher = node.create_publisher(tf2_msgs.TFMessage, "/tf", 100)
            self._send = lambda transforms: publisher.publish(tf2_msgs.TFMessage(transforms=transforms))

    @property
    def available(self) -> bool:
        return self._send is not None

    def send(self, transforms: list[Any]) -> None:
        """``geometry_msgs/TransformStamped`` messages."""
        if self._send is not None:
            self._send(transforms)


class TransformListener:
    """Answers ``lookup(target, source)`` from ``/tf_static`` and ``/tf``, newest transform."""

    def __init__(self, node: Any) -> None:
        self._buffer: Any = None
        self._transforms: dict[str, Any] = {}  # child -> newest TransformStamped
        if tf2_ros is not None:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)
        elif tf2_msgs is not None:
            from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
            from rclpy.qos import DurabilityPolicy, QoSProfile

            group = MutuallyExclusiveCallbackGroup()  # listens while another callback waits for an answer
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            for topic, qos in (("/tf_static", latched), ("/tf", 100)):
                node.create_subscription(tf2_msgs.TFMessage, topic, self._remember, qos, callback_group=group)

    @property
    def available(self) -> bool:
        return tf2_ros is not None or tf2_msgs is not None

    def lookup(self, target: str, source: str) -> FloatArray | None:
        """``target_T_source`` (4, 4), or None where nothing joins the two frames yet."""
        if self._buffer is not None:
            from rclpy.time import Time

            try:
                found = self._buffer.lookup_transform(target, source, Time()).transform
            except tf2_ros.TransformException:
                return None
            return messages.rigid(found.translation, found.rotation)
        root_target, target_chain = self._to_root(target)
        root_source, source_chain = self._to_root(source)
        if root_target != root_source:
            return None
        return np.linalg.inv(target_chain) @ source_chain

    def _remember(self, message: Any) -> None:
        for transform in message.transforms:
            self._transforms[transform.child_frame_id.lstrip("/")] = transform

    def _to_root(self, frame: str) -> tuple[str, FloatArray]:
        """The root of ``frame``'s tree and ``root_T_frame``."""
        chain = np.eye(4)
        seen = {frame}
        while frame in self._transforms:
            stamped = self._transforms[frame]
            chain = messages.rigid(stamped.transform.translation, stamped.transform.rotation) @ chain
            frame = stamped.header.frame_id.lstrip("/")
            if frame in seen:  # a loop is no tree
                break
            seen.add(frame)
        return frame, chain
