"""A recording's messages as serialized ROS 2 messages, ready to publish."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from robust_loc.data.bag import Bag
from robust_loc.data.messages import stamp_of
from robust_loc.data.storage import RawMessage, open_source
from robust_loc.nodes.conversions import time_message

RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}  # ROS 1's name of the same bytes


@dataclass(frozen=True)
class Recorded:
    """One message.

    Attributes:
        kind: "image" or "other".
        data: serialized (CDR).
        stamp: images: header stamp, integer nanoseconds.
        info: images: the calibration in force, with the image's stamp.
    """

    topic: str
    kind: str
    data: bytes
    stamp: int = 0
    info: CameraInfo | None = None


def message_class(msgtype: str) -> Any | None:
    """The rclpy class of ``package/msg/Name``, or None where the package is not installed."""
    package, _, name = RENAMED.get(msgtype, msgtype).partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None


def recorded_messages(bag: Bag, others: Collection[str]) -> Iterator[Recorded]:
    """Images of ``bag`` with their calibrations, and the messages of the topics ``others``, in recorded order.

    As in ``Bag.frames``, an image's calibration is the last one recorded before it, or the first of all.
    """
    info = next(_messages(bag, {bag.camera_info_topic}), None)
    calibration = None if info is None else deserialize_message(_cdr(info, bag), CameraInfo)
    for raw in _messages(bag, {bag.image_topic, bag.camera_info_topic, *others}):
        data = _cdr(raw, bag)
        if raw.topic == bag.camera_info_topic:
            calibration = deserialize_message(data, CameraInfo)
        elif raw.topic == bag.image_topic:
            kind = CompressedImage if raw.msgtype.endswith("CompressedImage") else Image
            stamp = stamp_of(deserialize_message(data, kind))
            if calibration is not None:
                calibration.header.stamp = time_message(stamp)
            yield Recorded(raw.topic, "image", data, stamp, calibration)
        else:
            yield Recorded(raw.topic, "other", data)


def _messages(bag: Bag, topics: set[str]) -> Iterator[RawMessage]:
    source = open_source(bag.path)
    try:
        yield from source.messages(topics)
    finally:
        source.close()


def _cdr(raw: RawMessage, bag: Bag) -> bytes:
    if bag.path.suffix != ".bag":
        return bytes(raw.data)
    return bytes(_ros1_types().ros1_to_cdr(raw.data, raw.msgtype))


@functools.cache
def _ros1_types() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC)
