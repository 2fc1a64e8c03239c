"""Clips and networks of the small-scale experiments on the weighted flow loss."""

from __future__ import annotations

from pathlib import Path

import torch

from robust_loc.odometry.network import PatchNetworkConfig
from robust_loc.training.augmentation import AugmentationConfig
from robust_loc.training.odometry import OptimizerConfig, TrainingConfig
from robust_loc.training.odometry_data import ClipBatch, ClipConfig, ClipSampler
from robust_loc.training.odometry_losses import LossConfig
from robust_loc.training.odometry_sources import open_sources
from robust_loc.training.odometry_unroll import UnrollConfig

NETWORK = PatchNetworkConfig(hidden=96, features=32, width=16)
CLIPS = ClipConfig(frames=6, height=96, width=128, slow=0.0, largest_flow=0.06)
UNROLL = UnrollConfig(steps=6, first=6, patches=12, backward_fraction=1.0)
STREAMING = UnrollConfig(steps=9, first=4, patches=12, backward_fraction=1.0)

# weighting of the flow loss x balancing of the terms
ARMS = {
    "plain": ("none", False),
    "weighted": ("linear", False),
    "plain, balanced": ("none", True),
    "weighted, balanced": ("linear", True),
}


def sampler(folder: Path, seed: int, augmented: bool = True) -> ClipSampler:
    """Clips of the rendered sequences in ``folder``."""
    mixture = open_sources([f"rendered:{folder}"])
    return ClipSampler(mixture.sequences, CLIPS, AugmentationConfig() if augmented else None, seed, mixture.weights)


def fixed_clips(folder: Path, count: int, seed: int = 5) -> list[ClipBatch]:
    """The same ``count`` clips for every arm."""
    source = sampler(folder, seed, augmented=False)
    return [source.batch(1) for _ in range(count)]


def arm(name: str, steps: int, seed: int, streaming: bool, rate: float = 4e-4) -> TrainingConfig:
    """The training configuration of one arm: published loss and coefficients, nothing of ours."""
    weighting, balance = ARMS[name]
    return TrainingConfig(
        NETWORK,
        STREAMING if streaming else UNROLL,
        LossConfig(weighting=weighting),
        OptimizerConfig(
            steps=steps, learning_rate=rate, warm_up=0.05, structure_only=0, balance=balance, balance_period=20
        ),
        seed=seed,
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
