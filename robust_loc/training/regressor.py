"""Training of the pose regressor for one scene, in five stages that can be resumed one by one.

1. *encoder*: encoder and scene-coordinate head together on the reprojection loss;
   skipped when a trained encoder is given;
2. *map*: the head alone, encoder frozen, from a buffer of features (ACE), with depth where frames have it;
3. *pose*: the pose transformer on stored scene coordinates, coarse to fine (marepo);
4. *uncertainty*: the uncertainty head on the Gaussian NLL, the mean frozen (step 1 of the Robust-NLL paper, Sec. 4.3);
5. *joint*: transformer and uncertainty head together on a robust likelihood (step 2).

Then the scene gate and the covariance factors are set from frames that no stage has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robust_loc.config import Config, parameter
from robust_loc.losses import LabelWeights, information_terms
from robust_loc.pose_regression.network import PoseNetwork, Prediction
from robust_loc.pose_regression.reprojection import depth_loss, reprojection_loss
from robust_loc.pose_regression.scene_gate import describe
from robust_loc.pose_regression.tangent import body_error
from robust_loc.pose_regression.transformer import coarse_to_fine_loss
from robust_loc.training.regressor_data import ImageBatch, PosedImages, augmented_batch, plain_batch
from robust_loc.training.regressor_likelihood import LIKELIHOODS, Likelihood
from robust_loc.training.scene_maps import random_rotations

STAGES = ("encoder", "map", "pose", "uncertainty", "joint")
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class RegressorTrainingConfig(Config):
    """Lengths and rates of the stages. The defaults are the compact preset: one room on two CPU cores."""

    encoder_steps: int = parameter(1500, "steps of the stage 'encoder'", minimum=0)
    encoder_batch: int = parameter(8, "images per step of it", minimum=1)
    encoder_rate: float = parameter(1e-3, "its peak learning rate", minimum=0)
    buffer: int = parameter(1_000_000, "most samples (cells) in the feature buffer", minimum=1024)
    copies: int = parameter(3, "augmentations of each frame in the buffer beside the original", minimum=0, maximum=64)
    map_steps: int = parameter(1500, "steps of the stage 'map'", minimum=0)
    map_batch: int = parameter(2048, "samples per step", minimum=64)
    map_rate: float = parameter(5e-3, "peak learning rate", minimum=0)
    thinning: int = parameter(2, "train the transformer on every n-th row and column of cells", minimum=1, maximum=8)
    pose_steps: int = parameter(2500, "steps of the stage 'pose'", minimum=0)
    uncertainty_steps: int = parameter(400, "steps of the stage 'uncertainty'", minimum=0)
    joint_steps: int = parameter(800, "steps of the stage 'joint'", minimum=0)
    pose_batch: int = parameter(16, "frames per step of the last three stages", minimum=1)
    pose_rate: float = parameter(2e-3, "peak learning rate of 'pose' and 'uncertainty'", minimum=0)
    joint_rate: float = parameter(3e-4, "peak learning rate of 'joint'", minimum=0)
    jitter_rotation: float = parameter(math.radians(15.0), "rotation of the scene about its axes, rad", minimum=0)
    jitter_translation: float = parameter(1.0, "shift of the scene along its axes, m", minimum=0)
    likelihood: str = parameter("consistent", "loss of the stage 'joint'", choices=LIKELIHOODS)
    robust_labels: bool = parameter(False, "weigh down frames whose poses contradict the others in 'map' and 'pose'")
    temperature: float = parameter(1.0, "of the published loss 'robust_nll'", minimum=0)
    seed: int = parameter(0, "of all random numbers", minimum=0)

    @classmethod
    def published(cls) -> RegressorTrainingConfig:
        """The published lengths (ACE: 8 M samples, 16 epochs; marepo: 16 copies), for a GPU."""
        return cls(
            encoder_steps=0, buffer=8_000_000, map_steps=25_000, map_batch=5120, copies=16, thinning=1,
            pose_steps=20_000, uncertainty_steps=5000, joint_steps=5000, pose_batch=64,
        )  # fmt: skip


class FeatureBuffer(NamedTuple):
    """Frozen features of the training frames and their augmentations: memory instead of time.

    Attributes:
        features: (m, h w, C) half precision.
        valid: (m, h, w) bool, cells that lie in the original image.
        depth: (m, h w) metres along the optical axis, 0 where unknown.
        intrinsics: (m, 4).
        frame: (m,) index of the frame a row comes from.
        frame_T_row: (m, 4, 4) the row's camera in the frame's, so that a frame's label can be exchanged.
    """

    features: Tensor
    valid: Tensor
    depth: Tensor
    intrinsics: Tensor
    frame: Tensor
    frame_T_row: Tensor


class StoredScene(NamedTuple):
    """Scene coordinates of the buffer's rows: ``points`` (m, 3, h, w) about the scene's centre, the rest as there."""

    points: Tensor
    valid: Tensor
    intrinsics: Tensor
    frame: Tensor
    frame_T_row: Tensor


class RegressorTrainer:
    """Trains a network in place. Each stage is a method; :meth:`run` calls those that remain."""

    def __init__(
        self,
        network: PoseNetwork,
        config: RegressorTrainingConfig | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.config = config or RegressorTrainingConfig()
        self.network = network.to(device)
        self.device = device
        self.progress: Progress = progress or (lambda stage, step, steps, numbers: None)
        self.likelihood: Likelihood | None = None  # of the stage 'joint', once it has begun
        self.random = np.random.default_rng(self.config.seed)
        torch.manual_seed(self.config.seed)

    def run(
        self, images: PosedImages, stages: tuple[str, ...] = STAGES, done: Callable[[str], None] | None = None
    ) -> None:
        """Run ``stages`` in order; ``done`` is told after each (to save the network)."""
        if "encoder" in stages or "map" in stages:
            self.network.scene.mean.copy_(images.world_T_cam[:, :3, 3].mean(0).reshape(1, 3, 1, 1))
        buffer: FeatureBuffer | None = None
        stored: StoredScene | None = None
        for stage in stages:
            if stage == "encoder":
                self.train_encoder(images)
            elif stage == "map":
                buffer = self.fill_buffer(images)
                self.train_map(buffer, images.world_T_cam)
            else:
                buffer = buffer or self.fill_buffer(images)
                stored = stored or self.store(buffer)
                train = {"pose": self.train_pose, "uncertainty": self.train_uncertainty, "joint": self.train_joint}
                train[stage](stored, images.world_T_cam)
            if done is not None:
                done(stage)
        self.network.eval()

    # ------------------------------------------------------------------ scene coordinates

    def train_encoder(self, images: PosedImages) -> None:
        """Encoder and head on whole images: without a trained encoder. A hand-made one has nothing to learn."""
        if not list(self.network.encoder.parameters()):
            return
        steps, network = self.config.encoder_steps, self.network.train()
        parameters = [*network.encoder.parameters(), *network.scene.parameters()]
        for step, optimizer in self._steps("encoder", parameters, steps, self.config.encoder_rate):
            batch = self._to_device(
                augmented_batch(images, self._draw(len(images), self.config.encoder_batch), self.random)
            )
            points = network.scene(network.encoder(batch.rgb))
            kept = self._cells(batch.valid, points.shape[-2:])
            index = kept.nonzero()[:, 0]
            pixels = network.cell_pixels(*points.shape[-2:]).to(points).permute(1, 2, 0).expand(*kept.shape, 2)[kept]
            loss = reprojection_loss(
                points.permute(0, 2, 3, 1)[kept],
                torch.linalg.inv(batch.world_T_cam)[index],
                batch.intrinsics[index],
                pixels,
                step / steps,
            )
            optimizer.step(loss.loss)
            self.progress("encoder", step, steps, {"pixels": loss.median_error.item(), "valid": loss.valid.item()})

    @torch.no_grad()
    def fill_buffer(self, images: PosedImages) -> FeatureBuffer:
        """Encode every frame, then augmented copies of all of them while the buffer has room."""
        network, parts = self.network.eval(), []
        rows = np.arange(len(images))
        for copy in range(1 + self.config.copies):
            for chunk in np.array_split(rows, math.ceil(len(rows) / 16)):
                batch = plain_batch(images, chunk) if copy == 0 else augmented_batch(images, chunk, self.random)
                batch = self._to_device(batch)
                features = network.encoder(batch.rgb)
                grid = features.shape[-2:]
                frame_T_row = torch.linalg.inv(images.world_T_cam[chunk]).to(self.device) @ batch.world_T_cam
                frame = torch.from_numpy(chunk).to(self.device)
                valid, depth = self._cells(batch.valid, grid), self._cells(batch.depth, grid).flatten(1)
                described = features.flatten(2).transpose(1, 2).half()
                parts.append((described, valid, depth, batch.intrinsics, frame, frame_T_row))
            if (copy + 2) * len(images) * grid[0] * grid[1] > self.config.buffer:
                break
        return FeatureBuffer(*(torch.cat(values) for values in zip(*parts)))

    def train_map(self, buffer: FeatureBuffer, world_T_cam: Tensor) -> None:
        """The head on the buffer (ACE's one cycle and shrinking clamp); known depth fixes the points directly."""
        steps, scene = self.config.map_steps, self.network.scene.train()
        cells = buffer.valid.flatten().nonzero()[:, 0]
        known = cells[buffer.depth.flatten()[cells] > 0]
        height, width = buffer.valid.shape[1:]
        all_pixels = self.network.cell_pixels(height, width).flatten(1).T.to(self.device)
        cam_T_world = torch.linalg.inv(world_T_cam.to(self.device)[buffer.frame] @ buffer.frame_T_row)
        labels = LabelWeights(len(world_T_cam)).to(self.device)
        for step, optimizer in self._steps("map", list(scene.parameters()), steps, self.config.map_rate):
            chosen = cells[torch.randint(len(cells), (self.config.map_batch,), device=self.device)]
            if len(known):  # a third of the batch: frames with depth are rare
                third = self.config.map_batch // 3
                chosen[:third] = known[torch.randint(len(known), (third,), device=self.device)]
            row, cell = chosen // (height * width), chosen % (height * width)
            points = scene(buffer.features[row, cell].float()[..., None, None])[..., 0, 0]
            camera, pixels = buffer.intrinsics[row], all_pixels[cell]
            frame = buffer.frame[row]

            def weigh(error: Tensor, frame: Tensor = frame) -> Tensor:
                return labels(frame, error) if self.config.robust_labels else torch.ones_like(error)

            result = reprojection_loss(points, cam_T_world[row], camera, pixels, step / steps, weigh)
            weight = labels.of_labels()[frame] if self.config.robust_labels else 1.0
            far = depth_loss(points, cam_T_world[row], camera, pixels, buffer.depth[row, cell], weight)
            optimizer.step(result.loss + far)
            self.progress("map", step, steps, {"pixels": result.median_error.item(), "depth": far.item()})

    # ------------------------------------------------------------------ poses

    @torch.no_grad()
    def store(self, buffer: FeatureBuffer) -> StoredScene:
        """The points that the scene-coordinate head sees in the buffer's rows."""
        network, parts = self.network.eval(), []
        height, width = buffer.valid.shape[1:]
        for features in buffer.features.split(64):
            grid = features.float().transpose(1, 2).unflatten(2, (height, width))
            parts.append(network.scene(grid) - network.scene.mean)
        return StoredScene(torch.cat(parts), buffer.valid, buffer.intrinsics, buffer.frame, buffer.frame_T_row)

    def train_pose(self, stored: StoredScene, world_T_cam: Tensor) -> None:
        """The transformer on the coarse-to-fine loss."""
        steps, transformer = self.config.pose_steps, self.network.transformer.train()
        labels = LabelWeights(len(world_T_cam), memory=2.0).to(self.device)
        for step, optimizer in self._steps("pose", list(transformer.parameters()), steps, self.config.pose_rate):
            rows = self._draw_rows(stored)
            prediction, truth = self._predict(stored, world_T_cam, rows)
            losses = coarse_to_fine_loss(prediction.poses, truth)
            weight = labels(stored.frame[rows], losses) if self.config.robust_labels else torch.ones_like(losses)
            loss = (weight * losses).mean()
            optimizer.step(loss)
            self.progress("pose", step, steps, {"loss": loss.item()})

    def train_uncertainty(self, stored: StoredScene, world_T_cam: Tensor) -> None:
        """Step 1: the uncertainty head on the Gaussian NLL, the mean frozen."""
        steps, head = self.config.uncertainty_steps, self.network.uncertainty.train()
        for step, optimizer in self._steps("uncertainty", list(head.parameters()), steps, self.config.pose_rate):
            with torch.no_grad():
                points, intrinsics, stride, valid, truth = self._draw_scene(stored, world_T_cam)
                poses, features = self.network.transformer(points, intrinsics, stride, valid)
            loss = information_terms(body_error(poses[-1], truth), head(features)).nll().mean()
            optimizer.step(loss)
            self.progress("uncertainty", step, steps, {"nll": loss.item()})

    def train_joint(self, stored: StoredScene, world_T_cam: Tensor) -> None:
        """Step 2: transformer and uncertainty head on the configured likelihood."""
        steps, network = self.config.joint_steps, self.network.train()
        likelihood = self.likelihood = Likelihood(self.config.likelihood, self.config.temperature)
        parameters = [*network.transformer.parameters(), *network.uncertainty.parameters()]
        for step, optimizer in self._steps("joint", parameters, steps, self.config.joint_rate):
            prediction, truth = self._predict(stored, world_T_cam)
            loss, numbers = likelihood(body_error(prediction.world_T_cam, truth), prediction.factor)
            optimizer.step(loss)
            self.progress("joint", step, steps, {"loss": loss.item(), **numbers})

    def _draw_rows(self, stored: StoredScene) -> Tensor:
        return torch.from_numpy(self._draw(len(stored.points), self.config.pose_batch)).to(self.device)

    def _draw_scene(
        self, stored: StoredScene, world_T_cam: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
        """A batch in a jittered scene, thinned out: points (B, 3, h, w) about the centre, intrinsics, stride, valid
        cells and true poses about the centre."""
        rows = self._draw_rows(stored) if rows is None else rows
        truth = world_T_cam.to(self.device)[stored.frame[rows]] @ stored.frame_T_row[rows]
        truth[:, :3, 3] -= self.network.scene.mean.reshape(3)
        jitter = self._jitter(len(rows))
        every = self.config.thinning
        x, y = self.random.integers(0, every, 2)
        points, valid = stored.points[rows][..., y::every, x::every], stored.valid[rows][..., y::every, x::every]
        # cell u of the thinned grid stands for pixel stride * (every * u + x)
        corner = stored.intrinsics.new_tensor([0.0, 0.0, float(x), float(y)]) * self.network.stride
        moved = jitter[:, :3, :3] @ points.flatten(2) + jitter[:, :3, 3:]
        intrinsics = stored.intrinsics[rows] - corner
        return moved.view(points.shape), intrinsics, every * self.network.stride, valid, jitter @ truth

    def _predict(
        self, stored: StoredScene, world_T_cam: Tensor, rows: Tensor | None = None
    ) -> tuple[Prediction, Tensor]:
        points, intrinsics, stride, valid, truth = self._draw_scene(stored, world_T_cam, rows)
        poses, features = self.network.transformer(points, intrinsics, stride, valid)
        if self.config.likelihood == "faithful":  # its variance must not shape the features of the mean
            features = features.detach()
        return Prediction(poses, self.network.uncertainty(features)), truth

    def _jitter(self, count: int) -> Tensor:
        """Random rigid motions (count, 4, 4): the scene's frame is arbitrary, and no pose may depend on it."""
        motion = torch.eye(4).repeat(count, 1, 1)
        motion[:, :3, :3] = random_rotations(count, self.config.jitter_rotation, torch.default_generator)
        motion[:, :3, 3] = (2 * torch.rand(count, 3) - 1) * self.config.jitter_translation
        return motion.to(self.device)

    # ------------------------------------------------------------------ held-out frames

    def set_gate(self, training: PosedImages, held_out: PosedImages) -> None:
        """Remember the training images; take the limits of similarity and agreement from the held-out ones."""
        self.network.gate.remember(self._look(training)[0])
        descriptors, agreed = self._look(held_out)
        self.network.gate.set_limits(self.network.gate.similarity(descriptors), agreed)

    @torch.no_grad()
    def _look(self, images: PosedImages) -> tuple[Tensor, Tensor]:
        network, parts = self.network.eval(), []
        for chunk in np.array_split(np.arange(len(images)), math.ceil(len(images) / 32)):
            batch = self._to_device(plain_batch(images, chunk))
            features = network.encoder(batch.rgb)
            points = network.scene(features)
            parts.append((describe(features), network.locate(points, batch.intrinsics).agreement))
        descriptors, agreed = zip(*parts)
        return torch.cat(descriptors), torch.cat(agreed)

    def _cells(self, image: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The values of an image (B, H, W) at the cells' pixels: (B, h, w)."""
        y = (torch.arange(grid[0]) * self.network.stride).clamp(max=image.shape[1] - 1)
        x = (torch.arange(grid[1]) * self.network.stride).clamp(max=image.shape[2] - 1)
        return image[:, y][:, :, x]

    def _draw(self, count: int, size: int) -> np.ndarray:
        return self.random.choice(count, size, replace=count < size)

    def _to_device(self, batch: ImageBatch) -> ImageBatch:
        return ImageBatch(*(value.to(self.device) for value in batch))

    def _steps(
        self, stage: str, parameters: list[nn.Parameter], steps: int, rate: float
    ) -> Iterator[tuple[int, OneCycle]]:
        if steps:
            optimizer = OneCycle(parameters, rate, steps)
            for step in range(steps):
                yield step, optimizer


class OneCycle:
    """AdamW with a one-cycle learning rate and clipped gradients; a step that is not finite is left out."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, steps: int) -> None:
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=rate)
        warm_up = 0.1 if steps != 9 else 0.2  # a tenth of 9 steps peaks at step 0, where torch divides by zero
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps + 1, cycle_momentum=False, pct_start=warm_up
        )

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if norm.isfinite():
            self.optimizer.step()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
