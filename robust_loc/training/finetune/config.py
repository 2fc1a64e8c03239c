"""What a fine-tuning run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_loc.config import Config, parameter
from robust_loc.training.regressor import RegressorTrainingConfig

LABEL_SOURCES = ("topic", "odometry", "localizer")
# Shares of the steps: the scene's points, then the two steps of the Robust-NLL paper.
STAGE_SHARES = {"map": 0.5, "uncertainty": 0.15, "joint": 0.35}


@dataclass(frozen=True)
class FinetuneConfig(Config):
    """Labels, data, training and acceptance of one fine-tuning run."""

    image_topic: str = parameter("", "camera topic in the bags; empty: the only one")
    label_source: str = parameter(
        "topic",
        "poses to learn from: 'topic' (a pose, odometry or tf topic), 'odometry' (an odometry topic, moved into the "
        "map by the localizer's sure poses), 'localizer' (its sure poses themselves)",
        choices=LABEL_SOURCES,
    )
    label_topic: str = parameter("", "topic of the labels, or /tf:parent.child; empty: the bag's ground truth")
    label_gap: float = parameter(0.2, "seconds between two labels across which none is interpolated", minimum=0.0)
    maximum_speed: float = parameter(5.0, "m/s: labels that jump faster than that are left out", minimum=0.0)
    map: Path = parameter(Path(""), "map of the localizer; empty: the weights to be fine-tuned are the localizer")
    features: str = parameter("handmade", "descriptors of that map")
    minimum_probability: float = parameter(
        0.95, "least probability of being right for a localizer's pose to be used", minimum=0.0, maximum=1.0
    )
    maximum_frames: int = parameter(1000, "frames taken from all bags together, evenly spaced", minimum=60)
    holdout_fraction: float = parameter(
        0.2, "share of the frames that is held out, half to calibrate and half to judge", minimum=0.1, maximum=0.6
    )
    stretch: float = parameter(10.0, "seconds; the end of every such stretch is held out", minimum=0.5)
    replay_fraction: float = parameter(0.3, "share of frames of earlier bags", minimum=0.0, maximum=0.9)
    memory: int = parameter(400, "frames kept with the weights for later runs to replay", minimum=0)
    max_steps: int = parameter(1500, "steps of all stages together", minimum=10)
    max_duration: float = parameter(0.0, "seconds of training; 0: no limit", minimum=0.0)
    map_batch: int = parameter(2048, "cells per step of the stage 'map'", minimum=64)
    map_rate: float = parameter(1e-3, "peak learning rate of the scene coordinates", minimum=0.0)
    pose_batch: int = parameter(16, "frames per step of the stages 'uncertainty' and 'joint'", minimum=1)
    uncertainty_rate: float = parameter(5e-4, "peak learning rate of the stage 'uncertainty'", minimum=0.0)
    joint_rate: float = parameter(1e-4, "peak learning rate of the stage 'joint'", minimum=0.0)
    buffer: int = parameter(500_000, "most cells of frames and their augmentations in memory", minimum=1024)
    checkpoint_period: float = parameter(30.0, "seconds between checkpoints", minimum=0.0)
    nll_tolerance: float = parameter(0.1, "nats by which the held-out NLL may rise", minimum=0.0)
    error_tolerance: float = parameter(0.05, "share by which a median error may rise", minimum=0.0)
    recall_tolerance: float = parameter(0.02, "share of all frames that may be lost", minimum=0.0)
    calibration_tolerance: float = parameter(0.2, "rise of |log ANEES| that is allowed", minimum=0.0)
    trim: float = parameter(
        0.1, "share of the held-out frames, those that fit worst, that may have wrong labels", minimum=0.0, maximum=0.5
    )
    device: str = parameter("cpu", "torch device")
    threads: int = parameter(1, "of torch, on a CPU", minimum=1)
    seed: int = parameter(0, "of all random numbers", minimum=0)

    def training(self) -> RegressorTrainingConfig:
        """The trainer's configuration."""
        steps: dict[str, Any] = {
            f"{name}_steps": max(1, round(share * self.max_steps)) for name, share in STAGE_SHARES.items()
        }
        return RegressorTrainingConfig(
            encoder_steps=0, pose_steps=0, **steps, buffer=self.buffer, map_batch=self.map_batch,
            map_rate=self.map_rate, pose_batch=self.pose_batch, pose_rate=self.uncertainty_rate,
            joint_rate=self.joint_rate, seed=self.seed,
        )  # fmt: skip
