"""Named training configurations.

``full`` is DPVO's recipe at the size of the official network, ``compact`` a network for CPUs in stages that a CPU can
train, ``tiny`` a demonstration for minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.errors import ConfigurationError
from robust_loc.odometry.network import PatchNetworkConfig
from robust_loc.training.odometry import OptimizerConfig, TrainingConfig
from robust_loc.training.odometry_data import ClipConfig
from robust_loc.training.odometry_losses import LossConfig
from robust_loc.training.odometry_starts import StartConfig
from robust_loc.training.odometry_unroll import UnrollConfig


@dataclass(frozen=True)
class Preset:
    """A run and the clips it is fed."""

    training: TrainingConfig
    clips: ClipConfig


TINY = PatchNetworkConfig(hidden=96, features=32, width=16)
MIXED_STARTS = StartConfig(tracked=0.25, perturbed=0.35)
DIRECT = LossConfig(flow=0.0, pose=0.0, direct=1.0, confidence=0.05, matching=0.3, deviation=0.5)
BOTH = LossConfig(flow=0.1, pose=2.0, direct=1.0, confidence=0.05, matching=0.1, deviation=0.5)


def presets() -> dict[str, Preset]:
    """Every preset by name."""
    return {
        "tiny": Preset(
            TrainingConfig(
                TINY,
                UnrollConfig(steps=6, patches=16, backward_fraction=0.3),
                DIRECT,
                OptimizerConfig(steps=1200, learning_rate=1e-3, warm_up=0.05, structure_only=0),
                MIXED_STARTS,
            ),
            ClipConfig(frames=6, height=96, width=128),
        ),
        # The features alone, by matching: everything after starts from features that can be told apart.
        "compact-matching": Preset(
            TrainingConfig(
                PatchNetworkConfig.compact(),
                UnrollConfig(steps=1, patches=48, bfloat16=True),
                LossConfig(flow=0.0, pose=0.0, matching=1.0),
                OptimizerConfig(steps=1000, learning_rate=2e-3, warm_up=0.05, structure_only=0),
            ),
            ClipConfig(frames=4, slow=0.2),
        ),
        # The direct terms alone: what a CPU learns most from at the beginning.
        "compact-direct": Preset(
            TrainingConfig(
                PatchNetworkConfig.compact(),
                UnrollConfig(steps=8, patches=20, backward_fraction=0.3, bfloat16=True),
                DIRECT,
                OptimizerConfig(steps=1000, learning_rate=1e-3, warm_up=0.05, structure_only=0),
                MIXED_STARTS,
            ),
            ClipConfig(frames=7, height=192, width=256),
        ),
        # The published weighted loss with balancing, the direct terms kept beside it.
        "compact": Preset(
            TrainingConfig(
                PatchNetworkConfig.compact(),
                UnrollConfig(steps=8, patches=20, backward_fraction=0.3, bfloat16=True),
                BOTH,
                OptimizerConfig(
                    steps=3000, learning_rate=6e-4, warm_up=0.02, structure_only=0, balance=True, average=0.99
                ),
                StartConfig(tracked=0.25, perturbed=0.25),
            ),
            ClipConfig(frames=8, height=192, width=256, largest_flow=0.08),
        ),
        # Frames enter one per update, mostly beside a map that is nearly right: what the tracker meets.
        "compact-streaming": Preset(
            TrainingConfig(
                PatchNetworkConfig.compact(),
                UnrollConfig(steps=11, first=5, patches=20, backward_fraction=0.3, bfloat16=True),
                BOTH,
                OptimizerConfig(
                    steps=20_000, learning_rate=4e-4, warm_up=0.02, structure_only=0, balance=True, average=0.99
                ),
                StartConfig(perturbed=0.6, rotation=0.02, translation=0.05, depth=0.3),
            ),
            ClipConfig(frames=10, height=192, width=256, largest_flow=0.07, slow=0.4),
        ),
        # V2V's streaming run: weighted loss, balancing, five times DPVO's learning rate, no structure-only warm-up.
        "full": Preset(
            TrainingConfig(
                optimizer=OptimizerConfig(learning_rate=4e-4, structure_only=0, balance=True),
            ),
            ClipConfig(frames=15, height=480, width=640),
        ),
        "full-non-streaming": Preset(
            TrainingConfig(
                unroll=UnrollConfig(steps=8),
                optimizer=OptimizerConfig(structure_only=0, balance=True),
            ),
            ClipConfig(frames=8, height=480, width=640),
        ),
        # DPVO's own loss and schedule.
        "dpvo": Preset(
            TrainingConfig(loss=LossConfig(weighting="none", flow_span=2)),
            ClipConfig(frames=15, height=480, width=640),
        ),
    }


def preset(name: str) -> Preset:
    """The preset of this name; ConfigurationError lists the known ones."""
    known = presets()
    if name not in known:
        raise ConfigurationError(f"there is no training preset {name!r}; known: {', '.join(known)}")
    return known[name]
