"""A dataset sequence on disk: which image was taken when, with which camera, where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_loc.data import images
from robust_loc.data.trajectory import Trajectory
from robust_loc.data.writer import BagWriter
from robust_loc.errors import CameraError, DatasetError, ImageEncodingError
from robust_loc.geometry.cameras import CameraCalibration, Undistorter
from robust_loc.types import Frame

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class RecordedImage:
    """One image file, its stamp (ns), and its depth file where there is one."""

    stamp: int
    image: Path
    depth: Path | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """A dataset sequence; iterating gives the same ``Frame``s that a bag of it gives.

    Attributes:
        name: the sequence's name.
        calibration: the camera, lens included.
        images: in time order.
        ground_truth: the camera's true trajectory, where it is known.
        read_depth: depth file -> (height, width) float32 metres, registered to the image, 0 where unknown.
        depth_is_millimetre_png: depth files already are what a bag holds, and are copied unchanged.
    """

    name: str
    calibration: CameraCalibration
    images: Sequence[RecordedImage]
    ground_truth: Trajectory | None = None
    read_depth: Callable[[Path], NDArray[np.float32]] | None = None
    depth_is_millimetre_png: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, from_frame: int = 0, until_frame: int | None = None) -> Iterator[Frame]:
        """Undistorted frames ``from_frame <= index < until_frame``; raises DatasetError on an unreadable image."""
        undistorter = Undistorter(self.calibration)
        for item in self._range(from_frame, until_frame):
            try:
                image = undistorter.image(images.rgb_from_compressed(item.image.read_bytes()))
                depth = None
                if item.depth is not None and self.read_depth is not None:
                    depth = undistorter.depth(self.read_depth(item.depth))
            except (OSError, ImageEncodingError) as error:
                raise DatasetError(f"{item.image}: {error}") from error
            pose = None if self.ground_truth is None else self.ground_truth.at(item.stamp)
            yield Frame(image, undistorter.camera, item.stamp, depth, pose)

    def write_bag(
        self,
        path: str | Path,
        from_frame: int = 0,
        until_frame: int | None = None,
        start: int | None = None,
        overwrite: bool = False,
        progress: Callable[[Sequence[RecordedImage]], Any] = iter,
    ) -> int:
        """Write the frames to a rosbag2 recording; returns their number.

        JPEG and PNG files are copied byte by byte; the lens goes into camera_info; the ground truth is interpolated at
        the image stamps. ``start`` (ns) moves the first image to that time; ``progress`` wraps the image list.

        Raises:
            DatasetError: an image file is missing or unreadable.
            BagError: the path exists and ``overwrite`` is not set.
        """
        selected = self._range(from_frame, until_frame)
        if not selected:
            raise DatasetError(f"{self.name}: frames {from_frame} to {until_frame} select none of {len(self)}")
        shift = 0 if start is None else start - selected[0].stamp
        with BagWriter(path, self.calibration, overwrite) as writer:
            for item in progress(selected):
                writer.write_image(item.stamp + shift, *_encoded(item.image))
                if item.depth is not None and self.read_depth is not None:
                    writer.write_depth(item.stamp + shift, self._depth_png(item.depth))
                pose = None if self.ground_truth is None else self.ground_truth.at(item.stamp)
                if pose is not None:
                    writer.write_pose(item.stamp + shift, pose)
        return len(selected)

    def _range(self, from_frame: int, until_frame: int | None) -> Sequence[RecordedImage]:
        if from_frame < 0 or (until_frame is not None and until_frame < from_frame):
            raise DatasetError(f"frames {from_frame} to {until_frame} are no range")
        return self.images[from_frame:until_frame]

    def _depth_png(self, path: Path) -> bytes:
        if self.depth_is_millimetre_png:
            return path.read_bytes()
        assert self.read_depth is not None
        return images.depth_png(self.read_depth(path))


def _encoded(path: Path) -> tuple[bytes, str]:
    """The file's bytes and kind; anything but JPEG and PNG is re-encoded as PNG."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    if data.startswith(b"\xff\xd8"):
        return data, "jpeg"
    if data.startswith(b"\x89PNG"):
        return data, "png"
    try:
        return images.rgb_png(images.rgb_from_compressed(data)), "png"
    except ImageEncodingError as error:
        raise DatasetError(f"{path}: {error}") from error


def integer_depth_reader(units_per_metre: float) -> Callable[[Path], NDArray[np.float32]]:
    """A reader of 16-bit depth PNGs of the given scale."""

    def read(path: Path) -> NDArray[np.float32]:
        try:
            return images.depth_from_compressed(path.read_bytes(), "16UC1; png", units_per_metre)
        except (OSError, ImageEncodingError) as error:
            raise DatasetError(f"{path}: {error}") from error

    return read


def require(path: Path, what: str) -> Path:
    """``path`` if it exists; raises DatasetError naming it and what it should be."""
    if not path.exists():
        raise DatasetError(f"{path}: not found; expected {what}")
    return path


def read_calibration(path: Path) -> tuple[CameraCalibration, float | None]:
    """``calib.json``: pinhole, lens and ``depth_scale_units_per_metre`` (None where it is not given)."""
    try:
        content = json.loads(path.read_text())
        lens = tuple(float(value) for value in content.get("distortion", ()))
        model = content.get("distortion_model", "plumb_bob")
        if not any(lens) and model != "equidistant":
            lens = ()
        calibration = CameraCalibration(
            int(content["width"]),
            int(content["height"]),
            float(content["fx"]),
            float(content["fy"]),
            float(content["cx"]),
            float(content["cy"]),
            model,
            lens,
        )
    except (OSError, ValueError, KeyError, TypeError, CameraError) as error:
        raise DatasetError(
            f"{path}: no usable calibration ({error!r}); expected width, height, fx, fy, cx, cy"
        ) from error
    scale = content.get("depth_scale_units_per_metre")
    return calibration, None if scale is None else float(scale)


def listed_files(path: Path) -> list[tuple[str, str]]:
    """``timestamp name`` lines of a TUM-style list, comments skipped."""
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    for number, parts in enumerate(lines, start=1):
        if len(parts) < 2:
            raise DatasetError(f"{path}: entry {number} has {len(parts)} words; expected 'timestamp file'")
    return [(parts[0], parts[1]) for parts in lines]
