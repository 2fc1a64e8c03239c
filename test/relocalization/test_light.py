"""Other light: queries under strong brightness, contrast and colour changes keep their recall."""

import os
from pathlib import Path

import numpy as np
import pytest

from robust_loc.data.datasets import READERS
from robust_loc.features import HandmadeFeatures
from robust_loc.mapping import MapBuilder
from robust_loc.relocalization import Relocalizer
from robust_loc.types import Frame
from robust_loc.uncertainty import pose_error


def clipped(value):
    return np.clip(value, 0, 255).astype(np.uint8)


CHANGES = {
    "overexposed": lambda image: clipped(1.8 * image.astype(float)),
    "dark": lambda image: clipped(0.35 * image.astype(float)),
    "gamma 0.5": lambda image: clipped(255 * (image / 255) ** 0.5),
    "gamma 2.2": lambda image: clipped(255 * (image / 255) ** 2.2),
    "low contrast": lambda image: clipped(128 + 0.4 * (image.astype(float) - 128)),
    "high contrast": lambda image: clipped(128 + 1.8 * (image.astype(float) - 128)),
    "warm": lambda image: clipped(image * [1.3, 1.0, 0.6]),
    "colours exchanged": lambda image: np.ascontiguousarray(image[..., [2, 0, 1]]),
}


def found(relocalizer, frame, change, distance):
    """Whether the changed frame is answered, and answered within ``distance`` (m) and 5 degrees."""
    estimate = relocalizer.update(Frame(change(frame.image), frame.camera, frame.stamp))
    if not estimate.has_pose:
        return False
    error = pose_error(estimate.world_T_cam, frame.world_T_cam)
    return np.linalg.norm(error[:3]) < distance and np.linalg.norm(error[3:]) < np.radians(5)


@pytest.mark.parametrize("name", list(CHANGES))
def test_queries_in_another_light_are_localized(room, room_map, name):
    relocalizer = Relocalizer(room_map)
    queries = room[2:46:8]
    kept = [found(relocalizer, frame, CHANGES[name], 0.1) for frame in queries]
    assert np.mean(kept) >= 0.8


def test_a_gain_leaves_the_descriptors_as_they_are(room):
    half = (room[0].image // 2).astype(np.uint8)
    features = HandmadeFeatures()
    for stride in ("coarse", "fine"):
        whole, dark = (getattr(features.extract(image), stride) for image in (2 * half, half))
        unit = [d / d.norm(dim=-1, keepdim=True).clamp(min=1e-6) for d in (whole, dark)]
        assert (unit[0] * unit[1]).sum(-1).median() > 0.98


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_kitchen_keeps_four_fifths_of_its_recall_in_any_light():
    data = os.environ.get("ROBUST_LOC_DATA")
    if not data:
        pytest.skip("ROBUST_LOC_DATA is not set: no kitchen")
    recording = READERS["folder"](Path(data) / "real/7scenes_redkitchen_a")
    builder = MapBuilder()
    for frame in recording.frames(150, 450):
        builder.add(frame, frame.world_T_cam)
    relocalizer = Relocalizer(builder.finish())
    queries = [next(recording.frames(i, i + 1)) for i in range(450, 600, 15)]
    plain = np.mean([found(relocalizer, frame, lambda image: image, 0.05) for frame in queries])
    assert plain >= 0.9
    for name in ("overexposed", "gamma 2.2", "high contrast", "colours exchanged"):
        kept = np.mean([found(relocalizer, frame, CHANGES[name], 0.05) for frame in queries])
        assert kept >= 0.8 * plain, name
