"""Lockstep: the next image is sent when every listener has answered the last one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile

from robust_loc.data.messages import stamp_of
from robust_loc.errors import BagError
from robust_loc.nodes.recorded import message_class


class Answers:
    """Listens to the topics whose messages answer images: an answer carries the image's stamp in its header."""

    def __init__(self, node: Any, topics: list[str], on_answer: Callable[[Any], None] = lambda message: None) -> None:
        self._node = node
        self._on_answer = on_answer
        self.topics = [node.resolve_topic_name(topic) for topic in topics if topic]
        self._subscriptions: dict[str, Any] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._changed = threading.Condition()

    def connect(self) -> list[str]:
        """Subscribe to the topics that have appeared; returns those still missing."""
        types = dict(self._node.get_topic_names_and_types())
        for topic in self.topics:
            if topic in self._subscriptions or topic not in types:
                continue
            for info in self._node.get_publishers_info_by_topic(topic):
                kind = message_class(info.topic_type)
                if kind is None:
                    raise BagError(f"{topic} cannot answer: {info.topic_type} is not installed")
                # As the publisher offers: where it keeps its last messages, none can be missed while discovering.
                qos = QoSProfile(depth=100, reliability=info.qos_profile.reliability)
                if info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                    qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
                self._subscriptions[topic] = self._node.create_subscription(
                    kind, topic, lambda message, topic=topic: self._count(topic, message), qos
                )
                break
        return [topic for topic in self.topics if topic not in self._subscriptions]

    @contextmanager
    def to(self, stamp: int, timeout: float) -> Iterator[None]:
        """Send an image of ``stamp`` inside; ends when every topic has answered it; BagError after ``timeout`` s."""
        with self._changed:
            before = {topic: self._counts[topic, stamp] for topic in self.topics}
        yield

        def missing() -> list[str]:
            return [topic for topic in self.topics if self._counts[topic, stamp] == before[topic]]

        with self._changed:
            while missing() and self._node.context.ok():
                if not self._changed.wait(timeout=min(timeout, 0.2)) and (timeout := timeout - 0.2) <= 0:
                    raise BagError(f"no answer to the image of {stamp / 1e9:.6f} s on {', '.join(missing())}")

    def _count(self, topic: str, message: Any) -> None:
        self._on_answer(message)
        with self._changed:
            self._counts[topic, stamp_of(message)] += 1
            self._changed.notify_all()
