"""Synthetic worlds: procedural scenes, camera paths and a ray caster that gives exact depth and poses."""

from robust_loc.data.synthetic.cache import Clip, list_clips, write_clip
from robust_loc.data.synthetic.effects import EffectsConfig
from robust_loc.data.synthetic.paths import HandheldConfig
from robust_loc.data.synthetic.renderer import Renderer, RendererConfig, Rendering
from robust_loc.data.synthetic.sequence import SequenceConfig, render_sequence

__all__ = [
    "Clip",
    "EffectsConfig",
    "HandheldConfig",
    "Renderer",
    "RendererConfig",
    "Rendering",
    "SequenceConfig",
    "list_clips",
    "render_sequence",
    "write_clip",
]
