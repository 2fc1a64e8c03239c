"""What a synthetic world is made of: textured triangles, a texture atlas, lights and a sky.

The world frame is metric with z up. Texture coordinates have u to the right and v DOWN the picture, and repeat outside
[0, 1]. Triangles are two-sided. Colours are display (sRGB) values in 0..1, lit without linearisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Vector = Sequence[float] | NDArray[np.float64]

NO_TEXTURE = -1


@dataclass(frozen=True, eq=False)
class Triangles:
    """A triangle soup.

    Attributes:
        corners: (F, 3, 3) float64 corner positions in metres.
        uv: (F, 3, 2) float64 texture coordinates of the corners.
        normals: (F, 3, 3) float64 unit shading normals of the corners.
        texture: (F,) int32 index into the atlas, or ``NO_TEXTURE`` for a plain colour.
        colour: (F, 3) float64 plain colour, or the factor that multiplies the texture.
    """

    corners: FloatArray
    uv: FloatArray
    normals: FloatArray
    texture: NDArray[np.int32]
    colour: FloatArray

    def __len__(self) -> int:
        return len(self.corners)

    def transformed(self, a_T_b: FloatArray) -> Triangles:
        """The same triangles moved by the rigid (4, 4) transform ``a_T_b``."""
        rotation, translation = a_T_b[:3, :3], a_T_b[:3, 3]
        corners = self.corners @ rotation.T + translation
        return Triangles(corners, self.uv, self.normals @ rotation.T, self.texture, self.colour)

    @staticmethod
    def concatenate(parts: Sequence[Triangles]) -> Triangles:
        names = ("corners", "uv", "normals", "texture", "colour")
        return Triangles(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class TextureAtlas:
    """Square power-of-two RGB textures with their mip pyramids, in one flat array.

    Attributes:
        texels: (N, 4) uint8 RGB and padding, level after level, texture after texture.
        base: (T,) int64 first texel of each texture.
        log_size: (T,) int64 base-2 logarithm of each texture's side.
    """

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        """Pictures are (h, w, 3) uint8 RGB of any size; each is resampled to the nearest power-of-two square."""
        chunks: list[NDArray[np.uint8]] = []
        base, log_size, total = [], [], 0
        for picture in pictures:
            k = int(np.clip(round(np.log2(max(picture.shape[:2]))), 2, 10))
            base.append(total)
            log_size.append(k)
            for level in range(k, -1, -1):
                picture = _resampled(picture, 2**level)
                chunks.append(picture.reshape(-1, 3))
                total += 4**level
        self.texels = np.zeros((max(total, 1), 4), np.uint8)
        if chunks:
            np.concatenate(chunks, out=self.texels[:, :3])
        self.base = np.array(base, np.int64)
        self.log_size = np.array(log_size, np.int64)

    def __len__(self) -> int:
        return len(self.base)


def _resampled(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if picture.shape[:2] == (side, side):
        return picture
    smaller = side < max(picture.shape[:2])
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), np.uint8)


@dataclass(frozen=True, eq=False)
class Lights:
    """Ambient light, lamps without a shadow, and an optional sun.

    Attributes:
        ambient: (3,) light from everywhere; surfaces facing up receive it all, facing down ``1 - upward`` of it.
        upward: strength of that difference, 0..1.
        position: (L, 3) of the lamps in metres.
        colour: (L, 3) of the lamps at distance zero.
        reach: (L,) distance in metres at which a lamp's light has fallen to a half.
        sun_direction: (3,) unit vector towards the sun.
        sun_colour: (3,), zero for none.
    """

    ambient: FloatArray = field(default_factory=lambda: np.full(3, 0.6))
    upward: float = 0.2
    position: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    colour: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    reach: FloatArray = field(default_factory=lambda: np.zeros(0))
    sun_direction: FloatArray = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))
    sun_colour: FloatArray = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True, eq=False)
class Sky:
    """What a ray that hits nothing sees: an equirectangular texture, or a plain colour, and haze over distance.

    Attributes:
        texture: index into the atlas (u around z, v from the zenith down), or ``NO_TEXTURE``.
        colour: (3,) plain colour, or the factor of the texture; also the colour of the haze.
        haze: extinction in 1/m; 0 is clear air.
    """

    texture: int = NO_TEXTURE
    colour: FloatArray = field(default_factory=lambda: np.full(3, 0.8))
    haze: float = 0.0


class FreeSpace(Protocol):
    """Where a camera may be."""

    def clearance(self, points: FloatArray) -> FloatArray:
        """Distance in metres, (n,), from ``points`` (n, 3) to the nearest surface; <= 0 inside one or outside."""

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Candidate camera positions (count, 3); their clearance is for the caller to check."""


class Trajectory(Protocol):
    """A smooth camera or object motion."""

    def pose(self, seconds: float) -> FloatArray:
        """(4, 4) ``world_T_body`` at a time in seconds."""


@dataclass(frozen=True, eq=False)
class Mover:
    """A rigid object that moves through the scene (a distractor)."""

    triangles: Triangles
    trajectory: Trajectory


@dataclass(frozen=True, eq=False)
class Scene:
    """A static world plus, optionally, moving objects."""

    triangles: Triangles
    atlas: TextureAtlas
    lights: Lights = field(default_factory=Lights)
    sky: Sky = field(default_factory=Sky)
    free_space: FreeSpace | None = None
    movers: tuple[Mover, ...] = ()
