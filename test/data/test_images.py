import struct

import cv2
import numpy as np
import pytest

from robust_loc.data import images
from robust_loc.errors import ImageEncodingError

HEIGHT, WIDTH = 5, 7
RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("encoding", images.COLOUR_ENCODINGS)
def test_every_colour_encoding_becomes_rgb_whatever_the_row_padding(encoding, padding):
    data, step = images.raw_from_rgb(RGB, encoding)
    padded = b"".join(
        data[row * step : (row + 1) * step] + bytes(RNG.integers(0, 256, padding, dtype=np.uint8))
        for row in range(HEIGHT)
    )
    decoded = images.rgb_from_raw(HEIGHT, WIDTH, encoding, step + padding, 0, padded)
    expected = RGB
    if encoding == "mono8":
        expected = np.repeat(np.rint(RGB @ [0.299, 0.587, 0.114]).astype(np.uint8)[:, :, None], 3, axis=2)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("is_bigendian", [0, 1])
@pytest.mark.parametrize("encoding, kind", [("16UC1", "u2"), ("mono16", "u2"), ("32FC1", "f4")])
def test_depth_of_either_byte_order_is_in_metres(encoding, kind, is_bigendian):
    metres = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH) / 8
    stored = metres * 1000 if kind == "u2" else metres
    row = stored.astype((">" if is_bigendian else "<") + kind)
    data = b"".join(line.tobytes() + b"\xff\xff\xff" for line in row)
    step = WIDTH * row.itemsize + 3
    decoded = images.depth_from_raw(HEIGHT, WIDTH, encoding, step, is_bigendian, data)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, metres, atol=6e-4)


def test_unknown_depth_is_zero():
    stored = np.array([[np.nan, np.inf, -1.0, 0.0, 2.5]], dtype=np.float32)
    decoded = images.depth_from_raw(1, 5, "32FC1", 20, 0, stored.tobytes())
    np.testing.assert_array_equal(decoded, [[0, 0, 0, 0, 2.5]])


def test_a_missing_padding_of_the_last_row_is_no_error():
    data, step = images.raw_from_rgb(RGB, "rgb8")
    padded = b"".join(data[row * step : (row + 1) * step] + b"\0" * 4 for row in range(HEIGHT))[:-4]
    np.testing.assert_array_equal(images.rgb_from_raw(HEIGHT, WIDTH, "rgb8", step + 4, 0, padded), RGB)


@pytest.mark.parametrize(
    "fields, message",
    [
        ((HEIGHT, WIDTH, "yuv422", 14, 0, b"\0" * 70), "yuv422"),
        ((HEIGHT, WIDTH, "16UC1", 14, 0, b"\0" * 70), "camera image encoding"),
        ((HEIGHT, WIDTH, "rgb8", 20, 0, b"\0" * 105), "step is 20"),
        ((HEIGHT, WIDTH, "rgb8", 21, 0, b"\0" * 104), "holds 104 bytes"),
        ((0, WIDTH, "rgb8", 21, 0, b""), "must be positive"),
    ],
)
def test_bad_raw_images_are_refused_with_the_cause(fields, message):
    with pytest.raises(ImageEncodingError, match=message):
        images.rgb_from_raw(*fields)


def test_compressed_images_come_back_as_rgb():
    np.testing.assert_array_equal(images.rgb_from_compressed(images.rgb_png(RGB)), RGB)
    smooth = cv2.resize(RGB, (64, 64), interpolation=cv2.INTER_CUBIC)
    assert np.abs(images.rgb_from_compressed(images.rgb_jpeg(smooth, 98)).astype(int) - smooth).mean() < 5


def test_a_damaged_compressed_image_is_refused():
    for data in (b"", b"no image", images.rgb_png(RGB)[:30]):
        with pytest.raises(ImageEncodingError, match="cannot be decoded"):
            images.rgb_from_compressed(data)


def test_compressed_depth_is_read_in_each_of_its_three_forms():
    metres = np.linspace(0.5, 4.0, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    metres[0, 0] = 0
    plain = images.depth_png(metres)
    np.testing.assert_allclose(images.depth_from_compressed(plain, "16UC1; png compressed "), metres, atol=6e-4)
    headed = struct.pack("<iff", 0, 0.0, 0.0) + plain
    np.testing.assert_allclose(images.depth_from_compressed(headed, "16UC1; compressedDepth png"), metres, atol=6e-4)
    # image_transport's 32FC1: the PNG counts A / z + B
    a, b = 10_000.0, -100.0
    counts = np.where(metres > 0, np.rint(a / np.maximum(metres, 0.1) + b), 0).astype(np.uint16)
    payload = struct.pack("<iff", 0, a, b) + cv2.imencode(".png", counts)[1].tobytes()
    np.testing.assert_allclose(images.depth_from_compressed(payload, "32FC1; compressedDepth png"), metres, rtol=2e-3)


def test_depth_out_of_the_range_of_a_png_becomes_unknown():
    decoded = images.depth_from_compressed(images.depth_png(np.array([[1.0, 70.0, np.nan, -2.0]])), "16UC1; png")
    np.testing.assert_array_equal(decoded, np.array([[1, 0, 0, 0]], dtype=np.float32))
