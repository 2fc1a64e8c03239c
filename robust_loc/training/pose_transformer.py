"""Pre-training of the pose transformer on synthetic scene-coordinate maps; it then serves every scene."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from robust_loc.config import Config, parameter
from robust_loc.pose_regression.transformer import PoseTransformer, coarse_to_fine_loss
from robust_loc.training.checkpoint import load_checkpoint, save_checkpoint
from robust_loc.training.scene_maps import SceneMapConfig, SceneMaps, draw_scene_maps


@dataclass(frozen=True)
class PretrainingConfig(Config):
    steps: int = parameter(100_000, "optimisation steps of the whole schedule", minimum=1)
    batch: int = parameter(64, "maps per step", minimum=1)
    learning_rate: float = parameter(2e-3, "peak of the one-cycle schedule", minimum=0)
    checkpoint_every: int = parameter(1000, "steps between checkpoints", minimum=1)
    seed: int = parameter(0, "of weights and samples", minimum=0)


class TransformerTrainer:
    """One run, resumable: step ``n`` draws the same maps whether or not the run was interrupted before it."""

    def __init__(
        self,
        transformer: PoseTransformer,
        config: PretrainingConfig,
        maps: SceneMapConfig | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.maps, self.device = config, maps or SceneMapConfig(), device
        self.transformer = transformer.to(device)
        self.optimizer = torch.optim.AdamW(self.transformer.parameters(), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.steps + 1, cycle_momentum=False, pct_start=0.05
        )
        self.step = 0

    def train_step(self) -> float:
        """One step on fresh maps; returns its loss."""
        self.transformer.train()
        batch = self._draw(1 + self.config.seed, self.step)
        poses, _ = self.transformer(batch.points, batch.intrinsics, self.maps.stride)
        loss = coarse_to_fine_loss(poses, batch.world_T_cam).mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        if norm.isfinite():
            self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def validate(self, batches: int = 4) -> dict[str, float]:
        """Median position (m) and rotation (degrees) errors on maps that training never draws."""
        self.transformer.eval()
        position, rotation = [], []
        for number in range(batches):
            batch = self._draw(0, number)
            pose = self.transformer(batch.points, batch.intrinsics, self.maps.stride)[0][-1]
            relative = pose[:, :3, :3].mT @ batch.world_T_cam[:, :3, :3]
            cosine = (torch.diagonal(relative, dim1=-2, dim2=-1).sum(-1) - 1) / 2
            rotation.append(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))
            position.append((pose - batch.world_T_cam)[:, :3, 3].norm(dim=-1))
        return {
            "translation": torch.cat(position).median().item(),
            "rotation_deg": torch.cat(rotation).median().item(),
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint into the run's folder."""
        state = {
            "transformer": self.transformer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if isinstance(v, int | float | list)},
        }
        save_checkpoint(folder, self.step, state)

    def load(self, folder: Path) -> None:
        """Go on from the newest checkpoint of the run; WeightsError if there is none."""
        self.step, state = load_checkpoint(folder)
        self.transformer.load_state_dict(state["transformer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def _draw(self, stream: int, number: int) -> SceneMaps:
        generator = torch.Generator().manual_seed(stream * 1_000_003_000 + number)
        maps = draw_scene_maps(self.maps, self.config.batch, generator)
        return SceneMaps(*(value.to(self.device) for value in maps))


def pretrain(
    trainer: TransformerTrainer,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Run to the end of the schedule, or for ``seconds``; checkpoints regularly and at the end."""
    start = time.monotonic()
    while trainer.step < trainer.config.steps and time.monotonic() - start < seconds:
        loss = trainer.train_step()
        if report is not None:
            report(trainer.step, loss)
        if trainer.step % trainer.config.checkpoint_every == 0:
            trainer.save(folder)
    trainer.save(folder)
