"""Which topic of a recording is the camera, its calibration, its depth, its ground truth."""

from __future__ import annotations

from collections.abc import Mapping

from robust_loc.data.storage import Topic
from robust_loc.errors import BagTopicError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
)
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"

_TRANSPORTS = ("/compressed", "/compressedDepth")


def describe(topics: Mapping[str, Topic]) -> str:
    """One line per topic: name, type, number of messages."""
    if not topics:
        return "it holds no topic"
    lines = [f"  {topic.name} [{topic.msgtype}] {topic.count} messages" for _, topic in sorted(topics.items())]
    return "it holds\n" + "\n".join(lines)


def base_name(topic: str) -> str:
    """The name of an image topic without its transport: ``/camera/image_raw/compressed`` -> ``/camera/image_raw``."""
    for suffix in _TRANSPORTS:
        topic = topic.removesuffix(suffix)
    return topic


def is_depth(topic: Topic) -> bool:
    """True for an image topic that carries depth by the naming convention of the drivers."""
    return topic.msgtype in IMAGE_TYPES and ("depth" in topic.name.lower() or topic.name.endswith("/compressedDepth"))


def camera_info_name(image_topic: str) -> str:
    """image_transport's convention: ``camera_info`` lies beside the image topic."""
    return base_name(image_topic).rpartition("/")[0] + "/camera_info"


def find_image(topics: Mapping[str, Topic], requested: str | None, where: str) -> str:
    """The camera's image topic; a raw topic is preferred over its compressed copy.

    A requested name may leave out the transport. Of several cameras the only one with a ``camera_info`` is taken.

    Raises:
        BagTopicError: none, or several equally good; the message lists what the recording holds.
    """
    images = {t.name: t for t in topics.values() if t.msgtype in IMAGE_TYPES and t.count}
    if requested is not None:
        for name in (requested, *(requested + suffix for suffix in _TRANSPORTS)):
            if name in images:
                return name
        raise BagTopicError(f"{where}: no image topic {requested}; {describe(topics)}")
    cameras = {base_name(t.name): t.name for _, t in sorted(images.items(), reverse=True) if not is_depth(t)}
    if not cameras:
        raise BagTopicError(f"{where}: no camera image topic; {describe(topics)}")
    if len(cameras) > 1:
        calibrated = {base: name for base, name in cameras.items() if camera_info_name(name) in topics}
        cameras = calibrated if len(calibrated) == 1 else cameras
    if len(cameras) > 1:
        raise BagTopicError(f"{where}: several camera topics, choose one ({', '.join(sorted(cameras.values()))})")
    return next(iter(cameras.values()))


def find_camera_info(topics: Mapping[str, Topic], image_topic: str, requested: str | None, where: str) -> str:
    """The calibration topic of ``image_topic``: the one beside it, else the recording's only one.

    Raises:
        BagTopicError: none, or several of which none is beside the image topic.
    """
    infos = sorted(t.name for t in topics.values() if t.msgtype == CAMERA_INFO_TYPE and t.count)
    wanted = requested if requested is not None else camera_info_name(image_topic)
    if wanted in infos:
        return wanted
    not_depth = [name for name in infos if "depth" not in name.lower()]
    if requested is None and len(not_depth) == 1:
        return not_depth[0]
    raise BagTopicError(f"{where}: no camera_info topic {wanted} for {image_topic}; {describe(topics)}")


def find_depth(topics: Mapping[str, Topic], requested: str | None, where: str) -> str | None:
    """The depth topic: the requested one, else the only one by name, preferring depth aligned to colour; else None."""
    if requested is not None:
        for name in (requested, *(requested + suffix for suffix in _TRANSPORTS)):
            if name in topics and topics[name].msgtype in IMAGE_TYPES:
                return name
        raise BagTopicError(f"{where}: no depth topic {requested}; {describe(topics)}")
    depths = {base_name(t.name): t.name for _, t in sorted(topics.items(), reverse=True) if is_depth(t) and t.count}
    aligned = [name for name in depths.values() if any(w in name for w in ("aligned", "registered"))]
    candidates = aligned or list(depths.values())
    return candidates[0] if len(candidates) == 1 else None


def find_ground_truth(topics: Mapping[str, Topic]) -> str | None:
    """A pose or odometry topic whose name says ground truth; None where there is no such topic, or several."""
    words = ("ground_truth", "groundtruth", "mocap", "vicon", "/gt")
    found = [
        t.name
        for t in topics.values()
        if t.count and t.msgtype in (*POSE_TYPES, ODOMETRY_TYPE) and any(word in t.name.lower() for word in words)
    ]
    return found[0] if len(found) == 1 else None
