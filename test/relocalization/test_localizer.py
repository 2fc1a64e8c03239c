"""The relocalizer on a rendered room: poses, covariances, refusals."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from robust_loc.errors import MapFormatError
from robust_loc.features import HandmadeConfig, HandmadeFeatures
from robust_loc.relocalization import Relocalizer, RelocalizerConfig
from robust_loc.types import Camera, Estimate, Frame, Status
from robust_loc.uncertainty import pose_error


@pytest.fixture(scope="module")
def relocalizer(room_map):
    return Relocalizer(room_map)


def distances(estimate, frame):
    error = pose_error(estimate.world_T_cam, frame.world_T_cam)
    return np.linalg.norm(error[:3]), np.linalg.norm(error[3:])


def picture_of(frame, image, camera=None):
    return Frame(np.ascontiguousarray(image, dtype=np.uint8), camera or frame.camera, frame.stamp)


def test_frames_between_the_keyframes_are_localized(relocalizer, room):
    errors = []
    for frame in room[2::8]:
        estimate = relocalizer.update(frame)
        assert estimate.status is Status.OK, estimate.reason
        assert estimate.stamp == frame.stamp and estimate.probability > 0.9 and 0 <= estimate.in_map_score <= 1
        assert np.linalg.eigvalsh(estimate.covariance).min() > 0
        errors.append(distances(estimate, frame))
    assert np.median(errors, axis=0)[0] < 0.03 and np.median(errors, axis=0)[1] < np.radians(0.5)
    assert np.max(errors, axis=0)[0] < 0.15


def test_the_same_frame_gives_the_same_answer(relocalizer, room):
    first, second = (relocalizer.update(room[10]) for _ in range(2))
    np.testing.assert_array_equal(first.world_T_cam, second.world_T_cam)


def test_another_exposure_changes_little(relocalizer, room):
    frame = room[14]
    for alpha, beta in ((0.5, 10), (1.4, 20)):
        estimate = relocalizer.update(picture_of(frame, cv2.convertScaleAbs(frame.image, alpha=alpha, beta=beta)))
        assert estimate.has_pose and distances(estimate, frame)[0] < 0.1


def test_a_camera_of_another_focal_length_and_size_is_localized(relocalizer, room):
    frame = room[18]
    camera = frame.camera.resized(640, 480)
    estimate = relocalizer.update(picture_of(frame, cv2.resize(frame.image, (640, 480)), camera))
    assert estimate.has_pose and distances(estimate, frame)[0] < 0.1


def test_a_prior_is_searched_first(relocalizer, room):
    frame = room[22]
    prior = Estimate(frame.stamp, Status.OK, world_T_cam=frame.world_T_cam, covariance=np.eye(6))
    groups = list(relocalizer._hypotheses(np.array([0]), prior))
    assert {20, 24} <= {4 * k for k in groups[0]} and groups[1][0] == 0
    assert distances(relocalizer.update(frame, prior), frame)[0] < 0.1


def test_a_wrong_prior_does_not_harm(relocalizer, room):
    prior = Estimate(0, Status.OK, world_T_cam=room[47].world_T_cam, covariance=np.eye(6))
    estimate = relocalizer.update(room[6], prior)
    assert estimate.has_pose and distances(estimate, room[6])[0] < 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:, ::-1],
        lambda image: image[::-1, ::-1],
        lambda image: np.full_like(image, 90),
        lambda image: np.zeros_like(image),
        lambda image: np.random.default_rng(0).integers(0, 256, image.shape),
        lambda image: cv2.GaussianBlur(image, (0, 0), 25),
    ],
    ids=["mirrored", "upside down", "grey", "black", "noise", "blurred beyond recognition"],
)
def test_an_image_that_is_not_of_the_map_is_refused_with_the_reason(relocalizer, room, change):
    estimate = relocalizer.update(picture_of(room[10], change(room[10].image)))
    assert estimate.status is Status.REFUSED and not estimate.has_pose
    assert len(estimate.reason) > 20 and estimate.covariance is None


def test_a_tiny_image_fails_with_its_size(relocalizer):
    camera = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
    estimate = relocalizer.update(Frame(np.zeros((48, 64, 3), np.uint8), camera, 0))
    assert estimate.status is Status.FAILED and "64x48" in estimate.reason


def test_a_map_of_other_features_is_refused(room_map):
    with pytest.raises(MapFormatError, match="same features"):
        Relocalizer(room_map, HandmadeFeatures(HandmadeConfig(coarse_temperature=0.02)))


def test_the_calibration_of_the_map_scales_the_covariance(room_map, room, relocalizer):
    factors = {"translation": 3.0, "rotation": 2.0, "samples": 20}
    calibrated = type(room_map)(replace(room_map.info, calibration={"covariance": factors}), room_map.arrays)
    scaled = Relocalizer(calibrated).update(room[10]).covariance
    plain = relocalizer.update(room[10]).covariance
    np.testing.assert_allclose(scaled[:3, :3], 9 * plain[:3, :3])
    np.testing.assert_allclose(scaled[3:, 3:], 4 * plain[3:, 3:])


def test_a_strict_relocalizer_refuses_more(room_map, room):
    strict = Relocalizer(room_map, config=RelocalizerConfig(min_probability=1.0))
    estimate = strict.update(room[10])
    assert estimate.status is Status.REFUSED and estimate.probability > 0.9


def test_a_map_of_three_points_refuses_everything(room_map, room):
    arrays = dict(room_map.arrays)
    kept = 3
    for name in ("observation_point", "observation_pixel", "coarse", "fine"):
        arrays[name] = arrays[name][:kept]
    arrays["observation_start"] = np.minimum(arrays["observation_start"], kept)
    estimate = Relocalizer(type(room_map)(room_map.info, arrays)).update(room[1])
    assert estimate.status is Status.REFUSED and estimate.reason
