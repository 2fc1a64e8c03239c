"""The node around any estimator: images in, one ``~/estimate`` per image worked on out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile

from robust_loc.config import Config
from robust_loc.errors import RobustLocError
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.nodes.camera_input import CameraInput, IncomingImage
from robust_loc.nodes.contract import Estimator, EstimatorNodeConfig
from robust_loc.nodes.conversions import estimate_message
from robust_loc.nodes.managed_node import ManagedNode
from robust_loc.nodes.parameters import read
from robust_loc.nodes.stream import FrameRefused, StreamBroken, StreamGuard
from robust_loc.nodes.worker import Worker
from robust_loc.types import Estimate, Frame, Status


class EstimatorNode(ManagedNode):
    """Drives an estimator from the camera topics.

    A node class says how to make its estimator (``make_estimator``) and may publish more of each answer (``publish``).

    Args:
        source: name of the estimator in its messages, and default node name.
        configs: dataclasses whose fields become parameters, beside the node's own.
        unscaled: the estimates' lengths have no unit.
    """

    settings_type: type[EstimatorNodeConfig] = EstimatorNodeConfig

    def __init__(self, source: str, configs: tuple[type[Config], ...] = (), unscaled: bool = False, **options: Any):
        self.source = source
        self.unscaled = unscaled
        self.estimator: Estimator | None = None
        self.camera: EstimatorNode | None = None  # the node whose camera topics this one shares
        self.listeners: list[Callable[[IncomingImage], None]] = []
        self._worker: Worker[IncomingImage] | None = None
        self._camera: CameraInput | None = None
        self._busy = threading.Lock()  # the estimator is used by one thread at a time
        self._guard = StreamGuard()
        self._last_pose_stamp: int | None = None
        self._last_arrival = time.monotonic()
        options.setdefault("node_name", source)
        super().__init__(options.pop("node_name"), (self.settings_type, *configs), **options)

    def make_estimator(self) -> Estimator:
        """Load the estimator; raises a RobustLocError."""
        raise NotImplementedError

    def ask(self, frame: Frame) -> Estimate | None:
        """The estimator's answer; runs on the worker's thread, one frame at a time."""
        assert self.estimator is not None
        return self.estimator.update(frame)

    def publish(self, estimate: Estimate, camera_frame: str, previous_stamp: int | None) -> None:
        """Publish what goes beyond ``~/estimate``; ``previous_stamp`` is where the increment starts."""

    # Lifecycle

    def configure(self) -> None:
        self.settings = read(self, self.settings_type)
        self.estimator = self.make_estimator()
        self._guard = StreamGuard(jump=self.settings.time_jump)
        self._last_pose_stamp = None
        # In lockstep a player that is still discovering this topic must not miss the first answers.
        durability = DurabilityPolicy.TRANSIENT_LOCAL if self.settings.lockstep else DurabilityPolicy.VOLATILE
        self._estimates = self.create_lifecycle_publisher(
            EstimateMessage, "~/estimate", QoSProfile(depth=50, durability=durability)
        )

    def activate(self) -> None:
        self._last_arrival = time.monotonic()
        self._worker = Worker(
            self._answer, lambda _: self.health.frame_dropped(), keep_all=self.settings.lockstep, name=self.source
        )
        if self.camera is None:
            self._camera = CameraInput(self, self.pass_on, self.settings.lockstep)
        else:
            self.camera.listeners.append(self.offer)

    def deactivate(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        if self.camera is not None and self.offer in self.camera.listeners:
            self.camera.listeners.remove(self.offer)
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def cleanup(self) -> None:
        if self.estimator is None:
            return
        self.estimator = None
        self.forget_publishers(self._estimates)
        give_memory_back()

    def reset(self) -> str:
        with self._busy:
            self._reset_estimator()
            self._guard.forget()
        return f"{self.source} reset"

    def report(self) -> None:
        silence = time.monotonic() - self._last_arrival
        if self.is_active and not self.paused and silence > self.settings.stale_after:
            self.health.warn(f"no image on {self.resolve_topic_name('image')} for {silence:.1f} s")
        super().report()

    # Images

    def pass_on(self, image: IncomingImage) -> None:
        """Give an image of this node's topics to this node and to those of the process that share its camera."""
        self.offer(image)
        for listener in self.listeners:
            listener(image)

    def offer(self, image: IncomingImage) -> None:
        """Take an image; returns at once."""
        self._last_arrival = time.monotonic()
        worker = self._worker
        if worker is None or (self.paused and not self.settings.lockstep):
            return
        self.health.frame_received()
        worker.offer(image)

    def _answer(self, image: IncomingImage) -> None:
        """Runs on the worker's thread; every image that reaches it is answered, whatever is wrong with it."""
        started = time.monotonic()
        refused = True
        with self._busy:
            try:
                estimate = self._estimate(image)
                refused = False
            except RobustLocError as error:
                self.complain(str(error))
                estimate = Estimate(image.stamp, Status.FAILED, str(error))
            except Exception as error:  # a defect must not silence the node: say it, start anew, go on
                self.get_logger().error(traceback.format_exc())
                self.complain(f"{self.source} failed and starts anew: {type(error).__name__}: {error}")
                self._reset_estimator()
                estimate = Estimate(image.stamp, Status.FAILED, f"{type(error).__name__}: {error}")
            previous, self._last_pose_stamp = (
                self._last_pose_stamp,
                (estimate.stamp if estimate.has_pose else self._last_pose_stamp),
            )
        if not estimate.latency:
            estimate = replace(estimate, latency=time.monotonic() - started)
        self.health.frame_answered(time.monotonic() - image.arrival, refused)
        if not self.context.ok():
            return
        self._estimates.publish(
            estimate_message(
                estimate,
                source=self.source,
                world_frame=self.settings.world_frame,
                camera_frame=image.camera_frame,
                previous_stamp=previous,
                unscaled=self.unscaled,
            )
        )
        self.publish(estimate, image.camera_frame, previous)

    def _estimate(self, image: IncomingImage) -> Estimate:
        assert self.estimator is not None
        if self.paused:
            raise FrameRefused("paused")
        try:
            self._guard.check_stamp(image.stamp)
        except StreamBroken as broken:
            self.complain(str(broken))
            self._reset_estimator()
        frame = image.frame()
        try:
            self._guard.check_frame(frame)
        except StreamBroken as broken:
            self.complain(str(broken))
            self._reset_estimator()
        estimate = self.ask(frame)
        return estimate or Estimate(image.stamp, Status.INITIALIZING, "collecting images")

    def _reset_estimator(self) -> None:
        if self.estimator is not None:
            self.estimator.reset()
        self._last_pose_stamp = None


def give_memory_back() -> None:
    """Return what a dropped estimator held: cycles first, then the pages that the allocators keep for themselves."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
