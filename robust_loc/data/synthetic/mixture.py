"""The mixture of sequences that the default networks are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from robust_loc.data.synthetic.sequence import SequenceConfig


def training_config(
    seed: int, frames: int = 48, width: int = 320, height: int = 240, textures: str | Path | None = None
) -> SequenceConfig:
    """The configuration of the training sequence ``seed``: kind of world, camera and motion are drawn from the seed.

    ``textures`` is an optional folder of pictures to mix with the procedural textures.
    """
    g = np.random.default_rng([seed, 7])
    config = SequenceConfig(
        frames=frames, width=width, height=height, flow=(3.0, 16.0), textures=Path(textures) if textures else None
    )
    return replace(config, rate=(10.0, 30.0) if g.random() < 0.5 else (15.0, 30.0))
