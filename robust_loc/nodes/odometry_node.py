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
from robust_loc.nodes.run import run
from robust_loc.types import Estimate


@dataclass(frozen=True)
class OdometryNodeConfig(EstimatorNodeConfig):
    world_frame: str = parameter("visual_odom", "frame of the unscaled poses; not part of the robot's TF tree")
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
        if make is None or config is None:
            from robust_loc.odometry import Odometry, OdometryConfig

            make, config = Odometry, OdometryConfig
        self._make, self._config = make, config
        super().__init__("odometry", (config,), unscaled=True, **options)

    def make_estimator(self) -> Estimator:
        return self._make(read(self, self._config))

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
            points, colours = self.estimator.point_cloud()
            self._patches.publish(point_cloud(points, colours, estimate.stamp, world))


def main(args: list[str] | None = None) -> None:
    run(OdometryNode, args=args)


if __name__ == "__main__":
    main()
