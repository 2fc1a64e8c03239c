"""Augmentation of training clips: what another camera would have made of the same images.

Colour and the crop are drawn once per clip; exposure, noise, blur and compression vary from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.types import Camera, FloatArray

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class AugmentationConfig(Config):
    """Probabilities and strengths; DPVO's values for colour and zoom, the rest for small real cameras."""

    colour: float = parameter(0.5, "probability of colour jitter", minimum=0, maximum=1)
    grayscale: float = parameter(0.1, "probability of a grey clip", minimum=0, maximum=1)
    invert: float = parameter(0.1, "probability of an inverted clip", minimum=0, maximum=1)
    zoom: float = parameter(0.8, "probability of a zoom by 2^U(0, 1/2)", minimum=0, maximum=1)
    flip: float = parameter(0.5, "probability of a mirrored clip", minimum=0, maximum=1)
    exposure: float = parameter(0.4, "probability of brightness changes within the clip", minimum=0, maximum=1)
    noise: float = parameter(0.5, "probability of sensor noise", minimum=0, maximum=1)
    blur: float = parameter(0.3, "probability of defocus", minimum=0, maximum=1)
    jpeg: float = parameter(0.3, "probability of JPEG compression", minimum=0, maximum=1)


def photometric(images: Images, config: AugmentationConfig, g: np.random.Generator) -> Images:
    """Colour, exposure, blur, noise and compression of a clip [n, H, W, 3] (RGB)."""
    out = images.astype(np.float32)
    if g.random() < config.colour:
        out = _colour_jitter(out, g)
    if g.random() < config.grayscale:
        out[:] = (out @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    if g.random() < config.invert:
        out = 255 - out
    if g.random() < config.exposure:
        walk = np.cumsum(g.normal(0, 0.06, len(out))) + g.normal(0, 0.1)
        out *= np.exp(np.clip(walk, -0.5, 0.4)).astype(np.float32)[:, None, None, None]
    if g.random() < config.blur:
        sigma = g.uniform(0.3, 1.0)
        out = np.stack([cv2.GaussianBlur(image, (5, 5), sigma) for image in out])
    if g.random() < config.noise:
        strength = g.uniform(1.0, 8.0)
        grain = g.standard_normal(out.shape[1:], np.float32) * strength
        for image in out:  # one field of noise, moved about: as good as a fresh one, and cheap
            image += np.roll(grain, tuple(g.integers(0, grain.shape[:2])), (0, 1))
    result = np.clip(out + 0.5, 0, 255).astype(np.uint8)
    if g.random() < config.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(g.integers(40, 95))]
        for image in result:
            decoded = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
            image[...] = decoded  # channels keep their order: it is read back as it was written
    return result


def _colour_jitter(images: NDArray[np.float32], g: np.random.Generator) -> NDArray[np.float32]:
    """Brightness, contrast and saturation by up to 40 %, and a rotation of the chroma plane by up to 0.2 radians."""
    brightness, contrast, saturation = g.uniform(0.6, 1.4, 3).astype(np.float32)
    out = np.clip(images * brightness, 0, 255)
    out = np.clip((out - out.mean()) * contrast + out.mean(), 0, 255)
    grey = (out @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    angle = g.uniform(-0.2, 0.2)
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    rotation = (np.linalg.inv(yiq) @ turn @ yiq).astype(np.float32)
    return np.clip((grey + saturation * (out - grey)) @ rotation.T, 0, 255)


def zoom_and_crop(
    images: Images,
    depth: NDArray[np.float32],
    camera: Camera,
    size: tuple[int, int],
    config: AugmentationConfig,
    g: np.random.Generator,
) -> tuple[Images, NDArray[np.float32], Camera]:
    """Enlarge a clip at random and cut a window of ``size`` (height, width) out of it.

    A clip smaller than the window is enlarged to fill it. Depth is resampled by nearest neighbour.
    """
    height, width = size
    least = max(height / camera.height, width / camera.width)
    factor = max(2 ** g.uniform(0, 0.5) if g.random() < config.zoom else 1.0, least)
    if least < 0.8:  # the source is much larger: not every crop should be a telephoto lens
        factor = max(factor * least ** g.uniform(0, 1), least)
    new_width, new_height = max(width, round(camera.width * factor)), max(height, round(camera.height * factor))
    left, top = int(g.integers(0, new_width - width + 1)), int(g.integers(0, new_height - height + 1))
    scaled = camera.resized(new_width, new_height).cropped(left, top, width, height)
    # one warp samples only the window: x_source = x_target * s + offset (half-pixel formula)
    sx, sy = camera.width / new_width, camera.height / new_height
    map_x = ((np.arange(width) + left + 0.5) * sx - 0.5).astype(np.float32)
    map_y = ((np.arange(height) + top + 0.5) * sy - 0.5).astype(np.float32)
    affine = np.array([[sx, 0, map_x[0]], [0, sy, map_y[0]]])
    if factor < 0.9:  # cubic interpolation has no low-pass filter
        images = np.stack([cv2.GaussianBlur(image, (0, 0), 0.4 / factor) for image in images])
    flags, border = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    cut = [cv2.warpAffine(image, affine, (width, height), flags=flags, borderMode=border) for image in images]
    rows = np.clip(np.rint(map_y).astype(int), 0, camera.height - 1)
    columns = np.clip(np.rint(map_x).astype(int), 0, camera.width - 1)
    return np.stack(cut), np.ascontiguousarray(depth[:, rows[:, None], columns[None]]), scaled


def mirrored(
    images: Images, depth: NDArray[np.float32], world_T_cam: FloatArray, camera: Camera
) -> tuple[Images, NDArray[np.float32], FloatArray, Camera]:
    """The clip as seen in a mirror: x of the image, of the camera and of the world change sign."""
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped = Camera(camera.width, camera.height, camera.fx, camera.fy, camera.width - 1 - camera.cx, camera.cy)
    return images[:, :, ::-1], depth[:, :, ::-1], mirror @ world_T_cam @ mirror, flipped
