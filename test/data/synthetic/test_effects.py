"""Camera effects do what they say, are repeatable, and can all be off."""

from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from robust_loc.data.synthetic.effects import CameraEffects, EffectsConfig, motion_blur
from robust_loc.data.synthetic.flow import static_flow
from robust_loc.types import Camera

OFF = EffectsConfig.none()


def picture():
    g = np.random.default_rng(3)
    return cv2.GaussianBlur(g.random((60, 80, 3), np.float32), (0, 0), 2.0) * 0.8 + 0.1


def test_a_camera_without_effects_only_rounds():
    image = picture()
    result = CameraEffects(OFF, np.random.default_rng(0)).apply(image)
    assert result.dtype == np.uint8
    assert np.abs(result / 255.0 - image).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("name", [f.name for f in fields(EffectsConfig) if f.name not in ("blur", "rolling_shutter")])
def test_each_effect_alone_changes_the_picture_and_repeats_by_seed(name):
    config = replace(OFF, **{name: 0.1 if name == "noise" else 0.5 if name == "colour" else 1.0})

    def run(seed):
        camera = CameraEffects(config, np.random.default_rng(seed))
        return [camera.apply(picture()) for _ in range(3)]

    plain = CameraEffects(OFF, np.random.default_rng(0)).apply(picture())
    for a, b in zip(run(1), run(1)):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(run(seed)[-1], plain) for seed in range(3))


def test_auto_exposure_brings_dark_and_bright_scenes_to_the_same_brightness():
    config = replace(OFF, auto_exposure=0.4)
    for gain in (0.1, 0.5, 1.0):
        result = CameraEffects(config, np.random.default_rng(0)).apply(picture() * np.float32(gain))
        assert result.mean() / 255 == pytest.approx(0.4, abs=0.03)


def test_sensor_noise_has_the_configured_size():
    camera = CameraEffects(replace(OFF, noise=0.05), np.random.default_rng(4))
    flat = np.full((200, 200, 3), 0.4, np.float32)
    result = camera.apply(flat)
    assert result.std() / 255 == pytest.approx(camera._noise * np.sqrt(0.5), rel=0.05)


def test_motion_blur_smears_along_the_motion_alone():
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1.0
    blurred = motion_blur(image, np.broadcast_to(np.array([8.0, 0.0], np.float32), (41, 41, 2)))
    assert blurred[20, 17:24, 0].min() > 0 and blurred[20, 20, 0] < 0.2
    assert blurred[18, :, 0].max() == 0 and blurred[20, :14].max() == 0


def test_static_flow_is_the_reprojection_of_points():
    camera = Camera(30, 20, 25.0, 26.0, 14.0, 9.0)
    depth = np.random.default_rng(0).uniform(1.0, 4.0, (20, 30)).astype(np.float32)
    depth[0, 0] = 0.0  # infinitely far: only the rotation moves it
    angle = 0.05
    a_T_b = np.eye(4)
    a_T_b[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    a_T_b[:3, 3] = 0.1, -0.05, 0.2
    flow = static_flow(camera, depth, a_T_b)
    K = camera.matrix
    for x, y in ((3, 4), (20, 15), (0, 0)):
        ray = np.linalg.inv(K) @ [x, y, 1.0]
        point = a_T_b[:3, :3] @ ray + (a_T_b[:3, 3] / depth[y, x] if depth[y, x] else 0)
        expected = (K @ point)[:2] / point[2] - [x, y]
        np.testing.assert_allclose(flow[y, x], expected, atol=1e-4)
