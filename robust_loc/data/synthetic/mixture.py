"""The mixture of sequences that the default networks are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robust_loc.data.synthetic.paths import HandheldConfig
from robust_loc.data.synthetic.sequence import SequenceConfig


def training_config(
    seed: int,
    frames: int = 48,
    width: int = 320,
    height: int = 240,
    textures: str | Path | None = None,
    worlds: Sequence[str | Path] = (),
) -> SequenceConfig:
    """The configuration of the training sequence ``seed``: kind of world, camera and motion are drawn from the seed.

    Args:
        seed: of the sequence; give the same to ``render_sequence``.
        frames, width, height: size of the sequence.
        textures: optional folder of pictures to mix with the procedural textures.
        worlds: optional triangle world files; they get a third of the sequences.
    """
    g = np.random.default_rng([seed, 7])
    kinds = ["room", "street", "yard", *worlds]
    shares = np.array([0.55, 0.33, 0.12, *[0.5 / max(len(worlds), 1)] * len(worlds)])
    kind = kinds[int(g.choice(len(kinds), p=shares / shares.sum()))]
    config = SequenceConfig(
        frames=frames, width=width, height=height, flow=(2.5, 16.0), textures=Path(textures) if textures else None
    )
    if g.random() < 0.2:
        config = replace(config, movers=(1, 4))
    if g.random() < 0.3:  # a drone, or a hasty hand
        path = HandheldConfig(speed=(0.5, 2.0), turn_rate=2.0, tilt=0.35, shake_angle=0.012)
        config = replace(config, path=path)
    if g.random() < 0.05:
        config = replace(config, effects=replace(config.effects, rolling_shutter=1.0))
    if kind in ("street", "yard"):
        return replace(config, kind=kind, rate=(8.0, 15.0) if kind == "street" else (10.0, 30.0))
    if kind == "room":
        return config
    return replace(config, kind="world", world=Path(kind))
