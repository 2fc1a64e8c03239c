"""Rendered sequences on disk, one file each, quick to read in parts.

A clip is an uncompressed ``.npz``: ``jpeg`` (all images' JPEG data end to end) and ``jpeg_end`` (N,), one member
``inverse_depth_<k>`` per frame (float16, 1/m, 0: infinitely far or nothing hit), ``world_T_cam`` (N, 4, 4) float64,
``intrinsics`` (4,) ``[fx, fy, cx, cy]``, ``size`` (2,) ``[width, height]``, ``stamps`` (N,) nanoseconds, ``version``
and ``source`` (a text). Members are read on demand, so a few frames of a long clip cost a few reads.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import DatasetError
from robust_loc.types import Camera, Frame

_VERSION = 1


def write_clip(path: str | Path, frames: Iterable[Frame], source: str = "", quality: int = 95) -> None:
    """Write frames of one camera, each with depth and pose, to ``path`` atomically.

    Raises:
        DatasetError: no frame, a frame without depth or pose, or frames of several cameras.
    """
    path = Path(path)
    jpeg: list[NDArray] = []
    ends: list[int] = []
    poses, stamps = [], []
    members: dict[str, NDArray] = {}
    camera: Camera | None = None
    for index, frame in enumerate(frames):
        if frame.depth is None or frame.world_T_cam is None:
            raise DatasetError(f"{path}: frame {index} has no depth or no pose; a clip needs both")
        if camera is not None and frame.camera != camera:
            raise DatasetError(f"{path}: frame {index} has another camera; a clip has one")
        camera = frame.camera
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
        data = cv2.imencode(".jpg", np.ascontiguousarray(frame.image[..., ::-1]), flags)[1]
        jpeg.append(data.ravel())
        ends.append(len(data.ravel()) + (ends[-1] if ends else 0))
        far = np.divide(1.0, frame.depth, out=np.zeros_like(frame.depth), where=frame.depth > 0)
        members[f"inverse_depth_{index:05d}"] = np.minimum(far, 6e4).astype(np.float16)
        poses.append(frame.world_T_cam)
        stamps.append(frame.stamp)
    if camera is None:
        raise DatasetError(f"{path}: there are no frames to write")
    members |= {
        "version": np.array(_VERSION),
        "source": np.array(source),
        "intrinsics": camera.intrinsics,
        "size": np.array([camera.width, camera.height]),
        "world_T_cam": np.stack(poses),
        "stamps": np.array(stamps, np.int64),
        "jpeg_end": np.array(ends, np.int64),
        "jpeg": np.concatenate(jpeg),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **members)  # type: ignore[arg-type]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Clip:
    """A clip opened for reading.

    Attributes:
        camera: its camera.
        world_T_cam: (N, 4, 4) float64.
        stamps: (N,) int64 nanoseconds.
        source: what made it.
    """

    def __init__(self, path: str | Path) -> None:
        """Read all but the pictures; DatasetError when the file is not a readable clip."""
        self.path = Path(path)
        try:
            self._file = np.load(self.path, allow_pickle=False)
            version = int(self._file["version"])
            width, height = self._file["size"]
            self.camera = Camera(int(width), int(height), *(float(x) for x in self._file["intrinsics"]))
            self.world_T_cam: NDArray[np.float64] = self._file["world_T_cam"]
            self.stamps: NDArray[np.int64] = self._file["stamps"]
            self.source = str(self._file["source"])
            self._end = self._file["jpeg_end"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.path}: is not a readable clip: {error}") from error
        if version != _VERSION:
            raise DatasetError(f"{self.path}: is a clip of format {version}; this version reads {_VERSION}")
        self._jpeg: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.stamps)

    def image(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        if self._jpeg is None:
            self._jpeg = self._file["jpeg"]
        begin = int(self._end[index - 1]) if index > 0 else 0
        decoded = cv2.imdecode(self._jpeg[begin : int(self._end[index])], cv2.IMREAD_COLOR)
        if decoded is None:
            raise DatasetError(f"{self.path}: the image of frame {index} is damaged")
        return np.ascontiguousarray(decoded[..., ::-1])

    def inverse_depth(self, index: int) -> NDArray[np.float32]:
        """(H, W) float32 in 1/m, 0 for infinitely far."""
        return np.asarray(self._file[f"inverse_depth_{index:05d}"], np.float32)

    def frame(self, index: int) -> Frame:
        """One frame; its depth has float16 precision (about 5e-4 of the depth)."""
        inverse = self.inverse_depth(index)
        depth = np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
        return Frame(self.image(index), self.camera, int(self.stamps[index]), depth, self.world_T_cam[index])

    def close(self) -> None:
        self._file.close()


def list_clips(folder: str | Path) -> list[Path]:
    """The finished clips of a folder, sorted by name."""
    return sorted(Path(folder).glob("*.npz"))
