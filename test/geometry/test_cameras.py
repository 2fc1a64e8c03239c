"""Lenses: an undistorted image is what a pinhole would have seen; bad calibrations are refused."""

import numpy as np
import pytest

from robust_loc.errors import CameraError, ImageEncodingError
from robust_loc.geometry import CameraCalibration, Undistorter
from robust_loc.types import Camera

LENSES = {
    "plumb_bob": (-0.283, 0.0740, 0.00019, 0.0000176, 0.0),
    "rational_polynomial": (0.3, -0.2, 0.001, -0.0005, 0.05, 0.6, -0.1, 0.02),
    "equidistant": (-0.01, 0.02, -0.01, 0.002),
}


@pytest.mark.parametrize("model", LENSES)
def test_undistortion_moves_a_point_to_its_pinhole_pixel(model):
    calibration = CameraCalibration(320, 240, 190.0, 188.0, 157.0, 122.0, model, LENSES[model])
    undistorter = Undistorter(calibration)
    rng = np.random.default_rng(0)
    for point in rng.uniform([-0.5, -0.35, 1], [0.5, 0.35, 1], size=(20, 3)):
        (x, y), image = calibration.project(point[None])[0], np.zeros((240, 320), np.float32)
        yy, xx = np.mgrid[:240, :320]
        image[:] = 255 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * 2.0**2))
        seen = undistorter.image(image.astype(np.uint8)).astype(float)
        camera = undistorter.camera
        expected = camera.matrix[:2, :2] @ point[:2] + camera.matrix[:2, 2]
        if not (8 < expected[0] < 311 and 8 < expected[1] < 231):
            continue
        found = np.array([(seen * xx).sum(), (seen * yy).sum()]) / seen.sum()
        np.testing.assert_allclose(found, expected, atol=0.35)


@pytest.mark.parametrize("model", LENSES)
def test_undistorted_image_has_no_pixel_from_outside(model):
    calibration = CameraCalibration(320, 240, 190.0, 188.0, 157.0, 122.0, model, LENSES[model])
    assert Undistorter(calibration).image(np.full((240, 320, 3), 200, np.uint8)).min() > 150


def test_ideal_pinhole_passes_unchanged():
    calibration = CameraCalibration(320, 240, 190.0, 188.0, 157.0, 122.0, "plumb_bob", (0.0,) * 5)
    image = np.arange(240 * 320 * 3, dtype=np.uint8).reshape(240, 320, 3)
    assert Undistorter(calibration).image(image) is image
    assert Undistorter(calibration).camera == calibration.pinhole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fx": 0.0}, "uncalibrated"),
        ({"cy": float("nan")}, "not finite"),
        ({"width": 0}, "positive"),
        ({"distortion_model": "thin_prism", "distortion": (0.1,)}, "thin_prism"),
        ({"distortion": (0.1, 0.2, 0.3)}, "expected 4 or 5"),
        ({"distortion": (0.1, float("nan"), 0.0, 0.0)}, "not finite"),
    ],
)
def test_bad_calibration_is_refused(changes, message):
    good = {"width": 320, "height": 240, "fx": 190.0, "fy": 188.0, "cx": 157.0, "cy": 122.0}
    with pytest.raises(CameraError, match=message):
        CameraCalibration(**{**good, **changes})


def test_image_of_another_size_is_refused():
    with pytest.raises(ImageEncodingError, match="100x50"):
        Undistorter(CameraCalibration(320, 240, 190.0, 188.0, 157.0, 122.0)).image(np.zeros((50, 100), np.uint8))


def test_resizing_keeps_the_ray_of_each_pixel_and_strides_scale_purely():
    camera = Camera(640, 480, 500.0, 510.0, 320.0, 240.0)
    half, stride = camera.resized(320, 240), camera.at_stride(4)
    # the centre of the merged 2x2 pixel block (0..1) is 0.5
    assert (0.5 - camera.cx) / camera.fx == pytest.approx((0 - half.cx) / half.fx)
    assert (4 * 7 - camera.cx) / camera.fx == pytest.approx((7 - stride.cx) / stride.fx)
    assert (stride.width, stride.height) == (160, 120)
