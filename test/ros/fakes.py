"""An estimator that needs no network, and a client of the graph, for the tests of the nodes."""

import threading
import time
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from robust_loc.msg import Estimate as EstimateMessage
from sensor_msgs.msg import CameraInfo, Image

from robust_loc.config import Config, parameter
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.nodes.conversions import camera_info_message, image_message, nanoseconds
from robust_loc.types import Estimate, Status

PINHOLE = CameraCalibration(32, 24, 30.0, 30.0, 15.5, 11.5)
SECOND = 1_000_000_000


@dataclass(frozen=True)
class FakeConfig(Config):
    """Parameters of every kind that the components use."""

    step: float = parameter(0.1, "metres forward per frame", minimum=0.0, maximum=10.0)
    delay: float = parameter(0.0, "seconds of work per frame", minimum=0.0)
    patches: int = parameter(96, "a count", minimum=8, maximum=1024)
    mode: str = parameter("fast", "a choice", choices=("default", "fast", "cpu"))
    weights: str | None = parameter(None, "a file")
    threshold: float | None = parameter(None, "optional number", minimum=0.0)
    gains: tuple[float, ...] = parameter((1.0, 2.0), "a few numbers")


class FakeOdometry:
    """Walks forward by ``step`` per frame; the first frame has no answer; a black frame finds a defect in it."""

    def __init__(self, config):
        self.config = config
        self.resets = 0
        self.frames = 0

    def reset(self):
        self.resets += 1
        self.frames = 0

    def update(self, frame):
        time.sleep(self.config.delay)
        if not frame.image.any():
            raise ZeroDivisionError("black")
        self.frames += 1
        if self.frames == 1:
            return None
        pose, increment = np.eye(4), np.eye(4)
        pose[2, 3] = self.config.step * (self.frames - 1)
        increment[2, 3] = self.config.step
        covariance = np.diag([1e-4] * 3 + [1e-6] * 3)
        return Estimate(
            frame.stamp, Status.OK, "", pose, covariance * self.frames, increment, covariance, probability=0.9
        )

    def points(self):
        return np.array([[0.0, 0.0, 50.0], [0.0, 0.0, -50.0]]), np.array([self.frames, self.frames])


class Listener:
    """What a test node needs to keep messages and wait for them."""

    def begin(self):
        self.diagnostics, self.received = [], threading.Condition()
        self.listen(DiagnosticArray, "/diagnostics", self.diagnostics)

    def listen(self, kind, topic, store, qos=100):
        def keep(message):
            with self.received:
                store.append(message)
                self.received.notify_all()

        self.create_subscription(kind, topic, keep, qos)

    def wait(self, condition, timeout=60.0):
        """Wait until ``condition()``; returns whether it came true."""
        deadline = time.monotonic() + timeout
        with self.received:
            while not (result := condition()) and time.monotonic() < deadline:
                self.received.wait(0.05)
            return bool(result)

    def messages(self, level):
        return [s.message for d in self.diagnostics for s in d.status if s.level == level]

    def complains(self, text, level=b"\x02"):
        """Whether /diagnostics says ``text`` at ``level`` (ERROR) now or soon."""
        return self.wait(lambda: any(text in message for message in self.messages(level)))


class Client(Listener, Node):
    """Sends images and keeps what comes back."""

    def __init__(self, source="odometry", latched=True):
        super().__init__("client")
        self.begin()
        self.estimates = []
        self.images = self.create_publisher(Image, "image", 100)
        self.infos = self.create_publisher(CameraInfo, "camera_info", 100)
        qos = QoSProfile(depth=100)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.listen(EstimateMessage, f"/{source}/estimate", self.estimates, qos)

    def wait_for_node(self):
        ready = lambda: self.images.get_subscription_count() and self.infos.get_subscription_count()  # noqa: E731
        assert self.wait(ready), "nobody subscribed to the images"

    def send(self, stamp, calibration=PINHOLE, image=None, info=True, **changes):
        """One image (noise unless given) with its calibration; ``changes`` overwrite fields of the image message."""
        if image is None:
            size = (calibration.height, calibration.width, 3)
            image = np.random.default_rng(stamp).integers(1, 255, size, dtype=np.uint8)
        if info:
            self.infos.publish(camera_info_message(calibration, stamp, "camera"))
        message = image_message(image, stamp, "camera")
        for field, value in changes.items():
            setattr(message, field, value)
        self.images.publish(message)

    def answer(self, stamp, timeout=60.0, nth=1):
        """The nth estimate with this image stamp."""

        def found():
            return [e for e in self.estimates if nanoseconds(e.header.stamp) == stamp]

        assert self.wait(lambda: len(found()) >= nth, timeout), f"no answer to {stamp}"
        return found()[nth - 1]
