"""Validation of an odometry network while it trains: trajectory error of held-out clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from robust_loc.geometry.alignment import umeyama
from robust_loc.geometry.lie import SE3
from robust_loc.odometry.network import PatchNetwork
from robust_loc.odometry.projective import reproject
from robust_loc.training.odometry_data import ClipBatch, ClipConfig, ClipSampler, TrainingSequence
from robust_loc.training.odometry_unroll import Step, UnrollConfig, unroll
from robust_loc.types import FloatArray


@dataclass
class Validation:
    """Fixed clips, patches and starts, so that two networks differ by their weights alone."""

    batches: list[ClipBatch]
    unroll: UnrollConfig

    @classmethod
    def of(cls, sequences: Sequence[TrainingSequence], clips: ClipConfig, count: int = 12, seed: int = 5) -> Validation:
        """``count`` clips of at most 8 frames, without augmentation."""
        config = replace(clips, frames=min(clips.frames, 8))
        sampler = ClipSampler(sequences, config, None, seed)
        return cls([sampler.batch(1) for _ in range(count)], UnrollConfig(steps=12, patches=32))

    @torch.no_grad()
    def __call__(self, network: PatchNetwork) -> dict[str, float]:
        """Errors of a network after the last update.

        Returns:
            ``ate``: mean over clips of the Sim(3)-aligned RMSE of camera centres over the path's length; ``ate_median``
            their median; ``flow``: median distance of revised patch positions from the truth, quarter-res pixels.
        """
        device = next(network.parameters()).device
        ate, flow = [], []
        for number, batch in enumerate(self.batches):
            generator = torch.Generator().manual_seed(number)
            (step,) = deque(unroll(network, batch.to(device), self.unroll, generator), maxlen=1)
            ate.append(_relative_ate(step))
            truth = step.truth
            true = reproject(SE3(truth.poses), truth.patches, truth.intrinsics, step.ii, step.jj, step.kk)
            distance = (step.before[:, 1, 1] + step.delta - true.coords[:, 1, 1]).norm(dim=-1)
            flow.append(float(distance[true.valid].median()))
        return {"ate": float(np.mean(ate)), "ate_median": float(np.median(ate)), "flow": float(np.mean(flow))}


def _relative_ate(step: Step) -> float:
    estimated, target = (_centres(p) for p in (step.poses, step.truth.poses))
    length = float(np.linalg.norm(np.diff(target, axis=0), axis=1).sum())
    try:
        aligned = umeyama(estimated, target, with_scale=True).apply(estimated)
    except ValueError:  # an estimate that collapsed to a point or a line explains nothing
        aligned = np.broadcast_to(target.mean(0), target.shape)
    return float(np.sqrt(((aligned - target) ** 2).sum(1).mean()) / max(length, 1e-9))


def _centres(poses: torch.Tensor) -> FloatArray:
    return SE3(poses.double()).inv().data[:, :3].cpu().numpy()
