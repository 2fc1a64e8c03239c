"""Labelled frames with their roles: what a run learns from, and what later runs replay."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from robust_loc.data.files import write_atomically, writing
from robust_loc.errors import WeightsError
from robust_loc.training.regressor_data import PosedImages

FORMAT = 1
SUFFIX = ".replay.npz"
_QUALITY = 92  # of the JPEGs
_MILLIMETRES = 1000.0


class Role(IntEnum):
    TRAIN = 0
    CALIBRATE = 1  # held out: covariance factors and limits of the gate
    JUDGE = 2  # held out: acceptance


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Labelled frames of several recordings.

    Attributes:
        images: the frames.
        role: (n,) values of ``Role``.
        recording: (n,) index into ``names``.
        names: of the recordings.
    """

    images: PosedImages
    role: NDArray[np.int8]
    recording: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def of(self, *roles: Role) -> PosedImages:
        """The frames with one of these roles."""
        return self.images.subset(np.flatnonzero(np.isin(self.role, roles)))

    def count(self, role: Role) -> int:
        return int((self.role == role).sum())

    def subset(self, rows: NDArray[np.intp]) -> FrameSet:
        """Some of the frames; recordings of which none is left are forgotten."""
        kept, recording = np.unique(self.recording[rows], return_inverse=True)
        names = tuple(self.names[index] for index in kept)
        return FrameSet(self.images.subset(rows), self.role[rows], recording.astype(np.int32), names)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.rgb.shape[1], self.images.rgb.shape[2]

    def save(self, path: str | Path) -> None:
        """Write one file; OutputError when that is not possible, and then nothing is left of it."""
        jpegs = [_encoded(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]) for image in self.images.rgb]
        content = {
            "format": np.array(FORMAT),
            "jpegs": np.concatenate([np.zeros(0, np.uint8), *jpegs]),
            "lengths": np.array([len(jpeg) for jpeg in jpegs], np.int64),
            "intrinsics": self.images.intrinsics.numpy(),
            "world_T_cam": self.images.world_T_cam.numpy(),
            "stamps": self.images.stamps,
            "role": self.role,
            "recording": self.recording,
            "names": np.array(self.names, dtype=np.str_),
        }
        if self.images.depth is not None:
            stored = np.clip(self.images.depth * _MILLIMETRES, 0, 65535).round().astype(np.uint16)
            pngs = [_encoded(".png", depth, []) for depth in stored]
            content["depths"] = np.concatenate([np.zeros(0, np.uint8), *pngs])
            content["depth_lengths"] = np.array([len(png) for png in pngs], np.int64)
        stream = io.BytesIO()
        np.savez(stream, **content)  # type: ignore[arg-type]
        with writing(path):
            write_atomically(path, stream.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> FrameSet:
        """Read what :meth:`save` wrote; images are as good as their JPEGs.

        Raises:
            WeightsError: missing, damaged or of another format.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT:
                    raise WeightsError(f"{path}: frames of format {int(file['format'])}; this version reads {FORMAT}")
                rgb = [image[..., ::-1] for image in _decoded(file["jpegs"], file["lengths"], cv2.IMREAD_COLOR)]
                depth = None
                if "depths" in file:
                    stored = _decoded(file["depths"], file["depth_lengths"], cv2.IMREAD_UNCHANGED)
                    depth = (np.stack(stored) / _MILLIMETRES).astype(np.float32)
                intrinsics, world_T_cam = (torch.from_numpy(file[name]) for name in ("intrinsics", "world_T_cam"))
                stacked = np.ascontiguousarray(np.stack(rgb))
                images = PosedImages(stacked, intrinsics, world_T_cam, file["stamps"], depth)
                return cls(images, file["role"], file["recording"], tuple(map(str, file["names"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, cv2.error) as error:
            raise WeightsError(f"{path}: cannot be read as stored frames: {error}") from error


def join(sets: list[FrameSet]) -> FrameSet:
    """All frames of sets whose images have one size; recordings of one name become one."""
    names: list[str] = []
    recording = []
    for part in sets:
        names += [name for name in part.names if name not in names]
        index = np.array([names.index(name) for name in part.names], np.int32)
        recording.append(index[part.recording])
    depths = [part.images.depth for part in sets]
    depth = None
    if any(d is not None for d in depths):
        shapes = [part.images.rgb.shape[:3] for part in sets]
        depth = np.concatenate([np.zeros(shape, np.float32) if d is None else d for d, shape in zip(depths, shapes)])
    images = PosedImages(
        np.concatenate([part.images.rgb for part in sets]),
        torch.cat([part.images.intrinsics for part in sets]),
        torch.cat([part.images.world_T_cam for part in sets]),
        np.concatenate([part.images.stamps for part in sets]),
        depth,
    )
    return FrameSet(images, np.concatenate([part.role for part in sets]), np.concatenate(recording), tuple(names))


def _encoded(kind: str, image: np.ndarray, options: list[int]) -> NDArray[np.uint8]:
    return cv2.imencode(kind, np.ascontiguousarray(image), options)[1].reshape(-1)


def _decoded(data: NDArray[np.uint8], lengths: NDArray[np.int64], flag: int) -> list[np.ndarray]:
    images = []
    for part in np.split(data, np.cumsum(lengths)[:-1]):
        image = cv2.imdecode(part, flag)
        if image is None:
            raise ValueError("an image in it is damaged")
        images.append(image)
    return images
