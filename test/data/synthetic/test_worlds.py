"""Every kind of world renders; triangle worlds are read as their format says."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from robust_loc.data.synthetic import SequenceConfig, demo_sequence, render_sequence, training_config
from robust_loc.data.synthetic.renderer import Renderer
from robust_loc.data.synthetic.textures import SURFACES, load_pictures
from robust_loc.data.synthetic.worlds import load_world, make_world
from robust_loc.errors import ConfigurationError, DatasetError
from robust_loc.types import Camera

DATA = os.environ.get("ROBUST_LOC_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="ROBUST_LOC_DATA is not set")


def small_world(folder: Path) -> Path:
    """A cube of 2 m with one textured side, one instance moved by (10, 0, 0), and an optional lid."""
    (folder / "textures").mkdir()
    cv2.imwrite(
        str(folder / "textures" / "half.png"), np.repeat([[0], [255]], 32, axis=0).repeat(64, 1).astype(np.uint8)
    )
    verts = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    sides = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    quads = np.array(sides)
    corners = quads.reshape(-1)
    faces = (np.arange(6)[:, None, None] * 4 + [[0, 1, 2], [0, 2, 3]]).reshape(-1, 3).astype(np.int32)
    T = np.stack([np.eye(4)] * 2).astype(np.float32)
    T[:, 0, 3] = 10.0
    T[1, 2, 3] = 5.0
    path = folder / "world.npz"
    np.savez(
        path, verts=verts[corners], uv=verts[corners][:, [1, 2]] / 2 + 0.5, normals=np.zeros((24, 3), np.int8) + 127,
        faces=faces, face_mat=np.repeat([0, 1, 1, 1, 1, 1], 2).astype(np.int16), mesh_vert_range=[[0, 24]],
        mesh_face_range=[[0, 12]], inst_mesh=[0, 0], inst_T=T, inst_optional=[False, True], mat_tex=[0, -1],
        mat_color=np.array([[1, 1, 1], [0.2, 0.4, 0.6]]), tex_file=np.array(["textures/half.png"]),
        light_pos=np.zeros((1, 3)), light_rgb=np.ones((1, 3)), clearance_cm=np.full((9, 9, 9), 90, np.uint8),
        clearance_origin=np.array([9.0, -1.0, -1.0]), clearance_step=0.25,
    )  # fmt: skip
    return path


def test_a_triangle_world_has_its_instances_materials_and_upright_textures(tmp_path):
    world = load_world(small_world(tmp_path))
    assert len(world.triangles) == 24
    assert len(load_world(tmp_path / "world.npz", optional=False).triangles) == 12
    scene = make_world(np.random.default_rng(0), tmp_path / "world.npz", swapped=0.0)
    # from the middle of the cube towards -x: the textured side, dark above as its picture
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    pose[:3, 3] = 10.0, 0.0, 0.0
    view = Renderer(scene).render(Camera(21, 21, 20.0, 20.0, 10.0, 10.0), pose)
    np.testing.assert_allclose(view.depth, 1.0, atol=1e-6)
    assert view.rgb[:8].mean() < 0.05 < 0.2 < view.rgb[13:].mean()
    free = world.free_space
    np.testing.assert_allclose(free.clearance(np.array([[10.0, 0.1, 0.1], [0.0, 0.0, 0.0]])), [0.9, 0.0], atol=1e-6)


def test_a_damaged_or_missing_world_is_refused_by_name(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    for name in ("bad.npz", "none.npz"):
        with pytest.raises(DatasetError, match=name):
            load_world(tmp_path / name)
    with pytest.raises(ConfigurationError, match="world"):
        next(render_sequence(SequenceConfig(kind="world"), 0))
    with pytest.raises(DatasetError, match="no .jpg or .png"):
        load_pictures(tmp_path)


@pytest.mark.parametrize("kind", ["room", "street", "yard"])
def test_each_procedural_world_is_textured_and_has_depth(kind):
    config = SequenceConfig(kind=kind, frames=2, width=160, height=120, flow=(3.0, 10.0), movers=(1, 2))
    for frame in render_sequence(config, 11):
        assert frame.image.std() > 8
        assert (frame.depth > 0).mean() > 0.3
        assert frame.depth[frame.depth > 0].min() > 0.1


@pytest.mark.parametrize("name", sorted(SURFACES))
def test_each_surface_has_detail_and_repeats_by_seed(name):
    a, b = (SURFACES[name](np.random.default_rng(2), 64) for _ in range(2))
    assert a.shape == (64, 64, 3) and a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert np.abs(np.diff(a.astype(int), axis=1)).mean() > 0.3


def test_training_configurations_follow_from_their_seed_and_mix_all_kinds():
    configs = [training_config(seed, worlds=["a.npz", "b.npz"]) for seed in range(200)]
    assert configs[3] == training_config(3, worlds=["a.npz", "b.npz"])
    kinds = [config.kind for config in configs]
    assert {kind: kinds.count(kind) > 5 for kind in ("room", "street", "yard", "world")} == dict.fromkeys(
        ("room", "street", "yard", "world"), True
    )
    assert {str(c.world) for c in configs if c.kind == "world"} == {"a.npz", "b.npz"}


def test_the_demo_recording_is_a_closed_loop_of_textured_frames():
    frames = list(demo_sequence(frames=20, width=96, height=72))
    assert len(frames) == 20 and frames[0].stamp == 1_000_000_000
    positions = np.stack([f.world_T_cam[:3, 3] for f in frames])
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert np.linalg.norm(positions[-1] - positions[0]) < 1.5 * steps.max()
    assert steps.sum() > 4.0
    for frame in frames:
        assert frame.depth.min() > 0.3 and frame.image.std() > 15
    other = list(demo_sequence(frames=2, width=96, height=72, variation=1))
    assert 0.01 < np.linalg.norm(other[0].world_T_cam[:3, 3] - positions[0]) < 0.5


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("name", ["small_house", "bookstore"])
def test_the_given_worlds_render_with_clearance_and_without_holes(name):
    path = Path(str(DATA)) / "worlds" / f"{name}.npz"
    config = SequenceConfig(kind="world", world=path, frames=3, width=160, height=120)
    for frame in render_sequence(config, 2):
        hit = frame.depth > 0
        assert hit.mean() > (0.999 if name == "small_house" else 0.5)
        assert frame.depth[hit].min() > 0.12
        assert frame.image.std() > 5
    world = load_world(path)
    points = world.free_space.sample(np.random.default_rng(0), 50)
    assert world.free_space.clearance(points).max() > 0.3
