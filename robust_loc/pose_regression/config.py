"""Configuration of the pose-regression network and of the estimator that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robust_loc.config import Config, parameter


@dataclass(frozen=True)
class PoseNetworkConfig(Config):
    """The network's shape. The defaults are the compact network for CPU and Jetson."""

    encoder: str = parameter("handmade", "image encoder", choices=["handmade", "compact", "published"])
    image_height: int = parameter(240, "height images are resized to, in pixels", minimum=64, maximum=1024)
    head_channels: int = parameter(128, "channels of the scene-coordinate head", minimum=16, maximum=1024)
    head_blocks: int = parameter(1, "residual blocks of the scene-coordinate head", minimum=0, maximum=8)
    width: int = parameter(64, "channels of the pose transformer, a multiple of 4 x heads", minimum=16, maximum=1024)
    blocks: int = parameter(4, "self-attention blocks of the pose transformer", minimum=1, maximum=24)
    heads: int = parameter(4, "attention heads", minimum=1, maximum=16)
    blocks_per_stage: int = parameter(
        2, "blocks between two long skips, after each of which a pose is read off", minimum=1
    )
    refinement: int = parameter(
        10, "Gauss-Newton iterations on the scene coordinates after the transformer; 0: none, as published", minimum=0
    )

    @classmethod
    def published(cls) -> PoseNetworkConfig:
        """The published layouts (ACE's encoder and head, marepo's transformer): 12 blocks of 256 channels."""
        return cls(
            encoder="published",
            image_height=480,
            head_channels=512,
            width=256,
            blocks=12,
            heads=8,
            blocks_per_stage=4,
            refinement=0,
        )


@dataclass(frozen=True)
class PoseRegressorConfig(Config):
    """How the estimator runs its network."""

    weights: Path = parameter(Path(""), "scene weights written by 'robust-loc train regressor'")
    device: str = parameter("cpu", "torch device")
    encoder: str = parameter("", "file of 'robust-loc export regressor' that runs the encoder; empty: torch")
    gate: bool = parameter(True, "refuse images that do not look like the training scene")
    minimum_score: float = parameter(
        -1.0,
        "similarity to the training images below which a frame is refused; negative: the weights' own",
        maximum=1.0,
    )
