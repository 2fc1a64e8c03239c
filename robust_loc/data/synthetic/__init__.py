"""Synthetic worlds: procedural scenes, camera paths and a ray caster that gives exact depth and poses."""

from robust_loc.data.synthetic.cache import Clip, list_clips, write_clip
from robust_loc.data.synthetic.demo import demo_sequence
from robust_loc.data.synthetic.effects import EffectsConfig
from robust_loc.data.synthetic.mixture import training_config
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
    "demo_sequence",
    "list_clips",
    "render_sequence",
    "training_config",
    "write_clip",
]
