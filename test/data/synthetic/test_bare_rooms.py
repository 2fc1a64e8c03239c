"""Bare rooms: little texture in reach of the camera, a place to walk, the same room from the same seed."""

import numpy as np
import pytest

from robust_loc.data.synthetic.bare_rooms import Rolled, make_bare_room, paint, panels
from robust_loc.data.synthetic.paths import handheld_path
from robust_loc.data.synthetic.renderer import Renderer
from robust_loc.data.synthetic.rooms import make_room
from robust_loc.types import Camera

CAMERA = Camera(64, 48, 40.0, 40.0, 31.5, 23.5)


def edges(image):
    """Share of pixels with a visible step to the next one."""
    grey = image.astype(float).mean(-1)
    return (np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1]) > 12).mean()


def view(scene):
    path = handheld_path(np.random.default_rng(5), scene.free_space, 2.0)
    found = Renderer(scene).render(CAMERA, path.pose(1.0), 0.0)
    return found.rgb if found.rgb.dtype == np.uint8 else 255 * found.rgb, found.depth


def test_the_same_seed_makes_the_same_room_and_the_camera_sees_walls_everywhere():
    a, b = (view(make_bare_room(np.random.default_rng(3))) for _ in range(2))
    np.testing.assert_array_equal(a[0], b[0])
    assert (a[1] > 0).all() and a[1].max() < 12


def test_bare_rooms_have_far_fewer_edges_than_furnished_ones():
    bare = np.mean([edges(view(make_bare_room(np.random.default_rng(k)))[0]) for k in range(4)])
    furnished = np.mean([edges(view(make_room(np.random.default_rng(k)))[0]) for k in range(4)])
    assert 0 < bare < 0.5 * furnished


@pytest.mark.parametrize("texture", [panels, paint])
def test_panels_and_paint_are_smooth_but_for_their_joints(texture):
    pictures = [texture(np.random.default_rng(k), 128) for k in range(6)]
    assert all(p.shape == (128, 128, 3) and p.dtype == np.uint8 for p in pictures)
    joints = [edges(p) for p in pictures]
    assert max(joints) < 0.2 and (texture is paint or max(joints) > 0.005)


def test_a_rolled_camera_looks_the_same_way():
    class Still:
        def pose(self, seconds):
            return np.diag([1.0, -1.0, -1.0, 1.0])

    pose = Rolled(Still(), 0.3).pose(0.0)
    np.testing.assert_allclose(pose[:3, 2], [0, 0, -1])
    assert np.arccos((np.trace(Still().pose(0)[:3, :3].T @ pose[:3, :3]) - 1) / 2) == pytest.approx(0.3)
