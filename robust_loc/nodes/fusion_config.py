"""Parameters of the fusion node beside those of its filter."""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.config import Config, parameter


@dataclass(frozen=True)
class FusionNodeConfig(Config):
    sources: list[str] = parameter(
        ["odometry", "relocalizer", "regressor"], "estimators to listen to, at <source>/estimate"
    )
    lockstep: bool = parameter(False, "replay: wait for every source's answer to an image and use them in one order")
    map_frame: str = parameter("map", "fixed frame of the map")
    odom_frame: str = parameter("odom", "smooth, drifting frame")
    base_frame: str = parameter("base_link", "the robot's frame, whose pose is published")
    base_from_camera: list[float] = parameter(
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "pose of the camera's optical frame in base_frame when TF has none: x y z [m], quaternion x y z w",
    )
    extrinsics_timeout: float = parameter(
        1.0, "seconds to wait for TF to say where the camera is before base_from_camera is used", minimum=0.0
    )
    use_odom: bool = parameter(False, "listen to a metric odometry (wheels) on 'odom'")
    publish_tf: bool = parameter(True, "broadcast map_frame -> odom_frame")
    publish_odom_tf: str = parameter(
        "auto", "broadcast odom_frame -> base_frame; auto: when use_odom is false", choices=("auto", "true", "false")
    )
    publish_tf_when_lost: bool = parameter(False, "go on broadcasting the last map_frame -> odom_frame when LOST")
    transform_tolerance: float = parameter(0.1, "seconds that map_frame -> odom_frame is dated ahead", minimum=0.0)
    path_length: int = parameter(1024, "poses kept on ~/path", minimum=1, maximum=100_000)
    set_initial_pose: bool = parameter(False, "start from the parameters initial_pose.x, .y, .z and .yaw")
    last_pose_file: str = parameter("", "file that keeps the last good pose for the next start; empty: none")
    save_pose_period: float = parameter(5.0, "seconds between writing it", minimum=0.1)
