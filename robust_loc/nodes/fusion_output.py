"""What fusion says: pose, odometry, path, state, transforms."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped, PoseWithCovarianceStamped, Vector3
from nav_msgs.msg import Odometry as OdometryMessage
from nav_msgs.msg import Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from robust_loc.fusion import Localization, State, camera_estimate
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.msg import LocalizationState
from robust_loc.nodes.conversions import (
    SECOND,
    UNKNOWN_VARIANCE,
    covariance_list,
    estimate_message,
    header,
    pose_message,
    pose_with_covariance,
    transform_message,
)
from robust_loc.nodes.fusion_config import FusionNodeConfig
from robust_loc.nodes.optional import TransformBroadcaster

LATCHED = DurabilityPolicy.TRANSIENT_LOCAL
STATES = {
    State.INITIALIZING: LocalizationState.INITIALIZING,
    State.LOCALIZED: LocalizationState.LOCALIZED,
    State.DEGRADED: LocalizationState.DEGRADED,
    State.LOST: LocalizationState.LOST,
}
COLOURS = {
    State.INITIALIZING: (0.7, 0.7, 0.7),
    State.LOCALIZED: (0.3, 0.9, 0.4),
    State.DEGRADED: (1.0, 0.7, 0.2),
    State.LOST: (1.0, 0.2, 0.2),
}


class FusionOutput:
    """Publishers of a fusion node.

    ``~/pose``, ``~/path`` and ``~/odometry`` are of ``base_frame``; ``~/estimate`` is of the camera: the estimators'
    prior, and what compares with the camera's true pose. All carry the image's time.
    """

    def __init__(self, node: Any, settings: FusionNodeConfig) -> None:
        self._node, self._settings = node, settings
        self.camera_frame = ""
        create = node.create_lifecycle_publisher
        self._pose = create(PoseWithCovarianceStamped, "~/pose", QoSProfile(depth=1, durability=LATCHED))
        self._odometry = create(OdometryMessage, "~/odometry", 10)
        self._path = create(Path, "~/path", 1)
        self._state = create(LocalizationState, "~/state", QoSProfile(depth=50, durability=LATCHED))
        self._estimate = create(EstimateMessage, "~/estimate", QoSProfile(depth=50, durability=LATCHED))
        self._text = create(Marker, "~/state_text", QoSProfile(depth=1, durability=LATCHED))
        self._broadcaster = TransformBroadcaster(node)
        if settings.publish_tf and not self._broadcaster.available:
            node.get_logger().warning("no TF is broadcast: neither tf2_ros nor tf2_msgs is installed")
        self._moves = settings.publish_odom_tf == "true" or (
            settings.publish_odom_tf == "auto" and not settings.use_odom
        )
        self._poses: deque[PoseStamped] = deque(maxlen=settings.path_length)
        self._entered: tuple[State, int] | None = None

    def close(self) -> None:
        self._node.forget_publishers(self._pose, self._odometry, self._path, self._state, self._estimate, self._text)

    def publish(self, now: Localization, stamp: int, node: Any) -> None:
        """Say ``now``, an answer to the image of ``stamp``."""
        self._state.publish(self._state_message(now, stamp, node))
        self._estimate.publish(
            estimate_message(
                replace(camera_estimate(now, stamp, node.filter.base_T_cam), latency=node.latency),
                source="fusion",
                world_frame=self._settings.map_frame,
                camera_frame=self.camera_frame,
            )
        )
        self._publish_odometry(now)
        self._text.publish(state_text(now, self._settings))
        if now.map_T_base is None or now.covariance is None:
            return
        at = header(now.stamp, self._settings.map_frame)
        pose = pose_with_covariance(now.map_T_base, now.covariance)
        self._pose.publish(PoseWithCovarianceStamped(header=at, pose=pose))
        if now.state is not State.LOST:
            self._poses.append(PoseStamped(header=at, pose=pose.pose))
            self._path.publish(Path(header=at, poses=list(self._poses)))
        self._broadcast(now)

    def _publish_odometry(self, now: Localization) -> None:
        message = OdometryMessage(
            header=header(now.stamp, self._settings.odom_frame), child_frame_id=self._settings.base_frame
        )
        message.pose.pose = pose_message(now.odom_T_base)
        # Dead reckoning: how far it has drifted since the start is not known, and never read as small.
        message.pose.covariance = message.twist.covariance = covariance_list(np.eye(6) * UNKNOWN_VARIANCE)
        linear, angular = (dict(zip("xyz", map(float, part))) for part in (now.twist[:3], now.twist[3:]))
        message.twist.twist.linear, message.twist.twist.angular = Vector3(**linear), Vector3(**angular)
        self._odometry.publish(message)

    def _broadcast(self, now: Localization) -> None:
        s, transforms = self._settings, []
        if self._moves:
            transforms.append(transform_message(now.stamp, s.odom_frame, s.base_frame, now.odom_T_base))
        if s.publish_tf and now.map_T_odom is not None and (now.state is not State.LOST or s.publish_tf_when_lost):
            ahead = now.stamp + int(s.transform_tolerance * SECOND)
            transforms.append(transform_message(ahead, s.map_frame, s.odom_frame, now.map_T_odom))
        if transforms:
            self._broadcaster.send(transforms)

    def _state_message(self, now: Localization, stamp: int, node: Any) -> LocalizationState:
        if self._entered is None or self._entered[0] is not now.state:
            self._entered = (now.state, now.stamp)
        variances = None if now.covariance is None else np.asarray(now.covariance)
        position, rotation = (
            (math.inf, math.inf)
            if variances is None
            else (float(np.sqrt(np.linalg.eigvalsh(variances[i : i + 3, i : i + 3]).max())) for i in (0, 3))
        )
        known = now.scale_sigma < now.scale
        return LocalizationState(
            header=header(stamp, self._settings.map_frame),
            state=STATES[now.state],
            reason=now.reason,
            time_in_state=max(0.0, (now.stamp - self._entered[1]) / SECOND),
            scale=float(now.scale) if known else math.nan,
            scale_stddev=float(now.scale_sigma) if known else math.nan,
            nis=math.nan if now.nis is None else float(now.nis),
            nis_dof=0 if now.nis is None else 6,
            fix_age=math.inf if now.age is None else float(now.age),
            fix_source=node.fix_source,
            position_stddev=position,
            rotation_stddev=rotation,
            fixes_accepted=int(node.accepted),
            fixes_rejected=int(node.rejected),
            tf_published=bool(
                self._broadcaster.available
                and self._settings.publish_tf
                and now.map_T_odom is not None
                and (now.state is not State.LOST or self._settings.publish_tf_when_lost)
            ),
        )


def state_text(now: Localization, settings: FusionNodeConfig) -> Marker:
    """The state over the robot, for rviz; at the map's origin while there is no pose."""
    marker = Marker(header=header(now.stamp, settings.map_frame), ns="state", type=Marker.TEXT_VIEW_FACING)
    where = np.zeros(3) if now.map_T_base is None else now.map_T_base[:3, 3]
    marker.pose.position = Point(x=float(where[0]), y=float(where[1]), z=float(where[2]) + 0.5)
    marker.scale.z = 0.2
    red, green, blue = COLOURS[now.state]
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.text = now.state.name + (f": {now.reason}" if now.reason else "")
    return marker
