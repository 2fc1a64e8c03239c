"""The ray casters give exact depth, agree with each other and do not alias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robust_loc.data.synthetic.movers import Swing, add_movers
from robust_loc.data.synthetic.paths import handheld_path, look_rotation
from robust_loc.data.synthetic.renderer import Renderer, RendererConfig
from robust_loc.data.synthetic.rooms import make_room
from robust_loc.data.synthetic.scene import Mover, Scene, Sky, TextureAtlas, Triangles
from robust_loc.data.synthetic.shapes import Material, box, cylinder, ellipsoid, quad, rigid
from robust_loc.types import Camera

CAMERA = Camera(97, 64, 70.0, 72.0, 47.3, 32.8)
NO_PICTURES = TextureAtlas([])


def pose(position, yaw=0.0, pitch=0.0, roll=0.0):
    result = np.eye(4)
    result[:3, :3] = look_rotation(yaw, pitch, roll)
    result[:3, 3] = position
    return result


def directions(camera, world_T_cam):
    """(H, W, 3) rays in the world with unit component along the optical axis."""
    y, x = np.mgrid[0 : camera.height, 0 : camera.width].astype(float)
    rays = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones_like(x)], -1)
    return rays @ world_T_cam[:3, :3].T


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_depth_inside_a_box_is_the_analytic_one(backend):
    size = np.array([5.0, 4.0, 3.0])
    scene = Scene(box(size, Material()), NO_PICTURES)
    world_T_cam = pose((0.7, -0.4, 1.3), yaw=0.6, pitch=-0.3, roll=0.2)
    view = Renderer(scene, RendererConfig(backend=backend)).render(CAMERA, world_T_cam)
    d = directions(CAMERA, world_T_cam)
    low, high = np.array([-2.5, -2.0, 0.0]), np.array([2.5, 2.0, 3.0])
    walls = np.where(d > 0, high, low)
    expected = ((walls - world_T_cam[:3, 3]) / d).min(axis=-1)
    assert (view.face >= 0).all()
    np.testing.assert_allclose(view.depth, expected, atol=1e-6, rtol=2e-7)


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_depth_of_a_slanted_plane_is_the_analytic_one_and_zero_beside_it(backend):
    corner, right, down = np.array([3.0, 1.5, 2.0]), np.array([1.0, -3.0, 0.2]), np.array([-0.7, 0.1, -1.9])
    scene = Scene(quad(corner, right, down, Material()), NO_PICTURES, sky=Sky(colour=np.array([0.1, 0.2, 0.3])))
    world_T_cam = pose((0.0, 0.0, 1.0))
    view = Renderer(scene, RendererConfig(backend=backend)).render(CAMERA, world_T_cam)
    d = directions(CAMERA, world_T_cam)
    normal = np.cross(right, down)
    t = (corner - world_T_cam[:3, 3]) @ normal / (d @ normal)
    inside = world_T_cam[:3, 3] + t[..., None] * d - corner
    st = np.linalg.lstsq(np.stack([right, down], 1), inside.reshape(-1, 3).T, rcond=None)[0].T
    seen = ((st > 1e-6) & (st < 1 - 1e-6)).all(axis=1).reshape(t.shape)
    assert 0.1 < seen.mean() < 0.9
    np.testing.assert_allclose(view.depth[seen], t[seen], atol=1e-6)
    assert (view.depth[~seen] == 0).mean() > 0.999
    np.testing.assert_allclose(view.rgb[0, 0], [0.1, 0.2, 0.3], atol=1e-6)


def cluttered_scene(seed=0):
    g = np.random.default_rng(seed)
    room = make_room(g)
    extra = [
        cylinder(0.4, 1.5, Material(0, 0.5), 16, 0.5).transformed(rigid(0.3, (0.6, 0.5, 0.0))),
        ellipsoid((0.5, 0.3, 0.4), Material(1, 0.4)).transformed(rigid(1.0, (-0.7, 0.3, 1.0))),
    ]
    triangles = Triangles.concatenate([room.triangles, *extra])
    swing = Swing(np.array([0.3, -0.5, 1.2]), np.array([0.4, 0.1, 0.0]), 0.5, 0.0, 1.0)
    mover = Mover(box((0.3, 0.4, 0.5), Material(2, 0.3)), swing)
    return replace(room, triangles=triangles, movers=(mover,))


def test_compiled_and_torch_ray_casters_give_the_same_picture():
    scene = cluttered_scene()
    compiled, reference = Renderer(scene), Renderer(scene, RendererConfig(backend="torch"))
    for yaw in (0.0, 2.0, 4.0):
        a, b = (r.render(CAMERA, pose((0.1, -0.9, 1.2), yaw, -0.2, 0.1), 0.7) for r in (compiled, reference))
        same = a.face == b.face
        assert same.mean() > 0.999  # ties between coplanar triangles
        np.testing.assert_allclose(a.depth[same], b.depth[same], atol=1e-6)
        assert np.quantile(np.abs(a.rgb - b.rgb), 0.998) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_torch_ray_caster_gives_the_same_picture_on_a_gpu():
    scene = cluttered_scene()
    here, there = (Renderer(scene, RendererConfig(backend="torch", device=d)) for d in ("cpu", "cuda"))
    a, b = (r.render(CAMERA, pose((0.1, -0.9, 1.2), 1.0, -0.2, 0.1), 0.7) for r in (here, there))
    same = a.face == b.face
    assert same.mean() > 0.999
    np.testing.assert_allclose(a.depth[same], b.depth[same], atol=1e-6)
    assert np.quantile(np.abs(a.rgb - b.rgb), 0.998) < 1e-5


def test_a_pose_per_row_that_never_changes_gives_the_picture_of_one_pose():
    caster = Renderer(cluttered_scene(1))
    world_T_cam = pose((0.1, -0.9, 1.2), 1.0)
    one = caster.render(CAMERA, world_T_cam, 0.3)
    rows = caster.render(CAMERA, np.broadcast_to(world_T_cam, (CAMERA.height, 4, 4)), 0.3)
    same = one.face == rows.face
    assert same.mean() > 0.999
    np.testing.assert_allclose(one.depth[same], rows.depth[same], atol=1e-6)
    assert np.abs(one.rgb - rows.rgb)[same].max() < 1e-5


def test_several_threads_give_the_picture_of_one():
    scene = cluttered_scene(2)
    one = Renderer(scene).render(CAMERA, pose((0, 0, 1.2)))
    three = Renderer(scene, RendererConfig(num_threads=3)).render(CAMERA, pose((0, 0, 1.2)))
    np.testing.assert_array_equal(one.rgb, three.rgb)
    np.testing.assert_array_equal(one.depth, three.depth)


def test_no_ray_escapes_from_a_closed_room():
    caster = Renderer(cluttered_scene(3))
    for yaw in np.linspace(0, 6, 5):
        assert (caster.render(CAMERA, pose((0.0, 0.0, 1.5), yaw, 0.4, 0.3)).face >= 0).all()


def test_a_fine_pattern_far_away_is_averaged_instead_of_aliased():
    checks = np.kron(np.indices((64, 64)).sum(0) % 2, np.ones((4, 4)))[..., None] * np.full(3, 255)
    floor = quad(np.array([0.0, 50.0, 0.0]), np.array([200.0, 0, 0]), np.array([0, -100.0, 0]), Material(0, 1.0))
    scene = Scene(floor, TextureAtlas([checks.astype(np.uint8)]))
    view = Renderer(scene).render(CAMERA, pose((0.0, 0.0, 1.0)))
    far = (view.depth > 25) & (view.depth < 60)
    assert far.sum() > 50
    assert view.rgb[far].std() < 0.02


def test_a_mover_is_seen_where_its_trajectory_says():
    scene = Scene(
        quad(np.array([4.0, 9.0, 9.0]), np.array([0, -18.0, 0]), np.array([0, 0, -18.0]), Material()), NO_PICTURES
    )
    swing = Swing(np.array([2.0, 0.0, -0.25]), np.array([0.0, 0.5, 0.0]), 0.25, 0.0, 0.0)
    scene = replace(scene, movers=(Mover(box((0.5, 0.5, 0.5), Material()), swing),))
    caster = Renderer(scene)
    for seconds, offset in ((0.0, 0.0), (1.0, 0.5), (3.0, -0.5)):
        view = caster.render(CAMERA, pose((0, 0, 0)), seconds)
        columns = np.nonzero((view.face >= caster.static_faces).any(axis=0))[0]
        assert abs(columns.mean() - (CAMERA.cx - CAMERA.fx * offset / 1.75)) < 3
        row = view.depth[round(CAMERA.cy)]
        assert row.min() == pytest.approx(1.75, abs=1e-6) and row.max() == pytest.approx(4.0, abs=1e-6)


def test_added_movers_keep_away_from_the_camera():
    g = np.random.default_rng(0)
    scene = make_room(g)
    path = handheld_path(g, scene.free_space, 3.0)
    moved = add_movers(scene, path, 3.0, 3, g)
    assert 1 <= len(moved.movers) <= 3
    caster = Renderer(moved)
    for t in np.linspace(0, 3, 7):
        view = caster.render(CAMERA, path.pose(t), t)
        assert view.depth.min() > 0.15
