"""Where the robot starts, by a user's word: ``/initialpose``, nav2's service and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from scipy.spatial.transform import Rotation

from robust_loc.config import Config, parameter
from robust_loc.errors import TrajectoryError
from robust_loc.fusion import LocalizationFilter
from robust_loc.nodes import optional, parameters
from robust_loc.nodes.conversions import from_pose_with_covariance, nanoseconds, pose_stamped

# What nav2's own localization assumes of such a pose: 0.5 m and 15 degrees.
START_VARIANCES = np.array([0.25, 0.25, 0.25, 0.0685, 0.0685, 0.0685])
PREFIX = "initial_pose."


@dataclass(frozen=True)
class InitialPoseConfig(Config):
    """The parameters ``initial_pose.x`` and so on, used where ``set_initial_pose`` is true."""

    x: float = parameter(0.0, "of base_frame in map_frame at the start, metres")
    y: float = parameter(0.0, "likewise")
    z: float = parameter(0.0, "likewise")
    yaw: float = parameter(0.0, "heading about z, radians")


class InitialPose:
    """Gives the filter the newest pose that a user named; one that comes before the filter exists waits for it.

    Args:
        current: the node's filter, None while there is none.
    """

    def __init__(self, node: Any, current: Callable[[], LocalizationFilter | None]) -> None:
        self._node, self._current = node, current
        self._waiting: PoseWithCovarianceStamped | None = None
        self._entities: list[tuple[Callable[[Any], Any], Any]] = []

    def open(self, from_parameters: bool, map_frame: str) -> None:
        """Start to listen."""
        node = self._node
        subscription = node.create_subscription(PoseWithCovarianceStamped, "/initialpose", self.take, 10)
        self._entities = [(node.destroy_subscription, subscription)]
        if optional.nav2_msgs is not None:
            service = node.create_service(optional.nav2_msgs.SetInitialPose, "set_initial_pose", self._on_service)
            self._entities.append((node.destroy_service, service))
        if from_parameters:
            c = parameters.read(node, InitialPoseConfig, PREFIX)
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("z", c.yaw).as_matrix()
            pose[:3, 3] = c.x, c.y, c.z
            self._waiting = pose_stamped(0, map_frame, pose, np.diag(START_VARIANCES))

    def close(self) -> None:
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities = []

    def filter_made(self, stamp: int) -> None:
        """The filter exists now, from the image of ``stamp`` on: use the pose that waited for it."""
        if self._waiting is not None:
            message, self._waiting = self._waiting, None
            self.take(message, stamp)

    def take(self, message: PoseWithCovarianceStamped, stamp: int | None = None) -> None:
        """Start from the pose of ``message`` (of base_frame in map_frame), or say why not.

        Args:
            stamp: when it was true; default: the message's, or of the newest image where that is zero.
        """
        current = self._current()
        if current is None:
            self._waiting = message
            self._node.get_logger().info("initial pose waits for the first estimate")
            return
        try:
            map_T_base, covariance = from_pose_with_covariance(message.pose)
            stamp = stamp or nanoseconds(message.header.stamp) or current.localization().stamp
            current.initial_pose(stamp, map_T_base, covariance)
        except (ValueError, TrajectoryError) as error:
            self._node.complain(f"initial pose ignored: {error}")
            return
        self._node.fix_source = "initialpose"
        self._node.get_logger().info("initial pose taken")

    def _on_service(self, request: Any, response: Any) -> Any:
        self.take(request.pose)
        return response
