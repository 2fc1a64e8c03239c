"""The embedded recording: a loop through a furnished room, rendered from nothing but this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from robust_loc.data.synthetic.effects import EffectsConfig
from robust_loc.data.synthetic.paths import look_rotation
from robust_loc.data.synthetic.renderer import Renderer, RendererConfig
from robust_loc.data.synthetic.rooms import RoomConfig, make_room
from robust_loc.data.synthetic.scene import FloatArray, Scene
from robust_loc.data.synthetic.sequence import render_path
from robust_loc.types import Camera, Frame

_ROOM = RoomConfig(
    size=(7.0, 6.0, 2.8), textureless=0.0, wall_textures=4, prints=24, prints_per_wall=(9, 14), furniture=(20, 30)
)


@dataclass(frozen=True, eq=False)
class Loop:
    """Once around the room, looking outwards, ending where it began.

    Attributes:
        duration: seconds of the loop.
        radius: (2,) half axes of the ellipse in metres.
        height: metres above the floor.
    """

    duration: float
    radius: tuple[float, float]
    height: float

    def pose(self, seconds: float) -> FloatArray:
        """(4, 4) ``world_T_cam``."""
        a = 2 * np.pi * seconds / self.duration
        pose = np.eye(4)
        pose[:3, 3] = self.radius[0] * np.cos(a), self.radius[1] * np.sin(a), self.height + 0.12 * np.sin(2 * a)
        pose[:3, :3] = look_rotation(a + 0.15 * np.sin(3 * a), -0.08 + 0.06 * np.sin(2 * a), 0.03 * np.sin(a))
        return pose


@lru_cache(maxsize=1)
def demo_room() -> Scene:
    """The room of the demo: 7 x 6 x 2.8 m, without plain surfaces, its middle free."""
    loop = Loop(1.0, (1.0, 0.8), 1.4)
    line = np.stack([loop.pose(t)[:3, 3] for t in np.linspace(0, 1, 64)])
    for seed in range(100):
        scene = make_room(np.random.default_rng([2024, seed]), config=_ROOM)
        assert scene.free_space is not None
        if scene.free_space.clearance(line).min() > 0.6:
            return scene
    raise AssertionError("no room of the demo's size has a free middle")


def demo_sequence(
    frames: int = 150, width: int = 320, height: int = 240, variation: int = 0, num_threads: int = 1
) -> Iterator[Frame]:
    """Render the demo's recording: a closed loop at 20 frames per second with depth and poses.

    Args:
        frames: number of frames; the loop takes as long as they do.
        width, height: image size in pixels; the horizontal field of view is 80 degrees.
        variation: 0 is the recording to map; other numbers walk another radius and height under another exposure
            (to localize in that map).
        num_threads: threads that render.
    """
    rate = 20.0
    g = np.random.default_rng([7, variation])
    change = g.uniform(-1.0, 1.0, 3) * (variation != 0)
    loop = Loop(frames / rate, (1.0 + 0.12 * change[0], 0.8 + 0.12 * change[1]), 1.4 + 0.1 * change[2])
    focal = float(0.5 * width / np.tan(np.radians(40.0)))
    camera = Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    effects = EffectsConfig(
        exposure=0.15 * (variation != 0), gamma=0.0, colour=0.0, saturation=0.0, greyscale=0.0, vignetting=0.15,
        blur=0.0, defocus=0.0, noise=0.01, jpeg=0.0,
    )  # fmt: skip
    caster = Renderer(demo_room(), RendererConfig(num_threads=num_threads))
    yield from render_path(caster, loop, camera, rate, frames, effects, g, first_stamp=1_000_000_000)
