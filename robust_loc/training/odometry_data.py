"""Training clips for the odometry: co-visible frames of a sequence, augmented, scaled and stacked into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic.cache import Clip
from robust_loc.errors import DatasetError
from robust_loc.geometry.lie import SE3
from robust_loc.training.augmentation import AugmentationConfig, mirrored, photometric, zoom_and_crop
from robust_loc.training.covisibility import covisibility, sample_clip
from robust_loc.types import Camera, FloatArray, Frame

STRIDE = 4  # of the odometry's features


class TrainingSequence(Protocol):
    """One recording with exact depth and poses.

    Attributes:
        world_T_cam: [n, 4, 4].
        camera: of all frames.
        flow: [n, n] mean flow between frames, pixels; see :func:`covisibility`.
    """

    world_T_cam: FloatArray
    camera: Camera

    @property
    def flow(self) -> NDArray[np.float32]: ...

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Images [k, H, W, 3] (RGB) and depth [k, H, W] (metres along the axis, 0: unknown or infinitely far)."""
        ...


class FrameSequence:
    """A recording held in memory as frames, all of one camera, each with depth and pose."""

    def __init__(self, frames: Iterable[Frame], name: str = "sequence") -> None:
        self.frames = list(frames)
        if not self.frames:
            raise DatasetError(f"{name}: there are no frames to train on")
        for number, frame in enumerate(self.frames):
            if frame.depth is None or frame.world_T_cam is None:
                raise DatasetError(f"{name}: frame {number} has no depth or no pose; training needs both")
            if frame.camera != self.frames[0].camera:
                raise DatasetError(f"{name}: frame {number} has another camera; a training sequence has one")
        self.camera = self.frames[0].camera
        self.world_T_cam = np.stack([f.world_T_cam for f in self.frames if f.world_T_cam is not None])

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        depth = self.read(range(len(self)))[1]
        return covisibility(depth, self.world_T_cam, self.camera)

    def read(self, index: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        chosen = [self.frames[i] for i in index]
        return np.stack([f.image for f in chosen]), np.stack([f.depth for f in chosen if f.depth is not None])


class RenderedSequence:
    """A rendered clip on disk, read as it is needed."""

    def __init__(self, path: str | Path) -> None:
        self._clip = Clip(path)
        self.camera, self.world_T_cam = self._clip.camera, self._clip.world_T_cam

    def __len__(self) -> int:
        return len(self._clip)

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        depth = np.stack([self._depth(i) for i in range(len(self))])
        depth[depth == 0] = np.inf  # rendered depth is known everywhere: this is sky
        return covisibility(depth, self.world_T_cam, self.camera)

    def _depth(self, index: int) -> NDArray[np.float32]:
        inverse = self._clip.inverse_depth(index)
        return np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)

    def read(self, index: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        return np.stack([self._clip.image(i) for i in index]), np.stack([self._depth(i) for i in index])


class ClipBatch(NamedTuple):
    """B clips of n frames.

    Attributes:
        images: [B, n, 3, H, W] uint8, RGB.
        inverse_depth: [B, n, H/4, W/4] at the centres of the quarter-resolution pixels; 0 where nothing is near.
        poses: [B, n, 7] ``cam_T_world``, scaled with the depth.
        intrinsics: [B, n, 4] at quarter resolution.
    """

    images: Tensor
    inverse_depth: Tensor
    poses: Tensor
    intrinsics: Tensor

    def to(self, device: torch.device | str) -> ClipBatch:
        return ClipBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class ClipConfig(Config):
    """How clips are cut out of sequences."""

    frames: int = parameter(8, "frames per clip", minimum=2, maximum=64)
    height: int = parameter(240, "height of the training window, pixels, a multiple of 16", minimum=48)
    width: int = parameter(320, "width of the training window, pixels, a multiple of 16", minimum=48)
    least_flow: float = parameter(10 / 640, "least mean flow between frames, image widths", minimum=0)
    largest_flow: float = parameter(75 / 640, "largest mean flow between frames, image widths", minimum=0)
    slow: float = parameter(0.3, "fraction of clips with slower motion, down to a tenth of least_flow", minimum=0)


class ClipSampler:
    """Draws clips. Clip number ``n`` depends on the seed and on ``n`` alone, whoever makes it.

    Args:
        sequences: recordings; the longer ones are drawn more often.
        weights: relative weight of each sequence; by default its number of frames.
        processes: clips are made by this many processes ahead of their use; 0: by the caller, when asked.
    """

    def __init__(
        self,
        sequences: Sequence[TrainingSequence],
        config: ClipConfig,
        augmentation: AugmentationConfig | None,
        seed: int,
        weights: Sequence[float] | None = None,
        processes: int = 0,
    ) -> None:
        self.sequences = [s for s in sequences if len(s) > config.frames]
        if not self.sequences:
            raise DatasetError(f"no sequence has more than {config.frames} frames: nothing to train on")
        self.config, self.augmentation = config, augmentation
        self.seed, self.drawn = seed, 0
        w = np.array([len(s) for s in self.sequences] if weights is None else weights, float)
        self.probabilities = w / w.sum()
        self._ahead = _Ahead(self, processes) if processes else None

    def batch(self, clips: int) -> ClipBatch:
        """The next ``clips`` clips."""
        numbers = range(self.drawn, self.drawn + clips)
        self.drawn += clips
        drawn = [self.clip(n) for n in numbers] if self._ahead is None else self._ahead.take(numbers)
        return ClipBatch(*(torch.stack(tensors) for tensors in zip(*drawn)))

    def clip(self, number: int) -> ClipBatch:
        """Clip ``number``, without the batch dimension."""
        g, config = np.random.default_rng([self.seed, number]), self.config
        while True:
            sequence = self.sequences[int(g.choice(len(self.sequences), p=self.probabilities))]
            width = sequence.camera.width
            least, largest = config.least_flow * width, config.largest_flow * width
            if g.random() < config.slow:
                least, largest = 0.1 * least, least + 0.25 * (largest - least)
            index = sample_clip(sequence.flow, config.frames, (least, largest), g)
            clip = self._cut(sequence, index, g)
            if clip is not None:
                return clip

    def _cut(self, sequence: TrainingSequence, index: list[int], g: np.random.Generator) -> ClipBatch | None:
        config = self.config
        poses, camera = sequence.world_T_cam[index], sequence.camera
        images, depth = sequence.read(index)
        size = (config.height, config.width)
        augmentation = self.augmentation or AugmentationConfig(zoom=0.0)
        images, depth, camera = zoom_and_crop(images, depth, camera, size, augmentation, g)
        if self.augmentation is not None:
            if g.random() < augmentation.flip:
                images, depth, poses, camera = mirrored(images, depth, poses, camera)
            images = photometric(np.ascontiguousarray(images), augmentation, g)
        return make_clip(images, depth, poses, camera)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed, self.drawn = int(state["seed"]), int(state["drawn"])
        if self._ahead is not None:
            self._ahead = _Ahead(self, self._ahead.processes)


class _Ahead:
    """Clips made by other processes, a few batches ahead."""

    BATCHES = 3

    def __init__(self, sampler: ClipSampler, processes: int) -> None:
        self.processes = processes
        arguments = (sampler.sequences, sampler.config, sampler.augmentation, sampler.seed, sampler.probabilities)
        # "fork" shares what is in memory; it must happen before the first use of a GPU
        self._pool = ProcessPoolExecutor(processes, get_context("fork"), _begin_worker, arguments)
        self._pending: dict[int, Future[tuple[NDArray, ...]]] = {}

    def take(self, numbers: range) -> list[ClipBatch]:
        for n in range(numbers.start, numbers.stop + self.BATCHES * len(numbers)):
            if n not in self._pending:
                self._pending[n] = self._pool.submit(_work, n)
        return [ClipBatch(*(torch.from_numpy(a) for a in self._pending.pop(n).result())) for n in numbers]


_worker: ClipSampler | None = None  # of this process, when it is a worker


def _begin_worker(*arguments: Any) -> None:
    global _worker
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _worker = ClipSampler(*arguments)


def _work(number: int) -> tuple[NDArray, ...]:
    assert _worker is not None
    return tuple(tensor.numpy() for tensor in _worker.clip(number))


def make_clip(
    images: NDArray[np.uint8], depth: NDArray[np.float32], world_T_cam: FloatArray, camera: Camera
) -> ClipBatch | None:
    """Tensors of one clip, scaled so that the near end of the scene has an inverse depth near 1 (DPVO's rule).

    Depth is read at pixels (4x, 4y), the centres of the quarter-resolution pixels. None where there is no depth or the
    camera does not move at all (neither scale nor parallax to learn from).
    """
    quarter = depth[:, ::STRIDE, ::STRIDE]
    inverse = np.where(quarter > 1e-3, 1.0 / np.maximum(quarter, 1e-3), 0.0)
    scale = 0.7 * float(np.quantile(inverse, 0.98))
    travelled = np.ptp(world_T_cam[:, :3, 3], axis=0).max() * scale
    if not np.isfinite(scale) or scale < 1e-6 or travelled < 1e-3:
        return None
    cam_T_world = np.linalg.inv(np.linalg.inv(world_T_cam[0]) @ world_T_cam)  # the first frame is the world
    cam_T_world[:, :3, 3] *= scale
    intrinsics = torch.tensor(camera.intrinsics / STRIDE, dtype=torch.float32).expand(len(images), 4)
    return ClipBatch(
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        torch.from_numpy((inverse / scale).astype(np.float32)),
        SE3.from_matrix(torch.from_numpy(cam_T_world)).data.float(),
        intrinsics.clone(),
    )
