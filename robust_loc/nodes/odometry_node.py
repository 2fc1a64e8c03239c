"""``odometry_node``: visual odometry of one camera, up to scale, every frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry as OdometryMessage
from sensor_msgs.msg import PointCloud2

from robust_loc.config import Config, parameter
from robust_loc.nodes.contract import Estimator, EstimatorNodeConfig
from robust_loc.nodes.conversions import SECOND, odometry_message, point_cloud
from robust_loc.nodes.estimator_node import EstimatorNode
from robust_loc.nodes.parameters import read
from robust_loc.nodes.patch_cloud import PatchCloud
from robust_loc.nodes.run import run
from robust_loc.types import Estimate, Frame


@dataclass(frozen=True)
class OdometryNodeConfig(EstimatorNodeConfig):
    world_frame: str = parameter("visual_odom", "frame of the unscaled poses; not part of the robot's TF tree")
    preset: str = parameter(
        "default", "defaults of the tracker's parameters, read at start", choices=("default", "fast", "cpu")
    )
    weights: str = parameter("", "network weights (.safetensors or the published .pth); empty: the package's own")
    publish_patches: bool = parameter(True, "publish the tracked 3D patches when somebody listens")


class OdometryNode(EstimatorNode):
    """Publishes ``~/estimate``, ``~/odometry`` (unscaled, accumulated) and ``~/patches``; no TF: fusion does that.

    Args:
        make: makes the estimator from its configuration (default: ``robust_loc.odometry.Odometry``).
        config: the estimator's configuration class.
    """

    settings_type = OdometryNodeConfig

    def __init__(
        self, make: Callable[[Any], Estimator] | None = None, config: type[Config] | None = None, **options: Any
    ) -> None:
        if config is None:
            from robust_loc.odometry import OdometryConfig

            config = OdometryConfig
        self._make, self._config = make or self._load, config
        self._cloud = PatchCloud()
        self._frame: Frame | None = None
        super().__init__("odometry", (config,), unscaled=True, **options)

    def defaults(self, config: type[Config]) -> Config | None:
        """The preset's values; a robot needs no trajectory at the end."""
        if hasattr(config, "preset") and config is self._config:
            made: Config = config.preset(self.get_parameter("preset").value, keep_trajectory=False)
            return made
        return None

    def make_estimator(self) -> Estimator:
        return self._make(read(self, self._config))

    def _load(self, config: Any) -> Estimator:
        from robust_loc.odometry import Odometry, PatchNetwork

        weights = self.settings.weights
        return Odometry(config, PatchNetwork.from_checkpoint(weights) if weights else None)

    def ask(self, frame: Frame) -> Estimate | None:
        self._frame = frame
        return super().ask(frame)

    def configure(self) -> None:
        super().configure()
        self._odometry = self.create_lifecycle_publisher(OdometryMessage, "~/odometry", 10)
        self._patches = self.create_lifecycle_publisher(PointCloud2, "~/patches", 2)

    def cleanup(self) -> None:
        if self.estimator is not None:
            self.forget_publishers(self._odometry, self._patches)
        super().cleanup()

    def publish(self, estimate: Estimate, camera_frame: str, previous_stamp: int | None) -> None:
        if not estimate.has_pose:
            return
        world = self.settings.world_frame
        interval = None if previous_stamp is None else (estimate.stamp - previous_stamp) / SECOND
        self._odometry.publish(odometry_message(estimate, world, camera_frame, interval))
        if self.settings.publish_patches and self._patches.get_subscription_count():
            points, numbers = self.estimator.points()
            colours = self._cloud.colours(points, numbers, self._frame, estimate.world_T_cam)
            self._patches.publish(point_cloud(points, colours, estimate.stamp, world))


def main(args: list[str] | None = None) -> None:
    run(OdometryNode, args=args)


if __name__ == "__main__":
    main()
