"""``bag_player``: plays a recording into the graph with ``/clock``, at a rate or in lockstep with its listeners."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tqdm import tqdm

from robust_loc.config import Config, parameter
from robust_loc.data import open_bag
from robust_loc.errors import BagError
from robust_loc.nodes import parameters
from robust_loc.nodes.camera_input import image_qos
from robust_loc.nodes.conversions import SECOND, time_message
from robust_loc.nodes.lockstep import Answers
from robust_loc.nodes.recorded import Recorded, message_class, recorded_messages
from robust_loc.nodes.recorder import Recorder
from robust_loc.nodes.run import run_job


@dataclass(frozen=True)
class BagPlayerConfig(Config):
    bag: Path = parameter(Path(), "recording: bag folder, .mcap, .db3 or ROS 1 .bag")
    image_topic: str | None = parameter(None, "camera topic in the recording; empty: the only one")
    topics: list[str] = parameter([""], "further topics to play under their own names (tf is always played)")
    from_frame: int = parameter(0, "first image to play", minimum=0)
    until_frame: int = parameter(0, "image to stop before; 0: play to the end", minimum=0)
    rate: float = parameter(1.0, "speed, 1: as recorded; 0: as fast as it goes", minimum=0.0, maximum=1000.0)
    lockstep: bool = parameter(False, "wait after every image until each topic of 'answers' has answered it")
    answers: list[str] = parameter(
        ["odometry/estimate"], "topics that answer images, with the image's header stamp: awaited in lockstep, recorded"
    )
    results: str = parameter("", "folder to record the answers in, for 'robust-loc evaluate'; empty: none")
    answer_timeout: float = parameter(60.0, "lockstep: seconds until a missing answer ends the replay", minimum=0.1)
    wait: float = parameter(30.0, "seconds to wait for somebody to listen to the images", minimum=0.0)
    start_delay: float = parameter(0.0, "seconds to let others start before listeners are looked for", minimum=0.0)
    clock_rate: float = parameter(100.0, "messages per second on /clock between images", minimum=1.0, maximum=1000.0)
    loop: bool = parameter(False, "start again at the end")


class BagPlayer(Node):
    """Publishes ``image`` (or ``image/compressed``), ``camera_info`` with the image's stamp, tf and ``/clock``.

    Messages keep the stamps they were recorded with; images and calibrations are sent as they are, good or bad.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("bag_player", **options)
        parameters.declare(self, BagPlayerConfig)
        self.config = parameters.read(self, BagPlayerConfig)
        if self.config.bag == Path():
            raise BagError("bag_player needs the parameter 'bag' (-p bag:=RECORDING)")
        self.bag = open_bag(self.config.bag, self.config.image_topic)
        compressed = self.bag.topics[self.bag.image_topic].msgtype.endswith("CompressedImage")
        qos = image_qos(self.config.lockstep)
        topic = self.resolve_topic_name("image")
        self._image = self.create_publisher(
            CompressedImage if compressed else Image, topic + ("/compressed" if compressed else ""), qos
        )
        self._info = self.create_publisher(CameraInfo, "camera_info", qos)
        self._ticks = self.create_publisher(Clock, "/clock", 10)
        self._others = self._other_publishers()
        played = (self.config.from_frame, self.config.until_frame or None)
        self._recorder = Recorder(Path(self.config.results), self.bag.path, played) if self.config.results else None
        keep = self._recorder.keep if self._recorder else (lambda message: None)
        self._answers = Answers(self, self.config.answers, keep)

    def play(self) -> int:
        """Play to the end; returns the number of images played. Call it beside a spinning executor.

        Raises:
            BagError: nobody listened in time, or (lockstep) an image was not answered in time.
        """
        time.sleep(self.config.start_delay)
        self._wait_for_listeners()
        played = 0
        while True:
            played += self._play_once()
            if not self.config.loop or not self.context.ok():
                break
        for publisher in self._outputs():
            if self.context.ok():
                publisher.wait_for_all_acked(Duration(seconds=2))  # so that leaving loses nothing
        if self._recorder is not None and self.context.ok():
            if not self.config.lockstep:
                time.sleep(1.0)  # the last answers
            self.get_logger().info(f"results in {self._recorder.write(self, self._answers.topics)}")
        return played

    def _play_once(self) -> int:
        played, index = 0, -1
        start: tuple[int, float] | None = None  # stamp and wall time of the first image
        total = (self.config.until_frame or len(self.bag)) - self.config.from_frame
        progress = tqdm(total=total, desc="playing", unit="frame", disable=None)
        for message in recorded_messages(self.bag, self._others):
            if not self.context.ok():
                break
            if message.kind != "image":
                if index >= self.config.from_frame - 1 or message.topic == "/tf_static":
                    self._others[message.topic].publish(message.data)
                continue
            index += 1
            if index < self.config.from_frame:
                continue
            if self.config.until_frame and index >= self.config.until_frame:
                break
            if start is None:
                start = (message.stamp, time.monotonic())
            self._await_turn(message.stamp, start)
            self._send(message)
            played += 1
            progress.update()
        progress.close()
        return played

    def _send(self, message: Recorded) -> None:
        """One image with the calibration in force, and in lockstep its answers."""
        self._tick(message.stamp)
        if message.info is not None:
            self._info.publish(message.info)
        if not self.config.lockstep:
            self._image.publish(message.data)
            return
        with self._answers.to(message.stamp, self.config.answer_timeout):
            self._image.publish(message.data)

    def _await_turn(self, stamp: int, start: tuple[int, float]) -> None:
        """Let the clock run until ``stamp`` is due; at once where time goes back."""
        if self.config.rate == 0:
            return
        first, began = start
        while self.context.ok():
            now = first + int((time.monotonic() - began) * self.config.rate * SECOND)
            remaining = (stamp - now) / SECOND / self.config.rate
            if remaining <= 0:
                return
            self._tick(now)
            time.sleep(min(remaining, 1.0 / self.config.clock_rate))

    def _tick(self, stamp: int) -> None:
        self._ticks.publish(Clock(clock=time_message(max(stamp, 0))))

    def _wait_for_listeners(self) -> None:
        deadline = time.monotonic() + self.config.wait
        missing: list[str] = []
        while self.context.ok():
            missing = [
                publisher.topic_name
                for publisher in self._outputs()
                if publisher.get_subscription_count() < self.count_subscribers(publisher.topic_name)
            ]
            missing += [] if self._image.get_subscription_count() else [self._image.topic_name]
            if self.config.lockstep or self._recorder is not None:
                missing += self._answers.connect()
            if not missing:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        raise BagError(f"after {self.config.wait:g} s nobody is at the other end of {', '.join(missing)}")

    def _outputs(self) -> list[Any]:
        return [self._image, self._info, self._ticks, *self._others.values()]

    def _other_publishers(self) -> dict[str, Any]:
        """Publishers of tf and of the further topics asked for, whose types are installed here."""
        publishers = {}
        asked = {topic for topic in self.config.topics if topic}
        for name in sorted(asked - set(self.bag.topics)):
            raise BagError(f"{self.config.bag}: no topic {name}; {self.bag.describe()}")
        for topic in self.bag.topics.values():
            if topic.name not in asked and topic.name not in ("/tf", "/tf_static"):
                continue
            kind = message_class(topic.msgtype)
            if kind is None:
                self.get_logger().warning(f"{topic.name} is not played: {topic.msgtype} is not installed")
                continue
            publishers[topic.name] = self.create_publisher(
                kind, topic.name, latched() if topic.name == "/tf_static" else 100
            )
        return publishers


def latched() -> QoSProfile:
    return QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def main(args: list[str] | None = None) -> None:
    """Play and exit."""
    run_job(BagPlayer, lambda player: player.get_logger().info(f"played {player.play()} images"), args=args)


if __name__ == "__main__":
    main()
