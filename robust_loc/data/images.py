"""Image messages to arrays and back: every supported encoding, row padding and byte order, without ``cv_bridge``.

The functions take the plain fields of ``sensor_msgs/Image`` and ``sensor_msgs/CompressedImage``, so that the nodes
(rclpy messages) and the bag reader (rosbags messages) share them. Nothing here imports ROS.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import ImageEncodingError

# encoding -> (numpy type without byte order, channels)
RAW_ENCODINGS: dict[str, tuple[str, int]] = {
    "mono8": ("u1", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
COLOUR_ENCODINGS = ("mono8", "rgb8", "bgr8", "rgba8", "bgra8")
DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
MILLIMETRES = 1000.0  # REP 118: a 16-bit depth image counts millimetres

Bytes = Any  # bytes, array.array, memoryview or a uint8 array: anything np.frombuffer reads


def raw_array(height: int, width: int, encoding: str, step: int, is_bigendian: int, data: Bytes) -> NDArray[Any]:
    """The pixels as stored: (height, width) or (height, width, channels), channel order untouched, native byte order.

    Args:
        step: bytes per row, padding included; 0 means rows are packed.

    Raises:
        ImageEncodingError: unknown encoding, empty image, step shorter than a row, or too few bytes.
    """
    if encoding not in RAW_ENCODINGS:
        raise ImageEncodingError(f"image encoding {encoding!r} is not supported; use one of {', '.join(RAW_ENCODINGS)}")
    kind, channels = RAW_ENCODINGS[encoding]
    stored = np.dtype((">" if is_bigendian else "<") + kind)
    row = width * channels * stored.itemsize
    step = step or row
    if height <= 0 or width <= 0:
        raise ImageEncodingError(f"image is {width}x{height}; both must be positive")
    if step < row:
        raise ImageEncodingError(f"image step is {step} bytes; a row of {width} {encoding} pixels takes {row}")
    flat = np.frombuffer(data, dtype=np.uint8)
    needed = step * (height - 1) + row  # the last row's padding may be missing
    if flat.size < needed:
        raise ImageEncodingError(f"image holds {flat.size} bytes; {height} rows of {step} bytes need {needed}")
    rows = np.lib.stride_tricks.as_strided(flat, shape=(height, row), strides=(step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).view(stored).astype(stored.newbyteorder("="), copy=False)
    return pixels.reshape((height, width) if channels == 1 else (height, width, channels))


def rgb_from_raw(
    height: int, width: int, encoding: str, step: int, is_bigendian: int, data: Bytes
) -> NDArray[np.uint8]:
    """A camera image as (height, width, 3) uint8 RGB; alpha is dropped, grey is repeated.

    Raises:
        ImageEncodingError: as ``raw_array``, or the encoding is not one of ``COLOUR_ENCODINGS``.
    """
    if encoding not in COLOUR_ENCODINGS:
        raise ImageEncodingError(
            f"camera image encoding {encoding!r} is not supported; use one of {', '.join(COLOUR_ENCODINGS)}"
        )
    pixels = raw_array(height, width, encoding, step, is_bigendian, data)
    if encoding == "mono8":
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if encoding.startswith("bgr"):
        return np.ascontiguousarray(pixels[:, :, 2::-1])
    return np.ascontiguousarray(pixels[:, :, :3])


def depth_from_raw(
    height: int,
    width: int,
    encoding: str,
    step: int,
    is_bigendian: int,
    data: Bytes,
    units_per_metre: float = MILLIMETRES,
) -> NDArray[np.float32]:
    """A depth image as (height, width) float32 metres, 0 where unknown (zero, negative, NaN or infinite).

    Args:
        units_per_metre: scale of integer depth; floating-point depth is in metres (REP 118).
    """
    if encoding not in DEPTH_ENCODINGS:
        raise ImageEncodingError(f"depth encoding {encoding!r} is not supported; use {', '.join(DEPTH_ENCODINGS)}")
    return metric_depth(raw_array(height, width, encoding, step, is_bigendian, data), units_per_metre)


def metric_depth(stored: NDArray[Any], units_per_metre: float = MILLIMETRES) -> NDArray[np.float32]:
    """Stored depth (integer units or float metres) as float32 metres, 0 where unknown."""
    if np.issubdtype(stored.dtype, np.integer):
        return (stored / np.float32(units_per_metre)).astype(np.float32)
    depth = stored.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def rgb_from_compressed(data: Bytes) -> NDArray[np.uint8]:
    """A JPEG or PNG camera image as (height, width, 3) uint8 RGB; the bytes decide the format, not the label.

    Raises:
        ImageEncodingError: the bytes are not a readable 8-bit image.
    """
    import cv2

    # the camera's calibration is of the stored pixels: an orientation tag must not turn them
    decoded = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded.dtype != np.uint8:
        raise ImageEncodingError(f"compressed camera image has {decoded.dtype} pixels; expected 8 bits")
    return np.ascontiguousarray(decoded[:, :, ::-1])


def depth_from_compressed(data: Bytes, image_format: str, units_per_metre: float = MILLIMETRES) -> NDArray[np.float32]:
    """A compressed depth image as (height, width) float32 metres, 0 where unknown.

    Read are a plain 16-bit PNG (``format`` "16UC1; png ..."), and image_transport's ``compressedDepth``: a 12-byte
    header (int32 kind, float32 A, float32 B) before a PNG; for 32FC1 the PNG counts inverse depth ``A / (z - B)``.

    Raises:
        ImageEncodingError: unreadable bytes, an 8-bit image, or the RVL variant.
    """
    import cv2

    payload = np.frombuffer(data, dtype=np.uint8)
    if "compressedDepth" in image_format:
        if "rvl" in image_format.lower():
            raise ImageEncodingError("compressedDepth with RVL is not supported; record it as png or as a raw image")
        if payload.size <= 12:
            raise ImageEncodingError(f"compressedDepth message holds {payload.size} bytes; expected a 12-byte header")
        _, a, b = struct.unpack("<iff", payload[:12].tobytes())
        stored = _decode(payload[12:], cv2.IMREAD_UNCHANGED)
        if image_format.startswith("32FC1"):
            known = stored > 0
            inverse = np.where(known, stored.astype(np.float32) - np.float32(b), np.float32(1))
            return np.where(known, np.float32(a) / inverse, np.float32(0)).astype(np.float32)
    else:
        stored = _decode(payload, cv2.IMREAD_UNCHANGED)
    if stored.ndim != 2 or stored.dtype == np.uint8:
        raise ImageEncodingError(
            f"compressed depth image is {stored.dtype} with shape {stored.shape}; expected one 16-bit channel"
        )
    return metric_depth(stored, units_per_metre)


def depth_png(depth: NDArray[np.floating[Any]], units_per_metre: float = MILLIMETRES) -> bytes:
    """Depth in metres as a 16-bit PNG; unknown, negative and out-of-range values (over 65.535 m in mm) become 0."""
    import cv2

    units = np.nan_to_num(np.asarray(depth, dtype=np.float64) * units_per_metre, nan=0.0, posinf=0.0, neginf=0.0)
    units[(units < 0) | (units > 65535)] = 0
    ok, encoded = cv2.imencode(".png", np.rint(units).astype(np.uint16))
    if not ok:
        raise ImageEncodingError("depth image could not be encoded as PNG")
    return encoded.tobytes()


def rgb_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """An RGB image (height, width, 3) as JPEG bytes."""
    import cv2

    ok, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ImageEncodingError("image could not be encoded as JPEG")
    return encoded.tobytes()


def rgb_png(image: NDArray[np.uint8]) -> bytes:
    """An RGB image (height, width, 3) as PNG bytes (lossless)."""
    import cv2

    ok, encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    if not ok:
        raise ImageEncodingError("image could not be encoded as PNG")
    return encoded.tobytes()


def raw_from_rgb(image: NDArray[np.uint8], encoding: str = "rgb8") -> tuple[bytes, int]:
    """The bytes and row step of an RGB image (height, width, 3) in one of ``COLOUR_ENCODINGS`` (grey: ITU-R 601)."""
    if encoding == "mono8":
        stored = np.rint(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[:, :, None]
    elif encoding in COLOUR_ENCODINGS:
        stored = image[:, :, ::-1] if encoding.startswith("bgr") else image
        if encoding.endswith("a8"):
            stored = np.concatenate([stored, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)
    else:
        raise ImageEncodingError(f"cannot write encoding {encoding!r}; use one of {', '.join(COLOUR_ENCODINGS)}")
    return np.ascontiguousarray(stored).tobytes(), stored.shape[1] * stored.shape[2]


def _decode(data: Bytes, flag: int) -> NDArray[Any]:
    import cv2

    payload = np.frombuffer(data, dtype=np.uint8)
    try:
        decoded = cv2.imdecode(payload, flag) if payload.size else None
    except cv2.error as error:
        raise ImageEncodingError(f"compressed image cannot be decoded: {error}") from error
    if decoded is None:
        raise ImageEncodingError(
            f"compressed image of {payload.size} bytes cannot be decoded (damaged or not an image)"
        )
    return decoded
