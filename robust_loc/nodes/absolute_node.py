"""What the nodes of relocalizer and regressor share: a pose in the map, published when there is one."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from robust_loc.nodes.contract import Estimator
from robust_loc.nodes.conversions import pose_stamped
from robust_loc.nodes.estimator_node import EstimatorNode
from robust_loc.types import Estimate


class AbsoluteNode(EstimatorNode):
    """Publishes ``~/pose`` of the camera in the map, silent where the estimator refuses to answer."""

    def configure(self) -> None:
        super().configure()
        self._pose = self.create_lifecycle_publisher(PoseWithCovarianceStamped, "~/pose", 10)

    def cleanup(self) -> None:
        if self.estimator is not None:
            self.forget_publishers(self._pose)
        super().cleanup()

    def publish(self, estimate: Estimate, camera_frame: str, previous_stamp: int | None) -> None:
        if estimate.world_T_cam is not None and estimate.covariance is not None:
            self._pose.publish(
                pose_stamped(estimate.stamp, self.settings.world_frame, estimate.world_T_cam, estimate.covariance)
            )

    def exchange(self, estimator: Estimator) -> None:
        """Use another estimator from the next image on."""
        with self._busy:
            self.estimator = estimator

    def create_slow_service(self, kind: Any, name: str, callback: Any) -> Any:
        """A service whose callback may take long: images go on being received meanwhile."""
        return self.create_service(kind, name, callback, callback_group=MutuallyExclusiveCallbackGroup())
