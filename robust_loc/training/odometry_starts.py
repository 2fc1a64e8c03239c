"""Where the unrolled estimate of a training clip begins.

DPVO begins every clip at identity poses and random depths. A tracker is seldom there: most of its updates see poses
and depths that are nearly right, and one new frame. Beginning some clips so gives those updates their share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robust_loc.config import Config, parameter
from robust_loc.geometry.lie import SE3
from robust_loc.training.odometry_unroll import Start, StartRule, Truth


@dataclass(frozen=True)
class StartConfig(Config):
    """Probabilities of beginning a clip elsewhere than at identity poses and random depths."""

    tracked: float = parameter(0.0, "near the truth, but for the last frame, which begins at the one before", minimum=0)
    perturbed: float = parameter(0.0, "all poses and depths disturbed", minimum=0)
    rotation: float = parameter(0.03, "largest standard deviation of disturbed rotations, radians", minimum=0)
    translation: float = parameter(0.1, "that of translations, relative to the clip's extent", minimum=0)
    depth: float = parameter(0.5, "that of the logarithm of inverse depths", minimum=0)


def mixed_start(config: StartConfig) -> StartRule | None:
    """A rule that draws the kind of start of each clip; None when all begin as DPVO does."""
    if not config.tracked and not config.perturbed:
        return None

    def rule(truth: Truth, length: int, generator: torch.Generator) -> Start:
        device, clips = truth.poses.device, len(truth.poses) // length
        uniform = torch.rand(clips, 4, generator=generator).to(device)
        tracked = uniform[:, 0] < config.tracked
        cold = uniform[:, 0] >= config.tracked + config.perturbed
        # tracked poses are good already; the others are disturbed by up to the configured amount
        strength = torch.where(tracked[:, None], 0.3 * uniform[:, 1:], uniform[:, 1:])
        poses = truth.poses.view(clips, length, 7)
        extent = torch.linalg.norm(poses[..., :3], dim=-1).amax(1)
        noise = torch.randn(clips, length, 6, generator=generator).to(device)
        noise[..., :3] *= (config.translation * strength[:, 0] * extent)[:, None, None]
        noise[..., 3:] *= (config.rotation * strength[:, 1])[:, None, None]
        noise[:, 0] = 0  # the first frame is the world
        disturbed = SE3(poses).retr(noise).data
        disturbed[:, -1] = torch.where(tracked[:, None], disturbed[:, -2], disturbed[:, -1])

        depth = truth.patches[:, 2, 1, 1].view(clips, length, -1).clamp(min=1e-2)
        factor = (
            torch.randn(depth.shape, generator=generator).to(device) * (config.depth * strength[:, 2])[:, None, None]
        )
        depth = depth * factor.exp()
        median = depth[:, :-1].flatten(1).median(1).values[:, None]
        depth[:, -1] = torch.where(tracked[:, None], median, depth[:, -1])

        identity = SE3.Identity(clips, length, device=device).data
        random = torch.rand(depth.shape, generator=generator).to(device)
        poses = torch.where(cold[:, None, None], identity, disturbed)
        depth = torch.where(cold[:, None, None], random, depth)
        return Start(poses.flatten(0, 1), depth.flatten())

    return rule
