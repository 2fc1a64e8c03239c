"""The textures of one procedural scene, and random materials made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robust_loc.data.synthetic import textures
from robust_loc.data.synthetic.shapes import Material


class Palette:
    """The textures of one scene and random materials from them."""

    def __init__(
        self, generator: np.random.Generator, pictures: Sequence[textures.Picture], given_share: float
    ) -> None:
        self._generator = generator
        self._given = list(pictures)
        self._given_share = given_share if pictures else 0.0
        self.pictures: list[textures.Picture] = []
        self.surfaces: list[int] = []

    def add(self, names: Sequence[str] = (), side: int = 256, given: bool = True) -> int:
        """Add a texture of one of the kinds ``names``, or one of the given pictures."""
        g = self._generator
        if given and g.random() < self._given_share:
            picture = self._given[int(g.integers(len(self._given)))]
            if g.random() < 0.3:  # another colouring of the same picture
                picture = np.ascontiguousarray(picture[..., g.permutation(3)])
        else:
            picture = textures.random_surface(g, side, tuple(names))
        return self.add_picture(picture)

    def add_picture(self, picture: textures.Picture) -> int:
        """Add one picture; returns its index in the atlas."""
        self.pictures.append(picture)
        return len(self.pictures) - 1

    def material(self, index: int | None = None, tile: tuple[float, float] = (0.5, 2.5)) -> Material:
        """A material of texture ``index`` (default: any surface) with a random tile size in metres and tint."""
        g = self._generator
        index = int(g.choice(self.surfaces)) if index is None else index
        size = float(np.exp(g.uniform(*np.log(tile))))
        tint = tuple(float(t) for t in g.uniform(0.75, 1.0, 3) * g.uniform(0.75, 1.0))
        return Material(index, size, tint)  # type: ignore[arg-type]

    def plain(self) -> Material:
        """A surface without texture."""
        return Material(colour=tuple(float(c) for c in textures.random_colour(self._generator, 0.4)))  # type: ignore[arg-type]
