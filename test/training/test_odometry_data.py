"""Training clips: geometry survives every augmentation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from robust_loc.errors import DatasetError
from robust_loc.geometry.lie import SE3
from robust_loc.odometry.patches import random_centres
from robust_loc.odometry.projective import reproject
from robust_loc.training.augmentation import AugmentationConfig, photometric
from robust_loc.training.covisibility import covisibility, sample_clip
from robust_loc.training.odometry_data import ClipConfig, ClipSampler, FrameSequence
from robust_loc.training.odometry_losses import visible
from robust_loc.training.odometry_sources import open_sources
from robust_loc.training.odometry_unroll import truth_of
from robust_loc.types import Camera

CLIPS = ClipConfig(frames=4, height=80, width=112, slow=0.0)
GEOMETRY_ONLY = AugmentationConfig(colour=0, grayscale=0, invert=0, exposure=0, noise=0, blur=0, jpeg=0)


@pytest.mark.parametrize("augmentation", [None, GEOMETRY_ONLY], ids=["plain", "zoomed and mirrored"])
def test_true_geometry_predicts_the_colours_of_the_other_frames(sequences, augmentation):
    """Reprojecting points by the clip's poses and depths finds the same colours in other frames."""
    sampler = ClipSampler(sequences, CLIPS, augmentation, seed=3)
    g = torch.Generator().manual_seed(0)
    for _ in range(4):
        batch = sampler.batch(1)
        centres = random_centres(4, 200, 20, 28, g)
        truth = truth_of(batch, centres)
        kk = torch.arange(800)
        ii, jj = kk // 200, (kk // 200 + 1) % 4
        projected = reproject(SE3(truth.poses), truth.patches, truth.intrinsics, ii, jj, kk)
        position = projected.coords[:, 1, 1]
        seen = visible(truth, position, projected.depth[:, 1, 1], jj, kk)
        # smooth images: a quarter-resolution pixel is full-resolution pixel 4x
        image = torch.nn.functional.avg_pool2d(batch.images[0].float(), 3, 1, 1)

        def colours(xy, frame, image=image):
            x = (4 * xy[:, 0]).round().long().clamp(0, 111)
            y = (4 * xy[:, 1]).round().long().clamp(0, 79)
            return image[frame, :, y, x]

        here, there = colours(centres.reshape(-1, 2)[kk], ii), colours(position, jj)
        unrelated = (here - here.roll(7, 0)).abs().mean()
        assert seen.float().mean() > 0.5
        assert (here - there)[seen].abs().mean() < 0.4 * unrelated


def test_first_frame_is_the_world_and_near_things_have_inverse_depth_one(sequences):
    batch = ClipSampler(sequences, CLIPS, AugmentationConfig(), seed=1).batch(2)
    assert batch.images.shape == (2, 4, 3, 80, 112) and batch.images.dtype == torch.uint8
    assert batch.inverse_depth.shape == (2, 4, 20, 28)
    torch.testing.assert_close(batch.poses[:, 0], SE3.Identity(2).data)
    assert 1.2 < float(batch.inverse_depth.quantile(0.98)) < 1.6


def test_same_seed_gives_the_same_clips_and_the_state_resumes_them_in_any_number_of_processes(sequences):
    a, b = (ClipSampler(sequences, CLIPS, AugmentationConfig(), seed=5) for _ in range(2))
    first = a.batch(2)
    assert all(torch.equal(x, y) for x, y in zip(first, b.batch(2)))
    state = a.state_dict()
    following = a.batch(1)
    for processes in (0, 2):
        c = ClipSampler(sequences, CLIPS, AugmentationConfig(), seed=99, processes=processes)
        c.load_state_dict(state)
        assert all(torch.equal(x, y) for x, y in zip(following, c.batch(1)))


def test_flow_between_frames_is_that_of_the_motion(sequences):
    sequence = sequences[0]
    step = np.linalg.norm(np.diff(sequence.world_T_cam[3:5, :3, 3], axis=0))
    flow = covisibility(sequence.read(range(16))[1], sequence.world_T_cam, sequence.camera)
    # 100 px focal length; half of the wall at 2 m, half at 4 m, more or less
    assert 100 * step / 4.4 < flow[3, 4] < 100 * step / 1.8
    assert flow[3, 4] == pytest.approx(flow[4, 3]) and flow[5, 5] == pytest.approx(0, abs=1e-4)
    assert np.isinf(flow).any() or flow.max() > flow[3, 4]


def test_sky_turns_with_the_camera_and_does_not_hide_a_street():
    camera = Camera(160, 120, 100.0, 100.0, 80.0, 60.0)
    depth = np.full((3, 120, 160), 5.0)
    depth[:, :72] = np.inf  # more sky than MINIMUM_VALID leaves
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, 0, 3] = 0.2  # sideways: 4 px at 5 m, nothing in the sky
    poses[2, :3, :3] = cv2.Rodrigues(np.array([0.0, 0.05, 0.0]))[0]  # 5 px and a little more everywhere
    flow = covisibility(depth, poses, camera)
    ground = (np.linspace(0, 119, 17)[1:-1].astype(int) >= 72).mean()
    assert flow[0, 1] == pytest.approx(4.0 * ground, rel=0.05)
    assert 5.0 < flow[0, 2] < 8.0
    depth[:, :72] = 0.0  # unknown instead: too little is left to judge by
    assert np.isinf(covisibility(depth, poses, camera)).all()


def test_clips_move_by_the_asked_amount():
    position = np.cumsum(np.full(60, 4.0))
    flow = np.abs(position[:, None] - position[None]).astype(np.float32)
    g = np.random.default_rng(0)
    for _ in range(20):
        clip = sample_clip(flow, 6, (7.0, 30.0), g)
        steps = np.abs(np.diff(position[clip]))
        inside = [s for s, k in zip(steps, clip) if 10 <= k < 50]
        assert all(7 < s < 30 for s in inside) and steps.min() > 0


def test_augmentation_keeps_shape_and_type_and_changes_pixels(sequences):
    images = sequences[0].read(range(4))[0]
    everything = AugmentationConfig(colour=1, grayscale=1, invert=1, exposure=1, noise=1, blur=1, jpeg=1)
    out = photometric(images, everything, np.random.default_rng(0))
    assert out.shape == images.shape and out.dtype == np.uint8 and not np.array_equal(out, images)


def test_frames_without_depth_are_refused_by_number(sequences):
    from dataclasses import replace

    frames = list(sequences[0].frames)
    frames[2] = replace(frames[2], depth=None)
    with pytest.raises(DatasetError, match="frame 2 has no depth"):
        FrameSequence(frames)


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(DatasetError, match="expected KIND:PATH"):
        open_sources(["somewhere"])
    with pytest.raises(DatasetError, match="no such folder"):
        open_sources([f"rendered:{tmp_path / 'absent'}"])
    with pytest.raises(DatasetError, match="no sequence of kind"):
        open_sources([f"rendered:{tmp_path}:2.5"])
    with pytest.raises(DatasetError, match="nothing to train on"):
        ClipSampler([], CLIPS, None, 0)
