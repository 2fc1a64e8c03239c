"""``open_bag``: frames and ground truth out of a recording, one message at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_loc.data import images, topics
from robust_loc.data.messages import calibration_of, depth_of, pose_of, rgb_of, stamp_of
from robust_loc.data.storage import MessageSource, RawMessage, Topic, deserialize, open_source
from robust_loc.data.trajectory import Trajectory
from robust_loc.data.transforms import TransformTree
from robust_loc.errors import BagError, BagTopicError, CameraError, ImageEncodingError, TrajectoryError
from robust_loc.geometry.cameras import CameraCalibration, Undistorter
from robust_loc.types import Camera, FloatArray, Frame

logger = logging.getLogger(__name__)


class Bag:
    """A recording with a camera: rosbag2 (mcap, sqlite3) or ROS 1, a folder or one file, whole or damaged.

    Iterating gives its ``Frame``s: undistorted RGB, pinhole camera, header stamp, with depth where a depth message has
    the image's stamp and ``world_T_cam`` where the ground truth covers it. Nothing but the current frame is kept.

    Args:
        path: bag folder, or a ``.mcap``, ``.db3`` or ``.bag`` file.
        image_topic, camera_info_topic, depth_topic: found by type and name where None.
        ground_truth_topic: pose or odometry topic, or ``/tf:parent.child``; found by name where None.
        calibration: used instead of camera_info.
        depth_units_per_metre: scale of 16-bit depth (REP 118: millimetres).

    Raises:
        BagError: not a recording, or nothing in it can be read.
        BagTopicError: raised by the member that needs a topic the recording lacks; lists what it holds.
    """

    def __init__(
        self,
        path: str | Path,
        image_topic: str | None = None,
        *,
        camera_info_topic: str | None = None,
        depth_topic: str | None = None,
        ground_truth_topic: str | None = None,
        calibration: CameraCalibration | None = None,
        depth_units_per_metre: float = images.MILLIMETRES,
    ) -> None:
        self.path = Path(path)
        self.depth_units_per_metre = depth_units_per_metre
        self._requested_image = image_topic
        self._requested_info = camera_info_topic
        self._requested_depth = depth_topic
        self._ground_truth_topic = ground_truth_topic
        self._given_calibration = calibration
        self._losses: list[str] = []
        source = self._open()
        self.topics: dict[str, Topic] = source.topics
        self._close(source)

    @property
    def losses(self) -> tuple[str, ...]:
        """What could not be read so far, one sentence each; also logged as warnings. Empty for a sound recording."""
        return tuple(self._losses)

    def describe(self) -> str:
        """The topics, their types and counts, one per line."""
        return topics.describe(self.topics)

    @cached_property
    def image_topic(self) -> str:
        return topics.find_image(self.topics, self._requested_image, str(self.path))

    @cached_property
    def camera_info_topic(self) -> str:
        return topics.find_camera_info(self.topics, self.image_topic, self._requested_info, str(self.path))

    @cached_property
    def depth_topic(self) -> str | None:
        return topics.find_depth(self.topics, self._requested_depth, str(self.path))

    @cached_property
    def calibration(self) -> CameraCalibration:
        """The given calibration, or that of the first camera_info."""
        if self._given_calibration is not None:
            return self._given_calibration
        return calibration_of(self._first(self.camera_info_topic))

    @property
    def camera(self) -> Camera:
        """The pinhole camera of the undistorted frames."""
        return Undistorter(self.calibration).camera

    @cached_property
    def camera_frame(self) -> str:
        """``frame_id`` of the first image."""
        return str(self._first(self.image_topic).header.frame_id).lstrip("/")

    def __len__(self) -> int:
        """Number of image messages."""
        return self.topics[self.image_topic].count

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, from_frame: int = 0, until_frame: int | None = None) -> Iterator[Frame]:
        """Frames ``from_frame <= index < until_frame``, counted over the image messages in recording order.

        Stamps are given as recorded, also duplicate or decreasing ones. A changed camera_info counts from there on. An
        image that cannot be decoded or has another size than its calibration is left out, and a camera_info that is
        unusable is passed over; both are named in ``losses``.

        Raises:
            BagTopicError: no camera, or no calibration.
            CameraError: the first camera_info is unusable.
            ImageEncodingError: already the first raw image is of an unsupported encoding or of a wrong size.
        """
        if from_frame < 0 or (until_frame is not None and until_frame < from_frame):
            raise BagError(f"frames {from_frame} to {until_frame} are no range")
        undistorter = Undistorter(self.calibration)
        wanted = {self.image_topic}
        if self._given_calibration is None:
            wanted.add(self.camera_info_topic)
        truth = self._ground_truth_or_none
        depths = _ByStamp(self._messages({self.depth_topic})) if self.depth_topic else None
        index, count = -1, 0
        for raw, source in self._messages(wanted):
            if raw.topic != self.image_topic:
                undistorter = self._renewed(undistorter, raw, source)
                continue
            index += 1
            if index < from_frame:
                continue
            if until_frame is not None and index >= until_frame:
                return
            try:
                message = deserialize(raw, source)
                stamp = stamp_of(message)
                image = undistorter.image(rgb_of(message))
            except (BagError, ImageEncodingError) as error:
                if not count and not raw.msgtype.endswith("CompressedImage"):
                    raise
                self._lose(f"image {index} of {self.image_topic}: {error}; left out")
                continue
            depth = None if depths is None else self._depth(depths.at(stamp), undistorter)
            pose = None if truth is None else truth.at(stamp)
            count += 1
            yield Frame(image, undistorter.camera, stamp, depth, pose)
        if not count and index >= from_frame:
            raise BagError(f"{self.path}: none of the images can be decoded: {self._losses[-1]}")

    def ground_truth(self) -> Trajectory:
        """The camera's true trajectory, of the topic given or found.

        Raises:
            BagTopicError: no such topic, or its poses cannot be carried over to the camera.
        """
        topic = self._ground_truth_topic or topics.find_ground_truth(self.topics)
        if topic is not None:
            return self.trajectory(topic)
        tree = self.transforms
        for frame in tree.frames:
            parent = tree.parent(frame)
            if parent and frame.endswith(("_gt", "ground_truth")):
                return tree.trajectory(parent, frame)
        raise BagTopicError(f"{self.path}: no ground-truth topic; name one of these: {self.describe()}")

    def ground_truth_at_images(self, from_frame: int = 0, until_frame: int | None = None) -> Trajectory:
        """The ground truth interpolated at the stamps of the images that it covers; all of it without a camera topic.

        Raises:
            BagTopicError: no ground truth, or none of the images is covered.
        """
        truth = self.ground_truth()
        if not self._has_camera:
            return truth.select(slice(from_frame, until_frame))
        stamps = set()
        for index, (raw, source) in enumerate(self._messages({self.image_topic})):
            if until_frame is not None and index >= until_frame:
                break
            if index >= from_frame:
                with contextlib.suppress(BagError):  # a damaged message: frames() names it
                    stamps.add(stamp_of(deserialize(raw, source)))
        posed = [(stamp, pose) for stamp in sorted(stamps) if (pose := truth.at(stamp)) is not None]
        if not posed:
            raise BagTopicError(f"{self.path}: the ground truth covers none of the {len(stamps)} images; same clock?")
        return Trajectory(np.array([stamp for stamp, _ in posed]), np.array([pose for _, pose in posed]))

    def trajectory(self, topic: str, body_frame: str | None = None) -> Trajectory:
        """The camera's trajectory by a pose or odometry topic, or by ``/tf:parent.child``.

        Odometry names the frame it moves (``child_frame_id``); for a pose topic ``body_frame`` does, and without it the
        poses are taken as the camera's own. A body's poses are carried to the camera by the recorded fixed transforms.

        Raises:
            BagTopicError: no such topic, no pose in it, or no fixed transform from the body to the camera.
        """
        if topic.startswith("/tf:"):
            parent, _, child = topic.removeprefix("/tf:").partition(".")
            return self.transforms.trajectory(parent.lstrip("/"), child.lstrip("/"))
        known = self.topics.get(topic)
        if known is None or known.msgtype not in (*topics.POSE_TYPES, topics.ODOMETRY_TYPE):
            raise BagTopicError(f"{self.path}: no pose or odometry topic {topic}; {self.describe()}")
        samples: dict[int, tuple[FloatArray, FloatArray | None]] = {}
        for raw, source in self._messages({topic}):
            message = deserialize(raw, source)
            try:
                samples[stamp_of(message)] = pose_of(message)
            except TrajectoryError as error:
                self._lose(f"a pose of {topic}: {error}; left out")
                continue
            if known.msgtype == topics.ODOMETRY_TYPE and body_frame is None:
                body_frame = message.child_frame_id
        if not samples:
            raise BagTopicError(f"{self.path}: no usable pose on {topic}")
        stamps = sorted(samples)
        poses = np.array([samples[stamp][0] for stamp in stamps])
        unknown = np.full((6, 6), np.nan)
        covariances = [samples[stamp][1] for stamp in stamps]
        has_covariance = any(covariance is not None for covariance in covariances)
        table = np.array([unknown if c is None else c for c in covariances]) if has_covariance else None
        trajectory = Trajectory(np.array(stamps), poses, table)
        body = (body_frame or "").lstrip("/")
        if not body or not self._has_camera or body == self.camera_frame:
            return trajectory
        body_T_cam = self.transforms.lookup(body, self.camera_frame)
        if body_T_cam is None:
            raise BagTopicError(
                f"{self.path}: {topic} moves {body}, and no fixed transform leads from it to {self.camera_frame}; "
                f"the frames are {', '.join(self.transforms.frames) or 'none'}"
            )
        return trajectory.of_child(body_T_cam)

    @cached_property
    def transforms(self) -> TransformTree:
        """Every transform on the recording's tf topics."""
        names = {topic.name for topic in self.topics.values() if topic.msgtype in topics.TF_TYPES}
        recorded = (
            (transform, raw.topic.endswith("tf_static"))
            for raw, source in self._messages(names)
            for transform in deserialize(raw, source).transforms
        )
        return TransformTree.from_messages(recorded, self._lose)

    @cached_property
    def _ground_truth_or_none(self) -> Trajectory | None:
        try:
            return self.ground_truth()
        except BagTopicError:
            if self._ground_truth_topic is not None:
                raise
            return None

    @cached_property
    def _has_camera(self) -> bool:
        try:
            return bool(self.image_topic)
        except BagTopicError:
            return False

    def _first(self, topic: str) -> Any:
        for raw, source in self._messages({topic}):
            return deserialize(raw, source)
        raise BagTopicError(f"{self.path}: {topic} holds no readable message; {self.describe()}")

    def _renewed(self, undistorter: Undistorter, raw: RawMessage, source: MessageSource) -> Undistorter:
        """The undistorter of a new camera_info; the one in use where nothing changed or the new one is unusable."""
        try:
            calibration = calibration_of(deserialize(raw, source))
        except (BagError, CameraError) as error:
            self._lose(f"a message of {raw.topic}: {error}; the calibration before it stays in use")
            return undistorter
        return undistorter if calibration == undistorter.calibration else Undistorter(calibration)

    def _depth(self, found: tuple[RawMessage, MessageSource] | None, undistorter: Undistorter) -> Any:
        if found is None:
            return None
        try:
            depth: NDArray[np.float32] = depth_of(deserialize(*found), self.depth_units_per_metre)
            return undistorter.depth(depth)
        except (BagError, ImageEncodingError) as error:
            self._lose(f"a depth image of {self.depth_topic}: {error}; left out")
            return None

    def _messages(self, names: set[str]) -> Iterator[tuple[RawMessage, MessageSource]]:
        source = self._open()
        try:
            for raw in source.messages(names):
                yield raw, source
        finally:
            self._close(source)

    def _open(self) -> MessageSource:
        return open_source(self.path)

    def _close(self, source: MessageSource) -> None:
        source.close()
        for loss in source.losses:
            self._lose(loss)

    def _lose(self, loss: str) -> None:
        if loss not in self._losses:
            self._losses.append(loss)
            logger.warning(loss)


class _ByStamp:
    """Walks along a topic in step with another one: ``at(stamp)`` is the message of exactly that stamp, or None."""

    def __init__(self, messages: Iterator[tuple[RawMessage, MessageSource]]) -> None:
        self._messages = messages
        self._next: tuple[int, RawMessage, MessageSource] | None = None
        self._advance()

    def at(self, stamp: int) -> tuple[RawMessage, MessageSource] | None:
        while self._next is not None and self._next[0] < stamp:
            self._advance()
        if self._next is None or self._next[0] != stamp:
            return None
        return self._next[1], self._next[2]

    def _advance(self) -> None:
        for raw, source in self._messages:
            try:
                self._next = (stamp_of(deserialize(raw, source)), raw, source)
                return
            except BagError:
                continue
        self._next = None


def open_bag(path: str | Path, image_topic: str | None = None, **options: Any) -> Bag:
    """Open a recording; ``for frame in open_bag("run.mcap")`` iterates its frames. See ``Bag`` for the options."""
    return Bag(path, image_topic, **options)
