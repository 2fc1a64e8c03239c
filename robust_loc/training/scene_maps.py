"""Unlimited synthetic scene-coordinate maps: what the pose transformer is pre-trained on. Geometry only, no images.

Each sample is a furnished room of its own, ray-cast at the cells of a feature map, with the errors of a real
scene-coordinate network: noise of a scale drawn per sample, and a share of cells that are plainly wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robust_loc.config import Config, parameter

BOXES = 10


@dataclass(frozen=True)
class SceneMapConfig(Config):
    """Ranges that the samples are drawn from, uniformly unless said otherwise."""

    height: int = parameter(15, "rows of cells", minimum=2)
    width: int = parameter(20, "columns of cells", minimum=2)
    stride: int = parameter(16, "pixels per cell", minimum=1)
    largest_noise: float = parameter(0.1, "largest deviation of a cell, m (log-uniform from 5 mm)", minimum=0.005)
    largest_outliers: float = parameter(0.3, "largest share of wrong cells", minimum=0, maximum=1)
    jitter_rotation: float = parameter(math.pi, "rotation of the world's axes, rad", minimum=0)
    jitter_translation: float = parameter(1.0, "shift of the world's origin, m", minimum=0)


class SceneMaps(NamedTuple):
    """A batch about its scenes' centres.

    Attributes:
        points: (B, 3, h, w) metres, with errors.
        intrinsics: (B, 4) ``fx fy cx cy`` in pixels of an image in which cell (u, v) is pixel ``stride * (u, v)``.
        world_T_cam: (B, 4, 4), exact.
    """

    points: Tensor
    intrinsics: Tensor
    world_T_cam: Tensor


def draw_scene_maps(config: SceneMapConfig, count: int, generator: torch.Generator) -> SceneMaps:
    """``count`` samples on the CPU; the same generator state gives the same samples."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    half_room = torch.cat([uniform(1.5, 5.0, count, 2), uniform(1.1, 1.8, count, 1)], -1)
    position = half_room * torch.cat([uniform(-0.8, 0.8, count, 2), uniform(-0.6, 0.6, count, 1)], -1)
    rotation = _looking(uniform(-math.pi, math.pi, count), uniform(-0.5, 0.5, count), uniform(-0.25, 0.25, count))

    pixels_wide = config.width * config.stride
    focal = uniform(0.6, 1.4, count) * pixels_wide
    centre = 0.5 * torch.tensor([pixels_wide, config.height * config.stride]) + 0.03 * pixels_wide * torch.randn(
        count, 2, generator=generator
    )
    intrinsics = torch.cat([focal[:, None], focal[:, None], centre], -1)

    v, u = torch.meshgrid(torch.arange(config.height), torch.arange(config.width), indexing="ij")
    pixels = config.stride * torch.stack([u, v], -1).float().flatten(0, 1)
    rays = torch.cat([(pixels - centre[:, None]) / focal[:, None, None], torch.ones(count, len(pixels), 1)], -1)
    directions = rays @ rotation.mT
    distance = _cast(position, directions, half_room, uniform, count)
    points = position[:, None] + distance[..., None] * directions

    noise = torch.exp(uniform(math.log(0.005), math.log(config.largest_noise), count, 1, 1))
    points = points + noise * torch.randn(points.shape, generator=generator)
    wrong = torch.rand(count, len(pixels), 1, generator=generator) < uniform(0, config.largest_outliers, count, 1, 1)
    elsewhere = half_room[:, None] * uniform(-1.0, 1.0, count, len(pixels), 3)
    points = torch.where(wrong, elsewhere, points)

    # the scene's centre is where cameras are, on average: near this one
    origin = position + torch.randn(count, 3, generator=generator) * torch.tensor([0.8, 0.8, 0.2])
    turn = random_rotations(count, config.jitter_rotation, generator)
    shift = config.jitter_translation * uniform(-1.0, 1.0, count, 3)
    moved = (points - origin[:, None]) @ turn.mT + shift[:, None]
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, :3, :3] = turn @ rotation
    pose[:, :3, 3] = ((position - origin)[:, None] @ turn.mT)[:, 0] + shift
    grid = moved.transpose(1, 2).reshape(count, 3, config.height, config.width)
    return SceneMaps(grid, intrinsics, pose)


def random_rotations(count: int, largest: float, generator: torch.Generator) -> Tensor:
    """Products of rotations about x, y and z by up to ``largest`` radians each: (count, 3, 3)."""
    angles = (2 * torch.rand(count, 3, generator=generator) - 1) * largest
    cosine, sine = angles.cos(), angles.sin()
    result = torch.eye(3).repeat(count, 1, 1)
    for axis in range(3):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = torch.eye(3).repeat(count, 1, 1)
        turn[:, i, i] = turn[:, j, j] = cosine[:, axis]
        turn[:, i, j], turn[:, j, i] = -sine[:, axis], sine[:, axis]
        result = turn @ result
    return result


def _looking(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rotations of optical axes (x right, y down, z forward) in a world with z up: (count, 3, 3)."""
    zero = torch.zeros_like(yaw)
    forward = torch.stack([yaw.cos() * pitch.cos(), yaw.sin() * pitch.cos(), pitch.sin()], -1)
    right = torch.stack([yaw.sin(), -yaw.cos(), zero], -1)
    down = torch.linalg.cross(forward, right)
    c, s = roll.cos()[:, None], roll.sin()[:, None]
    return torch.stack([c * right + s * down, c * down - s * right, forward], -1)


def _cast(
    position: Tensor, directions: Tensor, half_room: Tensor, uniform: Callable[..., Tensor], count: int
) -> Tensor:
    """Distance along each ray to the first box in the room, or to its walls: (count, rays)."""
    safe = torch.where(directions.abs() < 1e-6, torch.full_like(directions, 1e-6), directions)
    to_walls = ((torch.sign(safe) * half_room[:, None] - position[:, None]) / safe).amin(-1)
    half_box = uniform(0.1, 0.7, count, BOXES, 3)
    centre = half_room[:, None] * uniform(-1.0, 1.0, count, BOXES, 3)
    centre[..., 2] = (
        -half_room[:, None, 2] + half_box[..., 2] + uniform(0, 1, count, BOXES) ** 4 * half_room[:, None, 2]
    )
    yaw = uniform(0.0, math.pi, count, BOXES)
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    box_R_world = torch.stack([c, s, zero, -s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    start = torch.einsum("bkij,bkj->bki", box_R_world, position[:, None] - centre)
    along = torch.einsum("bkij,bnj->bkni", box_R_world, safe)
    along = torch.where(along.abs() < 1e-6, torch.full_like(along, 1e-6), along)
    near = (-torch.sign(along) * half_box[:, :, None] - start[:, :, None]) / along
    far = (torch.sign(along) * half_box[:, :, None] - start[:, :, None]) / along
    enter, leave = near.amax(-1), far.amin(-1)
    hit = (enter < leave) & (enter > 0.2)  # a box around the camera is not seen
    return torch.minimum(to_walls, torch.where(hit, enter, torch.full_like(enter, math.inf)).amin(1))
