"""``fusion``: one pose to trust, its state, and the ``map -> odom`` transform."""

from __future__ import annotations

from typing import Any

from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.qos import DurabilityPolicy, QoSProfile

from robust_loc.data.messages import stamp_of
from robust_loc.errors import TrajectoryError
from robust_loc.fusion import FusionConfig, LastPose, Localization, LocalizationFilter, State
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.nodes.conversions import SECOND, estimate_of, from_pose_with_covariance
from robust_loc.nodes.extrinsics import Extrinsics
from robust_loc.nodes.fusion_config import FusionNodeConfig
from robust_loc.nodes.fusion_output import FusionOutput
from robust_loc.nodes.initial_pose import PREFIX, InitialPose, InitialPoseConfig
from robust_loc.nodes.managed_node import ManagedNode
from robust_loc.nodes.parameters import declare, read
from robust_loc.nodes.run import run
from robust_loc.types import Estimate
from robust_loc.uncertainty import CovarianceCalibration


class FusionNode(ManagedNode):
    """Feeds the filter from ``<source>/estimate``, ``odom`` and ``/initialpose``; ``FusionOutput`` publishes.

    Live, every estimate is used when it comes. In lockstep the estimates of an image are used together, the odometry's
    first, when every source has answered: the same order whatever the network does.
    """

    def __init__(self, sources: list[str] | None = None, **options: Any) -> None:
        self._given_sources = sources
        self._inputs: list[Any] = []
        self.filter: LocalizationFilter | None = None
        self.accepted = self.rejected = 0
        super().__init__(options.pop("node_name", "fusion"), (FusionNodeConfig, FusionConfig), **options)
        declare(self, InitialPoseConfig, prefix=PREFIX)
        self._start = InitialPose(self, lambda: self.filter)

    # Lifecycle

    def configure(self) -> None:
        self.settings = read(self, FusionNodeConfig)
        self.filter_config = read(self, FusionConfig)
        file = self.filter_config.calibration_file
        self._calibration = CovarianceCalibration.load(file) if file else None
        self.sources = self._given_sources or [source for source in self.settings.sources if source]
        self._last_pose = LastPose.load(self.settings.last_pose_file) if self.settings.last_pose_file else None
        self._extrinsics = Extrinsics(self, self.settings)
        self._output = FusionOutput(self, self.settings)
        self._forget()

    def activate(self) -> None:
        self._extrinsics.start()
        depth = QoSProfile(depth=50)
        if self.settings.lockstep:
            depth.durability = DurabilityPolicy.TRANSIENT_LOCAL
        subscribe = self.create_subscription
        self._inputs = [
            subscribe(EstimateMessage, f"{s}/estimate", lambda message, s=s: self._on_estimate(s, message), depth)
            for s in self.sources
        ]
        self._start.open(self.settings.set_initial_pose, self.settings.map_frame)
        if self.settings.use_odom:
            self._inputs.append(subscribe(OdometryMessage, "odom", self._on_odom, 50))

    def deactivate(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        self._start.close()

    def cleanup(self) -> None:
        if hasattr(self, "_output"):
            self._output.close()
            del self._output
        self.filter = None

    def reset(self) -> str:
        self._forget()
        return "fusion starts anew"

    def _forget(self) -> None:
        self.filter = None  # made with the extrinsics, when the first estimate names the camera's frame
        self.accepted = self.rejected = 0
        self.fix_source = ""
        self.latency = 0.0  # of the slowest estimator's answer to the newest image
        self._together: dict[int, dict[str, Estimate]] = {}
        self._saved_at = 0

    # Inputs

    def _on_estimate(self, source: str, message: EstimateMessage) -> None:
        if self.paused:
            return
        self.health.frame_received()
        estimate = estimate_of(message)
        if self.filter is None and not self._make_filter(message.child_frame_id, estimate.stamp):
            return
        if not self.settings.lockstep:
            self.latency = estimate.latency
            self._use(source, estimate)
            return
        answers = self._together.setdefault(estimate.stamp, {})
        answers[source] = estimate
        self.latency = max(answer.latency for answer in answers.values())
        if len(answers) == len(self.sources):
            del self._together[estimate.stamp]
            for name in sorted(answers, key=lambda name: (name != "odometry", name)):
                self._use(name, answers[name], publish=False)
            assert self.filter is not None
            self._publish(self.filter.localization(), estimate.stamp)

    def _use(self, source: str, estimate: Estimate, publish: bool = True) -> None:
        assert self.filter is not None
        if source == "odometry":
            localization = self.filter.predict(estimate)
        else:
            if "odometry" not in self.sources:
                self.filter.advance(estimate.stamp)
            before = self.filter.monitor.fix_stamp
            localization = self.filter.correct(estimate, source)
            if estimate.has_pose:
                used = self.filter.monitor.fix_stamp != before
                self.accepted, self.rejected = self.accepted + used, self.rejected + (not used)
                self.fix_source = source if used else self.fix_source
        if publish:
            self._publish(localization, localization.stamp)

    def _on_odom(self, message: OdometryMessage) -> None:
        if self.filter is None:
            return
        try:
            odom_T_base, _ = from_pose_with_covariance(message.pose)
        except TrajectoryError as error:
            self.complain(f"odom: {error}")
            return
        self.filter.observe_metric_odometry(stamp_of(message), odom_T_base)

    # The filter and what it says

    def _make_filter(self, camera_frame: str, stamp: int) -> bool:
        base_T_cam = self._extrinsics.lookup(camera_frame)
        if base_T_cam is None:
            return False
        self.filter = LocalizationFilter(self.filter_config, base_T_cam, self._calibration)
        self._output.camera_frame = camera_frame
        if self._last_pose is not None:
            self.filter.offer(self._last_pose, stamp)
            self.fix_source = "saved_pose"
        self._start.filter_made(stamp)
        return True

    def _publish(self, localization: Localization, stamp: int) -> None:
        assert self.filter is not None
        self._output.publish(localization, stamp, self)
        self.health.frame_answered(0.0, refused=False)
        if localization.state is State.LOST:
            self.complain(f"LOST: {localization.reason}")
        elif localization.state is State.DEGRADED:
            self.health.warn(f"DEGRADED: {localization.reason}")
        self._save(localization)

    def _save(self, localization: Localization) -> None:
        """Keep the last good pose for the next start, now and then."""
        path = self.settings.last_pose_file
        good = localization.state is State.LOCALIZED
        if not path or not good or localization.stamp - self._saved_at < self.settings.save_pose_period * SECOND:
            return
        assert localization.map_T_base is not None and localization.covariance is not None
        self._saved_at = localization.stamp
        LastPose(localization.stamp, localization.map_T_base, localization.covariance).save(path)

    def diagnostic_values(self) -> dict[str, Any]:
        if self.filter is None:
            return {}
        now = self.filter.localization()
        return {
            "localization": now.state.name,
            "reason": now.reason,
            "scale": f"{now.scale:.4g} +- {now.scale_sigma:.2g}",
            "NIS of the last fix": "none" if now.nis is None else f"{now.nis:.2f}",
            "age of the last fix [s]": "none" if now.age is None else f"{now.age:.2f}",
            "fixes used": self.accepted,
            "fixes turned down": self.rejected,
            **{f"ignored: {reason}": count for reason, count in self.filter.ignored.items()},
        }


def main(args: list[str] | None = None) -> None:
    run(FusionNode, args=args)


if __name__ == "__main__":
    main()
