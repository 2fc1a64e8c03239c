"""Training of the pose regressor: data, augmentation, stages."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from robust_loc.errors import BagError
from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig
from robust_loc.training.regressor import STAGES, RegressorTrainer, RegressorTrainingConfig
from robust_loc.training.regressor_data import (
    PosedImages,
    augmented_batch,
    held_out_blocks,
    plain_batch,
    spoilt,
)
from robust_loc.training.regressor_likelihood import LIKELIHOODS, Likelihood
from robust_loc.training.regressor_validation import answer, calibrate
from robust_loc.types import Camera, Frame

CAMERA = Camera(96, 64, 70.0, 70.0, 47.5, 31.5)
SMALL = PoseNetworkConfig(encoder="compact", image_height=64, head_channels=16, width=16, blocks=2, heads=2)
SHORT = RegressorTrainingConfig(
    encoder_steps=2, encoder_batch=2, buffer=2048, map_steps=3, map_batch=512, copies=1, thinning=1, pose_steps=3,
    uncertainty_steps=2, joint_steps=2, pose_batch=4,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks on a busy machine are much faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth_image(seed):
    noise = np.random.default_rng(seed).uniform(0, 255, (8, 12)).astype(np.float32)
    import cv2

    return cv2.resize(noise, (96, 64), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def scene(count=24):
    """Smooth images with poses along an arc."""
    frames = []
    for k in range(count):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", 2.0 * k, degrees=True).as_matrix()
        pose[:3, 3] = [0.05 * k, 0.0, 1.0]
        frames.append(Frame(np.repeat(smooth_image(k)[..., None], 3, 2), CAMERA, 10 * k, None, pose))
    return PosedImages.from_frames(frames, 64)


def test_frames_without_a_finite_pose_are_left_out():
    image = np.zeros((64, 96, 3), np.uint8)
    wrong = np.full((4, 4), np.nan)
    frames = [Frame(image, CAMERA, 1, None, np.eye(4)), Frame(image, CAMERA, 2), Frame(image, CAMERA, 3, None, wrong)]
    images = PosedImages.from_frames(frames, 32)
    assert images.stamps.tolist() == [1] and images.rgb.shape == (1, 32, 48, 3)
    np.testing.assert_allclose(images.intrinsics[0], CAMERA.resized(48, 32).intrinsics)
    with pytest.raises(BagError, match="pose"):
        PosedImages.from_frames(frames[1:], 32)


def test_augmented_images_show_the_same_rays_under_their_new_camera():
    """The content at the projection of a world point is the same before and after."""
    images = scene(6)
    rows = np.arange(6)
    batch = augmented_batch(images, rows, np.random.default_rng(0))
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + torch.tensor([0.0, 0.0, 4.0])
    compared = 0
    for k in rows:

        def pixels(pose, intrinsics):
            camera = (torch.linalg.inv(pose) @ torch.cat([points, torch.ones(200, 1)], 1).T)[:3]
            return (camera[:2] / camera[2]).T * intrinsics[:2] + intrinsics[2:]

        before = pixels(images.world_T_cam[k], images.intrinsics[k]).round().long()
        # follow the rounded pixel's own ray into the new image
        ray = (before - images.intrinsics[k, 2:]) / images.intrinsics[k, :2]
        world = images.world_T_cam[k, :3, :3] @ torch.cat([ray, torch.ones(200, 1)], 1).T
        turned = batch.world_T_cam[k, :3, :3].T @ world
        after = (turned[:2] / turned[2]).T * batch.intrinsics[k, :2] + batch.intrinsics[k, 2:]
        x, y = after.round().long().unbind(-1)
        inside = (x >= 2) & (x < 94) & (y >= 2) & (y < 62)
        inside &= (before[:, 0] >= 2) & (before[:, 0] < 94) & (before[:, 1] >= 2) & (before[:, 1] < 62)
        x, y, before = x[inside], y[inside], before[inside]
        assert batch.valid[k, y, x].all()
        old = torch.from_numpy(images.rgb[k, ..., 0])[before[:, 1], before[:, 0]].float()
        new = batch.rgb[k, 0, y, x]
        correlation = np.corrcoef(old, new)[0, 1]  # brightness and contrast may have changed
        assert correlation > 0.97
        compared += len(x)
    assert compared > 300
    torch.testing.assert_close(batch.world_T_cam[:, :3, 3], images.world_T_cam[:, :3, 3])


def test_plain_batch_is_the_image_itself():
    images = scene(2)
    batch = plain_batch(images, np.array([1]))
    torch.testing.assert_close(batch.rgb[0].permute(1, 2, 0), torch.from_numpy(images.rgb[1]).float())


def test_held_out_frames_come_in_blocks():
    train, held_out = held_out_blocks(120)
    assert held_out.tolist() == [45, 46, 47, 48, 49, 95, 96, 97, 98, 99]
    assert sorted([*train, *held_out]) == list(range(120))


def test_spoilt_labels_are_other_frames_poses():
    poses = scene(20).world_T_cam
    wrong = spoilt(poses, 0.5, torch.Generator().manual_seed(0))
    changed = (wrong != poses).flatten(1).any(-1)
    assert changed.sum() == 10
    for row in wrong:
        assert (row == poses).flatten(1).all(-1).any()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_prefers_the_truth(name):
    error = torch.full((8, 6), 0.3)
    factor = 5 * torch.eye(6).expand(8, 6, 6)
    likelihood = Likelihood(name)
    variable = error.clone().requires_grad_()
    likelihood(variable, factor)[0].backward()
    assert (variable.grad > 0).all()


def test_all_stages_run_and_change_their_own_part_only():
    images = scene()
    torch.manual_seed(0)
    network = PoseNetwork(SMALL)
    parts = {"encoder": {"encoder", "scene"}, "map": {"scene"}, "pose": {"transformer"}}
    parts |= {"uncertainty": {"uncertainty"}, "joint": {"transformer", "uncertainty"}}
    trainer = RegressorTrainer(network, SHORT)
    trainer.run(images, ())
    before = {name: value.clone() for name, value in network.named_parameters()}

    def done(stage):
        after = dict(network.named_parameters())
        changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == parts[stage]
        before.update({name: value.detach().clone() for name, value in after.items()})

    trainer.run(images, STAGES, done)
    torch.testing.assert_close(network.scene.mean.reshape(3), images.world_T_cam[:, :3, 3].mean(0))


def test_the_same_seed_gives_the_same_weights():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        network = PoseNetwork(SMALL)
        RegressorTrainer(network, SHORT).run(scene())
        results.append(network.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name])


def test_jittered_scenes_keep_points_and_poses_together():
    """A point in the row's camera frame is the same before and after the jitter, whatever the label says."""
    images = scene()
    network = PoseNetwork(SMALL)
    trainer = RegressorTrainer(network, SHORT)
    stored = trainer.store(trainer.fill_buffer(images))
    trainer._draw = lambda count, size: np.arange(len(images), len(images) + 4)  # augmented rows
    points, _, _, _, truth = trainer._draw_scene(stored, images.world_T_cam)
    rotation, position = truth[:, :3, :3], truth[:, :3, 3:]
    in_camera = rotation.mT @ (points.flatten(2) - position)
    rows = stored.frame_T_row[len(images) : len(images) + 4]
    unjittered = images.world_T_cam[:4] @ rows
    expected = unjittered[:, :3, :3].mT @ (
        stored.points[len(images) : len(images) + 4].flatten(2)
        - unjittered[:, :3, 3:]
        + network.scene.mean.reshape(3, 1)
    )
    torch.testing.assert_close(in_camera, expected, atol=1e-4, rtol=1e-4)


def test_thinned_scenes_keep_each_cell_on_its_ray():
    """The pixel a thinned cell stands for, seen through the shifted intrinsics, is the original cell's ray."""
    images = scene()
    trainer = RegressorTrainer(PoseNetwork(SMALL), RegressorTrainingConfig(thinning=2, pose_batch=8))
    stored = trainer.store(trainer.fill_buffer(images))
    stored = stored._replace(points=torch.zeros_like(stored.points))
    pixel_x = 16.0 * torch.arange(stored.points.shape[-1])
    ray_x = (pixel_x - stored.intrinsics[:, 2, None]) / stored.intrinsics[:, 0, None]
    stored.points[:, 0] = ray_x[:, None]
    trainer._jitter = lambda count: torch.eye(4).repeat(count, 1, 1)
    for _ in range(4):
        points, intrinsics, stride, valid, _ = trainer._draw_scene(stored, images.world_T_cam)
        columns = stride * torch.arange(points.shape[-1])
        expected = (columns - intrinsics[:, 2, None]) / intrinsics[:, 0, None]
        assert stride == 32 and valid.shape[1:] == points.shape[2:]
        torch.testing.assert_close(points[:, 0], expected[:, None].expand(points[:, 0].shape))


def test_pose_stage_learns_to_read_poses_off_scene_coordinates():
    config = RegressorTrainingConfig(pose_steps=60, pose_batch=8, jitter_rotation=0.1, jitter_translation=0.1)
    images = scene()
    losses = []
    torch.manual_seed(0)
    trainer = RegressorTrainer(PoseNetwork(SMALL), config, progress=lambda *report: losses.append(report[3]["loss"]))
    trainer.train_pose(trainer.store(trainer.fill_buffer(images)), images.world_T_cam)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_calibrated_covariances_have_the_size_of_the_held_out_errors():
    torch.manual_seed(0)
    network, images = PoseNetwork(SMALL), scene()
    factors = calibrate(network, images)
    answers = answer(network, images)
    scaled = factors.apply(answers.covariance)
    squared = np.einsum("ni,nij,nj->n", answers.error[:, :3], np.linalg.inv(scaled[:, :3, :3]), answers.error[:, :3])
    assert np.median(squared) == pytest.approx(2.366, rel=1e-3)


def test_gate_accepts_held_out_frames_and_sets_its_limits():
    torch.manual_seed(0)
    network, images = PoseNetwork(SMALL), scene()
    trainer = RegressorTrainer(network, SHORT)
    trainer.set_gate(images.subset(np.arange(0, 24, 2)), images.subset(np.arange(1, 24, 2)))
    descriptors, agreed = trainer._look(images)
    assert (network.gate.similarity(descriptors) >= network.gate.minimum_similarity).all()
    assert (agreed >= network.gate.minimum_agreement).float().mean() > 0.9
