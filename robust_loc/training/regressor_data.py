"""Posed images of one scene and their augmentations, for the training of the pose regressor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from robust_loc.errors import BagError
from robust_loc.pose_regression.regressor import resize_to_height
from robust_loc.types import Frame

MAX_ROTATION = math.radians(15.0)
SCALES = (2 / 3, 3 / 2)
JITTER = 0.1  # of brightness and contrast


@dataclass(frozen=True, eq=False)
class PosedImages:
    """Images of one size with their cameras and poses.

    Attributes:
        rgb: (n, H, W, 3) uint8.
        intrinsics: (n, 4) float32 ``fx fy cx cy`` of that size.
        world_T_cam: (n, 4, 4) float32.
        stamps: (n,) int64 nanoseconds.
        depth: (n, H, W) float32 metres along the optical axis, 0 where unknown; None when no frame has depth.
    """

    rgb: np.ndarray
    intrinsics: Tensor
    world_T_cam: Tensor
    stamps: np.ndarray
    depth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rgb)

    @classmethod
    def from_frames(cls, frames: Iterable[Frame], height: int) -> PosedImages:
        """Collect the frames that have a finite pose, resampled to ``height``.

        Raises:
            BagError: if no frame has a pose, or the images have several sizes.
        """
        images, intrinsics, poses, stamps, depths, count = [], [], [], [], [], 0
        for frame in frames:
            count += 1
            if frame.world_T_cam is None or not np.isfinite(frame.world_T_cam).all():
                continue
            image, camera = resize_to_height(frame.image, frame.camera, height)
            images.append(image)
            intrinsics.append(camera.intrinsics)
            poses.append(frame.world_T_cam)
            stamps.append(frame.stamp)
            size = (camera.width, camera.height)
            if frame.depth is None:
                depths.append(np.zeros(size[::-1], np.float32))
            else:  # the nearest neighbour: no depths are averaged
                depths.append(cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST))
        if not images:
            raise BagError(f"none of the {count} frames has a pose; training a regressor needs labelled frames")
        if len({image.shape for image in images}) > 1:
            raise BagError("the images have several sizes; train on recordings of one camera")
        return cls(
            np.stack(images),
            torch.from_numpy(np.stack(intrinsics)).float(),
            torch.from_numpy(np.stack(poses)).float(),
            np.array(stamps, np.int64),
            np.stack(depths) if any(depth.any() for depth in depths) else None,
        )

    def subset(self, rows: np.ndarray) -> PosedImages:
        depth = None if self.depth is None else self.depth[rows]
        return PosedImages(self.rgb[rows], self.intrinsics[rows], self.world_T_cam[rows], self.stamps[rows], depth)

    def with_poses(self, world_T_cam: Tensor) -> PosedImages:
        """The same images with other labels."""
        return replace(self, world_T_cam=world_T_cam)


def held_out_blocks(count: int, block: int = 50, held_out: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on, and to hold out: the last 5 of every 50 consecutive frames."""
    index = np.arange(count)
    last = index % block >= block - held_out
    return index[~last], index[last]


class ImageBatch(NamedTuple):
    """Some of the images, as tensors.

    Attributes:
        rgb: (B, 3, H, W) float in [0, 255].
        intrinsics: (B, 4).
        world_T_cam: (B, 4, 4).
        valid: (B, H, W) bool, pixels that come from inside the original image.
        depth: (B, H, W) metres, 0 where unknown.
    """

    rgb: Tensor
    intrinsics: Tensor
    world_T_cam: Tensor
    valid: Tensor
    depth: Tensor


def plain_batch(images: PosedImages, rows: np.ndarray) -> ImageBatch:
    """The images as they are."""
    rgb = torch.from_numpy(images.rgb[rows]).permute(0, 3, 1, 2).float()
    valid = torch.ones(len(rows), *images.rgb.shape[1:3], dtype=torch.bool)
    depth = torch.zeros(valid.shape) if images.depth is None else torch.from_numpy(images.depth[rows])
    return ImageBatch(rgb, images.intrinsics[rows], images.world_T_cam[rows], valid, depth)


def augmented_batch(images: PosedImages, rows: np.ndarray, generator: np.random.Generator) -> ImageBatch:
    """The images turned by up to 15 degrees, zoomed by 2/3 to 3/2, and brighter or darker by up to 10 %.

    Each output is what the camera turned about its axis, with another focal length, would have seen; pose and
    intrinsics follow. Pixels from outside the image are reflected and marked as not valid.
    """
    height, width = images.rgb.shape[1:3]
    rgb = np.empty((len(rows), height, width, 3), np.uint8)
    valid = np.empty((len(rows), height, width), np.uint8)
    depth = np.zeros((len(rows), height, width), np.float32)
    intrinsics, poses = images.intrinsics[rows].clone(), images.world_T_cam[rows].clone()
    ones = np.ones((height, width), np.uint8)
    for k, row in enumerate(rows):
        angle = generator.uniform(-MAX_ROTATION, MAX_ROTATION)
        scale = math.exp(generator.uniform(math.log(SCALES[0]), math.log(SCALES[1])))
        turn = np.eye(3)
        turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        fx, fy, cx, cy = images.intrinsics[row].double().numpy()
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        zoomed = K.copy()
        zoomed[[0, 1], [0, 1]] *= scale
        warp = (zoomed @ turn @ np.linalg.inv(K))[:2]
        rgb[k] = cv2.warpAffine(images.rgb[row], warp, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        valid[k] = cv2.warpAffine(ones, warp, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        if images.depth is not None:  # neither a zoom nor a turn about the optical axis changes it
            depth[k] = cv2.warpAffine(images.depth[row], warp, (width, height), flags=cv2.INTER_NEAREST)
        intrinsics[k, :2] *= scale
        poses[k, :3, :3] = poses[k, :3, :3] @ torch.from_numpy(turn.T).float()
    contrast, brightness = generator.uniform(1 - JITTER, 1 + JITTER, (2, len(rows), 1, 1, 1))
    middle = 255.0 * 0.4
    light = (torch.from_numpy(rgb).permute(0, 3, 1, 2).float() - middle) * torch.from_numpy(contrast).float()
    light = ((light + middle) * torch.from_numpy(brightness).float()).clamp(0, 255)
    return ImageBatch(light, intrinsics, poses, torch.from_numpy(valid.astype(bool)), torch.from_numpy(depth))


def spoilt(poses: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Labels (n, 4, 4) of which ``fraction`` are replaced by the poses of other, randomly chosen frames."""
    count = len(poses)
    wrong = torch.randperm(count, generator=generator)[: round(fraction * count)]
    other = (wrong + torch.randint(1, max(2, count), (len(wrong),), generator=generator)) % count
    result = poses.clone()
    result[wrong] = poses[other]
    return result
