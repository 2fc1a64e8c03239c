"""Camera paths are smooth, stay clear of surfaces, stop and turn where they say."""

from __future__ import annotations

import numpy as np
import pytest

from robust_loc.data.synthetic.free_space import BoxFreeSpace
from robust_loc.data.synthetic.paths import (
    CameraPath,
    DriveConfig,
    HandheldConfig,
    PathError,
    Pause,
    Spline,
    drive_path,
    handheld_path,
    look_rotation,
)
from robust_loc.data.synthetic.rooms import make_room

DURATION = 6.0


def poses(path, rate=100.0):
    return np.stack([path.pose(t) for t in np.arange(0, DURATION, 1 / rate)])


def turns(sequence):
    """Rotation angles between consecutive poses."""
    relative = np.swapaxes(sequence[:-1, :3, :3], 1, 2) @ sequence[1:, :3, :3]
    return np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))


@pytest.mark.parametrize("seed", range(4))
def test_a_handheld_path_is_clear_of_surfaces_and_smooth(seed):
    g = np.random.default_rng(seed)
    scene = make_room(g)
    config = HandheldConfig()
    sequence = poses(handheld_path(g, scene.free_space, DURATION, config))
    positions = sequence[:, :3, 3]
    assert scene.free_space.clearance(positions).min() > config.clearance - 0.01
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=1) * 100
    assert speed.max() < 3.0
    assert np.abs(np.diff(speed)).max() < 0.15  # under 15 m/s^2, tremble included
    rate = turns(sequence) * 100
    assert rate.max() < 2.5
    assert np.abs(np.diff(rate)).max() < 0.3
    identity = np.swapaxes(sequence[:, :3, :3], 1, 2) @ sequence[:, :3, :3]
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-12)
    assert np.linalg.det(sequence[:, :3, :3]).min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_car_drives_along_its_road_looking_ahead(seed):
    path, road = drive_path(np.random.default_rng(seed), DURATION, DriveConfig(sideways=0.0, stand_still=0.0))
    sequence = poses(path, 20.0)
    positions = sequence[:, :3, 3]
    distance = np.linalg.norm(positions[:, None, :2] - road[None], axis=-1).min(axis=1)
    assert distance.max() < 2.5
    assert np.ptp(positions[:, 2]) < 0.2
    velocity = np.diff(positions, axis=0) * 20
    speed = np.linalg.norm(velocity, axis=1)
    assert speed.min() > 1.5 and speed.max() < 16
    ahead = (velocity * sequence[:-1, :3, 2]).sum(-1) / speed
    assert ahead.min() > 0.85


def test_pauses_stop_the_position_alone_or_everything():
    ramp = Spline(np.arange(40.0)[:, None] * [0.1, 0.0, 0.0], 0.5)
    angles = Spline(np.arange(40.0)[:, None] * [0.1, 0.0, 0.0], 0.5)
    path = CameraPath(ramp, angles, None, (Pause(1.0, 2.5, True), Pause(4.0, 5.0, False)))
    sequence = poses(path)
    step, turn = np.linalg.norm(np.diff(sequence[:, :3, 3], axis=0), axis=1), turns(sequence)
    assert step[120:230].max() < 1e-12 and turn[120:230].min() > 1e-3
    assert step[420:480].max() < 1e-12 and turn[420:480].max() < 1e-7
    assert step[300:370].min() > 1e-3
    assert np.abs(np.diff(step)).max() < 2e-4  # no jerk at the ends of a stop


def test_look_rotation_points_the_optical_axis_and_keeps_the_horizon():
    R = look_rotation(0.0, 0.0, 0.0)
    np.testing.assert_allclose(R, [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    R = look_rotation(1.0, 0.4, 0.0)
    assert R[2, 0] == pytest.approx(0.0, abs=1e-12)  # x stays level
    assert np.arcsin(R[2, 2]) == pytest.approx(0.4)  # z looks up


def test_a_space_that_is_too_narrow_is_refused():
    free = BoxFreeSpace.build((0, 0, 0), (0.5, 0.5, 2.0), [], (0.5, 1.5), 0.1)
    with pytest.raises(PathError, match="clearance"):
        handheld_path(np.random.default_rng(0), free, 2.0)


def test_clearance_is_the_distance_to_walls_and_turned_boxes():
    free = BoxFreeSpace.build((-5, -5, 0), (5, 5, 3), [((1.0, 0.0, 1.0), (1.0, 0.5, 1.0), np.pi / 2)], (0.5, 2.0))
    points = np.array([[-4.5, 0, 1.5], [1.0, 1.4, 1.0], [2.5, 0.0, 1.0], [1.0, 0.0, 1.0], [6.0, 0, 1]])
    np.testing.assert_allclose(free.clearance(points), [0.5, 0.4, 1.0, -0.5, -1.0], atol=1e-12)
