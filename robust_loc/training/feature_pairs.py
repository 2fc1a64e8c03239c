"""Pairs of images with corresponding pixels, from clips with depth: what descriptors are trained on.

Both images go through a random similarity (roll, zoom, shift) and random photometry, each its own, so that descriptors
learn to hold across viewpoint, scale, roll and light. Occluded points are left out by their depth. Every pair has one
size, whatever camera it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.data.synthetic.cache import Clip
from robust_loc.errors import DatasetError
from robust_loc.types import Camera, FloatArray

Image = NDArray[np.uint8]
MAX_DRAWS = 2000  # pairs of frames tried for one pair to train on


@dataclass(frozen=True, eq=False)
class FeaturePair:
    """Two images [H, W, 3] and pixels [N, 2] of each that show the same point."""

    source: Image
    target: Image
    source_pixels: FloatArray
    target_pixels: FloatArray


class PairSampler:
    """Draws pairs from clips.

    Args:
        clips: files written by :func:`robust_loc.data.synthetic.cache.write_clip`.
        points: correspondences per pair.
        augment: whether images are turned, zoomed and recoloured.
        size: width and height of the pairs' images; None leaves each clip's own (then all must be alike).
    """

    MAX_OPEN = 8
    MIN_POINTS = 24

    def __init__(
        self,
        clips: Sequence[str | Path],
        points: int = 64,
        augment: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.clips = list(clips)
        self.points = points
        self.augment = augment
        self.size = size
        self._open: dict[Path, Clip] = {}

    def draw(self, rng: np.random.Generator) -> FeaturePair:
        """A pair with at least ``MIN_POINTS`` correspondences; DatasetError when the clips seem to have none."""
        for _ in range(MAX_DRAWS):
            clip = self._clip(Path(self.clips[rng.integers(len(self.clips))]))
            first = int(rng.integers(len(clip)))
            gap = int(rng.integers(1, max(2, len(clip) // 2)))
            second = first + gap if first + gap < len(clip) else max(first - gap, 0)
            pair = self._pair(clip, first, second, rng)
            if pair is not None:
                return pair
        raise DatasetError(f"{MAX_DRAWS} pairs of frames had fewer than {self.MIN_POINTS} points in common")

    def _clip(self, path: Path) -> Clip:
        if path not in self._open:
            if len(self._open) >= self.MAX_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = Clip(path)
        return self._open[path]

    def _pair(self, clip: Clip, first: int, second: int, rng: np.random.Generator) -> FeaturePair | None:
        source, target = clip.image(first), clip.image(second)
        pixels = candidate_pixels(source, 8 * self.points, rng)
        target_T_source = np.linalg.inv(clip.world_T_cam[second]) @ clip.world_T_cam[first]
        moved, seen = transfer(
            pixels, clip.inverse_depth(first), clip.inverse_depth(second), target_T_source, clip.camera
        )
        pixels, moved = pixels[seen], moved[seen]
        width, height = self.size or (clip.camera.width, clip.camera.height)
        fit = max(width / clip.camera.width, height / clip.camera.height)
        if self.augment:
            common = fit * 2 ** rng.uniform(-0.2, 0.8)  # near views show what small images of far ones do not
            source, pixels = similarity(source, pixels, rng, (width, height), common)
            target, moved = similarity(target, moved, rng, (width, height), common)
            source, target = recoloured(source, rng), recoloured(target, rng)
        elif self.size is not None:
            source, pixels = warped(source, pixels, 0.0, fit, np.zeros(2), (width, height))
            target, moved = warped(target, moved, 0.0, fit, np.zeros(2), (width, height))
        size = np.array([width - 1, height - 1])
        inside = np.all((pixels >= 4) & (pixels <= size - 4) & (moved >= 0) & (moved <= size), axis=1)
        chosen = np.flatnonzero(inside)
        if len(chosen) < self.MIN_POINTS:
            return None
        chosen = rng.permutation(chosen)[: self.points]
        return FeaturePair(source, target, pixels[chosen], moved[chosen])


def candidate_pixels(image: Image, count: int, rng: np.random.Generator) -> FloatArray:
    """Corners, and as many pixels anywhere: descriptors are judged on both."""
    height, width = image.shape[:2]
    corners = cv2.goodFeaturesToTrack(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), count // 2, 0.005, 4)
    found = np.empty((0, 2)) if corners is None else corners[:, 0].astype(float)
    anywhere = rng.uniform([0, 0], [width - 1, height - 1], (count // 4, 2))
    return np.concatenate([found, anywhere])


def transfer(
    pixels: FloatArray,
    inverse_depth: NDArray[np.float32],
    other_inverse_depth: NDArray[np.float32],
    other_T_this: FloatArray,
    camera: Camera,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Where pixels [N, 2] appear in another image [N, 2], and whether they are visible there [N] (depth within 3 %)."""
    height, width = inverse_depth.shape
    column, row = np.rint(pixels[:, 0]).astype(int), np.rint(pixels[:, 1]).astype(int)
    inverse = inverse_depth[row, column].astype(float)
    rays = np.concatenate([(pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy], np.ones((len(pixels), 1))], 1)
    # Scaled by the inverse depth, a point at infinity is its ray.
    moved = rays @ other_T_this[:3, :3].T + inverse[:, None] * other_T_this[:3, 3]
    z = np.maximum(moved[:, 2], 1e-9)
    there = moved[:, :2] / z[:, None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    seen = (moved[:, 2] > 1e-6) & np.all((there >= 0) & (there <= [width - 1, height - 1]), axis=1) & (inverse > 0)
    at = np.rint(np.where(seen[:, None], there, 0)).astype(int)
    found = other_inverse_depth[at[:, 1], at[:, 0]]
    return there, seen & (np.abs(found * z / np.maximum(inverse, 1e-9) - 1) < 0.03)


def similarity(
    image: Image,
    pixels: FloatArray,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    zoom: float = 1.0,
) -> tuple[Image, FloatArray]:
    """The image turned by up to 25 degrees (mostly less), zoomed by ``zoom`` times up to 1.3 and shifted.

    Args:
        size: width and height of the result; that of ``image`` if None.

    Returns:
        The image, and its pixels there.
    """
    width, height = size or (image.shape[1], image.shape[0])
    angle, scale = np.clip(rng.normal(0, 9), -25, 25), zoom * 2 ** rng.uniform(-0.4, 0.4)
    return warped(image, pixels, angle, scale, rng.uniform(-0.12, 0.12, 2) * [width, height], (width, height))


def warped(
    image: Image, pixels: FloatArray, angle: float, scale: float, shift: FloatArray, size: tuple[int, int]
) -> tuple[Image, FloatArray]:
    """The image turned by ``angle`` (degrees) and scaled about its centre, which goes to that of ``size``, shifted."""
    height, width = image.shape[:2]
    affine = np.array(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(angle), float(scale)), float)
    affine[:, 2] += (np.array(size) - [width, height]) / 2 + shift
    how = cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR
    turned = cv2.warpAffine(image, affine, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    return turned.astype(np.uint8), pixels @ affine[:, :2].T + affine[:, 2]


def recoloured(image: Image, rng: np.random.Generator) -> Image:
    """Another light and another camera: gain into saturation, gamma, contrast, colours, shade, blur and noise."""
    strength = rng.uniform(0.2, 1.0)
    value = (image.astype(np.float32) / 255) ** np.float32(2 ** (strength * rng.normal(0, 0.7)))
    if rng.random() < 0.1:
        value = value[..., rng.permutation(3)]
    if rng.random() < 0.1:
        value = np.repeat(value @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
    value = value * (2 ** (strength * (rng.normal(0, 0.6) + rng.normal(0, 0.2, 3)))).astype(np.float32)
    offset = 0.5 + strength * rng.normal(0, 0.06)
    value = (value - 0.5) * np.float32(2 ** (strength * rng.normal(0, 0.3))) + np.float32(offset)
    if rng.random() < 0.3:  # one side of the image lies in the shade
        height, width = image.shape[:2]
        direction = strength * rng.normal(0, 0.6, 2)
        ramp = np.linspace(-1, 1, width)[None] * direction[0] + np.linspace(-1, 1, height)[:, None] * direction[1]
        value = value * (2 ** np.clip(ramp, -1, 1)).astype(np.float32)[..., None]
    if rng.random() < 0.3:
        value = np.asarray(cv2.GaussianBlur(value, (0, 0), float(rng.uniform(0.4, 1.4))), np.float32)
    value = value + rng.standard_normal(value.shape, np.float32) * np.float32(rng.uniform(0, 0.03))
    return (np.clip(value, 0, 1) * 255).astype(np.uint8)
