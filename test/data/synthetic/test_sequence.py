"""A rendered sequence is consistent with its own depth and poses, repeatable, and survives the disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robust_loc.data.synthetic import (
    Clip,
    EffectsConfig,
    HandheldConfig,
    SequenceConfig,
    list_clips,
    render_sequence,
    write_clip,
)
from robust_loc.data.synthetic.paths import PathError
from robust_loc.errors import ConfigurationError, DatasetError

SMALL = SequenceConfig(frames=3, width=120, height=90, flow=(2.0, 4.0))
IDEAL = SequenceConfig(frames=6, width=160, height=120, effects=EffectsConfig.none(), flow=(2.0, 5.0))


def warped(a, b):
    """Frame b seen from a through a's depth; returns the picture and where b truly sees a's surface."""
    fx, fy, cx, cy = a.camera.intrinsics
    y, x = np.mgrid[0 : a.camera.height, 0 : a.camera.width].astype(float)
    point = np.stack([(x - cx) / fx * a.depth, (y - cy) / fy * a.depth, a.depth, np.ones_like(x)], -1)
    moved = point @ (np.linalg.inv(b.world_T_cam) @ a.world_T_cam).T
    z = np.maximum(moved[..., 2], 1e-6)
    u, v = fx * moved[..., 0] / z + cx, fy * moved[..., 1] / z + cy
    picture = cv2.remap(b.image, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    seen = cv2.remap(b.depth, u.astype(np.float32), v.astype(np.float32), cv2.INTER_NEAREST, borderValue=-1.0)
    inside = (u > 1) & (v > 1) & (u < a.camera.width - 2) & (v < a.camera.height - 2)
    return picture, inside & (a.depth > 0) & (np.abs(seen / z - 1) < 0.02)


@pytest.mark.parametrize("seed", [1, 4])
def test_warping_one_frame_into_another_by_depth_and_pose_gives_the_same_picture(seed):
    frames = list(render_sequence(IDEAL, seed))
    first, last = frames[0], frames[3]
    picture, visible = warped(first, last)
    assert visible.mean() > 0.5
    grey = np.abs(picture.astype(float) - first.image).mean(-1)[visible]
    unaligned = np.abs(last.image.astype(float) - first.image).mean(-1)[visible]
    assert np.median(grey) < 0.4 * np.median(unaligned)
    assert np.median(grey) < 6.0


def test_the_same_seed_gives_the_same_frames_and_another_seed_others():
    one, again, other = (list(render_sequence(SMALL, seed)) for seed in (5, 5, 6))
    for a, b in zip(one, again):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.world_T_cam, b.world_T_cam)
    assert not np.array_equal(one[0].image, other[0].image)


def test_a_path_that_no_room_allows_is_refused():
    config = SequenceConfig(frames=2, width=32, height=24, path=HandheldConfig(clearance=2.0))
    with pytest.raises(PathError, match=r"2\.0 m"):
        next(render_sequence(config, 0))


def test_a_clip_on_disk_gives_back_images_depth_poses_and_camera(tmp_path):
    frames = list(render_sequence(SMALL, 7))
    write_clip(tmp_path / "a.npz", frames, source="test")
    assert list_clips(tmp_path) == [tmp_path / "a.npz"]
    clip = Clip(tmp_path / "a.npz")
    assert len(clip) == 3 and clip.source == "test" and clip.camera == frames[0].camera
    for k, frame in enumerate(frames):
        back = clip.frame(k)
        np.testing.assert_array_equal(back.world_T_cam, frame.world_T_cam)
        np.testing.assert_allclose(back.depth, frame.depth, rtol=6e-4)
        assert back.stamp == frame.stamp
        assert np.abs(back.image.astype(int) - frame.image).mean() < 4


@pytest.mark.parametrize("wrong", [{"rate": (30.0, 10.0)}, {"field_of_view": (50.0,)}, {"flow": (-1.0, 3.0)}])
def test_a_range_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SequenceConfig(**wrong)
    with pytest.raises(ConfigurationError, match="speed"):
        HandheldConfig(speed=("slow", "fast"))


def test_a_file_that_is_no_clip_is_refused_by_name(tmp_path):
    (tmp_path / "b.npz").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"b\.npz"):
        Clip(tmp_path / "b.npz")
    with pytest.raises(DatasetError, match="no frames"):
        write_clip(tmp_path / "c.npz", [])
    assert not (tmp_path / "c.npz").exists()
