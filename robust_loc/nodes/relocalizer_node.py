"""``relocalizer``: the camera's pose in a map, from single images."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from robust_loc.config import Config, parameter
from robust_loc.errors import MapFormatError, RobustLocError
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.nodes.absolute_node import AbsoluteNode
from robust_loc.nodes.attempt import Attempt
from robust_loc.nodes.contract import Estimator, EstimatorNodeConfig
from robust_loc.nodes.conversions import SECOND, estimate_of, point_cloud
from robust_loc.nodes.parameters import read
from robust_loc.nodes.run import run
from robust_loc.srv import LoadMap, SaveMap
from robust_loc.types import Estimate, Frame


@dataclass(frozen=True)
class RelocalizerNodeConfig(EstimatorNodeConfig):
    map: str = parameter("", "map folder, made by 'robust-loc map'")
    features: str = parameter(
        "handmade", "descriptors of the map: 'handmade', 'compact', a weights file, or 'COARSE.ckpt,FINE.ckpt'"
    )
    device: str = parameter("cpu", "torch device of learned features")
    prior: str = parameter("fusion/estimate", "topic of the predicted camera pose; empty: search the whole map always")
    prior_age: float = parameter(1.0, "seconds after which a prior is not used any more", minimum=0.0)
    attempt_timeout: float = parameter(15.0, "seconds that ~/relocalize waits for an attempt", minimum=0.1)


class RelocalizerNode(AbsoluteNode):
    """Relocalizes the newest image over and over; ``~/relocalize`` asks for one search without a prior.

    Args:
        load: makes the estimator from a map's path, the node's settings and the estimator's configuration.
        config: the estimator's configuration class.
    """

    settings_type = RelocalizerNodeConfig

    def __init__(
        self,
        load: Callable[[str, RelocalizerNodeConfig, Any], Estimator] | None = None,
        config: type[Config] | None = None,
        **options: Any,
    ) -> None:
        if load is None or config is None:
            from robust_loc.relocalization import RelocalizerConfig

            load, config = _load, RelocalizerConfig
        self._load, self._config = load, config
        self._prior: Estimate | None = None
        self._prior_arrived = threading.Condition()
        self._wanted: Attempt | None = None
        self._last_stamp: int | None = None
        super().__init__("relocalizer", (config,), **options)
        self.create_slow_service(Trigger, "~/relocalize", self._on_relocalize)
        self.create_slow_service(LoadMap, "~/load_map", self._on_load_map)
        self.create_slow_service(SaveMap, "~/save_map", self._on_save_map)

    def make_estimator(self) -> Estimator:
        if not self.settings.map:
            raise MapFormatError("no map: set the parameter 'map' to a folder made by 'robust-loc map'")
        return self._load(self.settings.map, self.settings, read(self, self._config))

    def configure(self) -> None:
        super().configure()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._map_points = self.create_lifecycle_publisher(PointCloud2, "~/map_points", latched)

    def cleanup(self) -> None:
        if self.estimator is not None:
            self.forget_publishers(self._map_points)
        super().cleanup()

    def activate(self) -> None:
        super().activate()
        self._show_map()
        self._priors = None
        if self.settings.prior:
            self._priors = self.create_subscription(EstimateMessage, self.settings.prior, self._on_prior, 10)

    def deactivate(self) -> None:
        if getattr(self, "_priors", None) is not None:
            self.destroy_subscription(self._priors)
            self._priors = None
        super().deactivate()

    def _show_map(self) -> None:
        """Publish the map's points, for rviz."""
        used = getattr(self.estimator, "map", None)
        if used is not None:
            points = np.asarray(used.arrays["points"], float)
            grey = np.full(points.shape, 200, np.uint8)
            self._map_points.publish(point_cloud(points, grey, 0, self.settings.world_frame))

    # Images

    def ask(self, frame: Frame) -> Estimate | None:
        attempt, self._wanted = self._wanted, None
        prior = None if attempt is not None else self._prior_for(frame.stamp)
        estimate: Estimate | None = None
        try:
            estimate = self.estimator.update(frame, prior) if prior else self.estimator.update(frame)
        finally:
            self._last_stamp = frame.stamp
            if attempt is not None:
                attempt.finish(estimate)
        return estimate

    def _on_prior(self, message: EstimateMessage) -> None:
        with self._prior_arrived:
            self._prior = estimate_of(message)
            self._prior_arrived.notify_all()

    def _prior_for(self, stamp: int) -> Estimate | None:
        """The newest usable prior; in lockstep that of the image before, so that a replay always takes the same."""
        if self.settings.lockstep and self._priors is not None and self.count_publishers(self.settings.prior):
            last = self._last_stamp
            with self._prior_arrived:
                self._prior_arrived.wait_for(lambda: last is None or (self._prior and self._prior.stamp >= last), 5.0)
        prior = self._prior
        if prior is None or not prior.has_pose or abs(stamp - prior.stamp) > self.settings.prior_age * SECOND:
            return None
        return prior

    # Services

    def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.is_active or self.paused:
            response.message = "not running: activate or resume the node first"
            return response
        attempt = self._wanted = Attempt()
        response.success, response.message = attempt.wait(self.settings.attempt_timeout)
        return response

    def _on_load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> LoadMap.Response:
        try:
            if self.estimator is None:
                raise MapFormatError("the node is not configured; set its parameter 'map' and configure it")
            self.exchange(self._load(request.path, self.settings, read(self, self._config)))
            self._show_map()
            response.success, response.message = True, f"loaded {request.path}"
        except (RobustLocError, OSError) as error:
            response.message = f"{error}; the map in use stays"
        used = getattr(self.estimator, "map", None)
        if used is not None:
            response.keyframes, response.points = int(used.keyframes), len(used)
            response.bytes = int(sum(array.nbytes for array in used.arrays.values()))
        return response

    def _on_save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> SaveMap.Response:
        used, path = getattr(self.estimator, "map", None), Path(request.path).expanduser().absolute()
        try:
            if used is None:
                raise MapFormatError("there is no map in use")
            if path.exists() and not request.overwrite:
                raise MapFormatError(f"{path} exists; set 'overwrite' or choose another name")
            used.save(path)
            response.bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            response.success, response.message = True, str(path)
        except (RobustLocError, OSError) as error:
            response.message = str(error)
        return response


def _load(path: str, settings: RelocalizerNodeConfig, config: Any) -> Estimator:
    from robust_loc.features import load_features
    from robust_loc.relocalization import Map, Relocalizer

    return Relocalizer(Map.load(path), load_features(settings.features, settings.device), config)


def main(args: list[str] | None = None) -> None:
    run(RelocalizerNode, args=args, threads=3)


if __name__ == "__main__":
    main()
