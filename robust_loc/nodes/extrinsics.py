"""Where the camera sits on the robot: from TF, or from a parameter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.errors import ConfigurationError
from robust_loc.nodes.fusion_config import FusionNodeConfig
from robust_loc.nodes.optional import TransformListener
from robust_loc.types import FloatArray


class Extrinsics:
    """``base_T_cam``: TF's answer, else after a while the parameter ``base_from_camera``.

    Raises:
        ConfigurationError: the parameter is not seven finite numbers with a quaternion of some length.
    """

    def __init__(self, node: Any, settings: FusionNodeConfig) -> None:
        self._node = node
        self._settings = settings
        numbers = np.array(settings.base_from_camera, dtype=float)
        if numbers.shape != (7,) or not np.isfinite(numbers).all() or np.linalg.norm(numbers[3:]) < 1e-6:
            raise ConfigurationError(
                f"base_from_camera is {settings.base_from_camera}; expected x y z and a quaternion x y z w"
            )
        self._fallback = np.eye(4)
        self._fallback[:3, :3] = Rotation.from_quat(numbers[3:]).as_matrix()
        self._fallback[:3, 3] = numbers[:3]
        self._listener = TransformListener(node)
        self._started = 0.0

    def start(self) -> None:
        """Begin to wait for TF."""
        self._started = time.monotonic()

    def lookup(self, camera_frame: str) -> FloatArray | None:
        """``base_T_cam`` (4, 4), or None while TF is being waited for."""
        base = self._settings.base_frame
        if camera_frame == base:
            return np.eye(4)
        heard = self._listener.available and self._others_broadcast()
        deadline = self._started + self._settings.extrinsics_timeout
        if self._settings.lockstep:  # an image must be answered: wait here instead of leaving it out
            deadline = time.monotonic() + self._settings.extrinsics_timeout
        while True:
            found = self._listener.lookup(base, camera_frame)
            if found is not None:
                return found
            if not heard or time.monotonic() > deadline:
                break
            if not self._settings.lockstep:
                return None
            time.sleep(0.02)
        self._node.get_logger().warning(
            f"TF does not join {base} and {camera_frame}; the parameter base_from_camera is used"
        )
        return self._fallback

    def _others_broadcast(self) -> bool:
        """Whether anybody but this node publishes transforms."""
        topics = ("/tf", "/tf_static")
        publishers = [info for topic in topics for info in self._node.get_publishers_info_by_topic(topic)]
        return any(info.node_name != self._node.get_name() for info in publishers)
