"""The image the network sees: at most so wide, sides multiples of 16, with its camera."""

from __future__ import annotations

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


def working_image(frame: Frame, width: int) -> WorkingImage:
    """Scale ``frame`` down to ``width`` pixels if it is wider (0: never), else crop right and bottom.

    Raises:
        ImageEncodingError: if a side would be shorter than 64 pixels.
    """
    camera = frame.camera
    if 0 < width < camera.width:
        scale = width / camera.width
        size = [max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in (camera.width, camera.height)]
        image = cv2.resize(frame.image, (size[0], size[1]), interpolation=cv2.INTER_AREA)
        result = WorkingImage(np.asarray(image, np.uint8), camera.resized(size[0], size[1]))
    else:
        w, h = camera.width // MULTIPLE * MULTIPLE, camera.height // MULTIPLE * MULTIPLE
        if min(w, h) < SMALLEST:
            w, h = 0, 0
        else:
            result = WorkingImage(np.ascontiguousarray(frame.image[:h, :w]), camera.cropped(0, 0, w, h))
        size = [w, h]
    if min(size) < SMALLEST:
        raise ImageEncodingError(
            f"image is {camera.width}x{camera.height}; odometry needs at least {SMALLEST} pixels a side after scaling"
        )
    return result


def tracked_flow(before: NDArray[np.uint8], after: NDArray[np.uint8], pixels: NDArray[np.float64]) -> float:
    """Median length in pixels of the Lucas-Kanade flow of ``pixels`` [n, 2] between two grey images; 0 without any."""
    start = pixels.astype(np.float32).reshape(-1, 1, 2)
    found, good, _ = cv2.calcOpticalFlowPyrLK(before, after, start, np.zeros_like(start), winSize=(15, 15), maxLevel=4)
    lengths = np.linalg.norm((found - start)[good[:, 0] == 1], axis=-1)
    return float(np.median(lengths)) if len(lengths) else 0.0
