"""Image messages of every encoding, with padding and either byte order, become the same RGB image."""

import array

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from sensor_msgs.msg import CompressedImage, Image

from robust_loc.data.images import COLOUR_ENCODINGS
from robust_loc.errors import ImageEncodingError
from robust_loc.nodes import optional
from robust_loc.nodes.conversions import image_message

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def padded(message, padding):
    """The same image with ``padding`` bytes of rubbish after each row."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    rows = np.concatenate([rows, np.full((message.height, padding), 171, np.uint8)], axis=1)
    message.step += padding
    message.data = array.array("B", rows.tobytes())
    return message


@pytest.mark.parametrize("padding", [0, 1, 9])
@pytest.mark.parametrize("bigendian", [0, 1])
@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_every_encoding_arrives_as_rgb_whatever_its_padding_and_byte_order(encoding, bigendian, padding):
    message = padded(image_message(RGB, 1, "camera", encoding), padding)
    message.is_bigendian = bigendian
    expected = RGB
    if encoding == "mono8":
        grey = np.frombuffer(image_message(RGB, 1, "camera", "mono8").data, np.uint8).reshape(5, 7, 1)
        assert np.abs(grey[..., 0].astype(int) - cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)).max() <= 1
        expected = np.repeat(grey, 3, axis=2)
    image = optional.rgb_of(message)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.skipif(optional.cv_bridge is None, reason="cv_bridge is not installed")
@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_our_conversion_follows_cv_bridge(encoding):
    from robust_loc.data import messages

    message = padded(image_message(RGB, 1, "camera", encoding), 3)
    np.testing.assert_array_equal(messages.rgb_of(message), optional.rgb_of(message))


@pytest.mark.parametrize("encoding", ["yuv422", "bayer_rggb8", "16UC1", "32FC1", "", "nonsense"])
def test_other_encodings_are_refused_with_the_supported_ones_named(encoding):
    message = image_message(RGB, 1, "camera")
    message.encoding = encoding
    with pytest.raises(ImageEncodingError, match="mono8, rgb8, bgr8, rgba8, bgra8"):
        optional.rgb_of(message)


@pytest.mark.parametrize(
    ("field", "value"), [("step", 5), ("height", 6), ("height", 0), ("width", 0), ("data", array.array("B"))]
)
def test_an_image_message_that_contradicts_itself_is_refused(field, value):
    message = image_message(RGB, 1, "camera")
    setattr(message, field, value)
    with pytest.raises(ImageEncodingError):
        optional.rgb_of(message)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_compressed_images_arrive_as_rgb(kind):
    smooth = np.zeros((16, 16, 3), np.uint8)
    smooth[..., 0], smooth[..., 2] = 200, 40
    data = cv2.imencode("." + kind, smooth[..., ::-1])[1].tobytes()
    image = optional.rgb_of(CompressedImage(format=kind, data=data))
    assert np.abs(image.astype(int) - smooth).max() <= (0 if kind == "png" else 4)


def test_a_damaged_compressed_image_is_refused():
    with pytest.raises(ImageEncodingError):
        optional.rgb_of(CompressedImage(format="jpeg", data=b"\xff\xd8 nothing"))


def test_an_image_message_takes_its_bytes_over_as_an_array():
    message = image_message(RGB, 1_500_000_000, "camera", "bgr8")
    assert isinstance(message, Image) and isinstance(message.data, array.array)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 500_000_000)
    assert message.step == 21
