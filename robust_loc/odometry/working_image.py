"""The image the network sees: of at most so many pixels, sides multiples of 16, with its camera."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import ImageEncodingError
from robust_loc.types import Camera, Frame

MULTIPLE = 16
SMALLEST = 64


class WorkingImage(NamedTuple):
    """Attributes: image [H, W, 3] uint8 RGB and its camera."""

    image: NDArray[np.uint8]
    camera: Camera


def working_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Width and height of the working image of a camera; (0, 0) if a side would be shorter than 64 pixels.

    A limit on the area costs the same time for every shape of image; one on the width starves wide images of rows.
    """
    if 0 < pixels < width * height:
        scale = math.sqrt(pixels / (width * height))
        width, height = (max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in (width, height))
    else:
        width, height = width // MULTIPLE * MULTIPLE, height // MULTIPLE * MULTIPLE
    return (width, height) if min(width, height) >= SMALLEST else (0, 0)


def working_image(frame: Frame, pixels: int) -> WorkingImage:
    """Scale ``frame`` down to about ``pixels`` pixels if it has more (0: never), else crop right and bottom.

    Raises:
        ImageEncodingError: if a side would be shorter than 64 pixels.
    """
    camera = frame.camera
    w, h = working_size(camera.width, camera.height, pixels)
    if w == 0:
        raise ImageEncodingError(
            f"image is {camera.width}x{camera.height}; odometry needs at least {SMALLEST} pixels a side after scaling"
        )
    if 0 < pixels < camera.width * camera.height:
        image = cv2.resize(frame.image, (w, h), interpolation=cv2.INTER_AREA)
        return WorkingImage(np.asarray(image, np.uint8), camera.resized(w, h))
    return WorkingImage(np.ascontiguousarray(frame.image[:h, :w]), camera.cropped(0, 0, w, h))


def tracked_flow(before: NDArray[np.uint8], after: NDArray[np.uint8], pixels: NDArray[np.float64]) -> float:
    """Median length in pixels of the Lucas-Kanade flow of ``pixels`` [n, 2] between two grey images; 0 without any."""
    start = pixels.astype(np.float32).reshape(-1, 1, 2)
    found, good, _ = cv2.calcOpticalFlowPyrLK(before, after, start, np.zeros_like(start), winSize=(15, 15), maxLevel=4)
    lengths = np.linalg.norm((found - start)[good[:, 0] == 1], axis=-1)
    return float(np.median(lengths)) if len(lengths) else 0.0
