"""Synthetic worlds: procedural scenes, camera paths and a ray caster that gives exact depth and poses.

One seed makes one recording::

    from robust_loc.data.synthetic import SequenceConfig, render_sequence

    for frame in render_sequence(SequenceConfig(kind="street", frames=48), seed=3):
        frame.image, frame.depth, frame.world_T_cam, frame.camera, frame.stamp

or a scene, a path and a renderer by hand: ``make_room``, ``handheld_path``, ``Renderer(scene).render(camera, pose)``.
A scene is textured triangles (``scene``, ``shapes``); ``visibility`` and ``shading`` are the compiled passes of the
renderer, ``raycast`` is the same in torch for any device.
"""

from robust_loc.data.synthetic.cache import Clip, list_clips, write_clip
from robust_loc.data.synthetic.demo import demo_sequence
from robust_loc.data.synthetic.effects import EffectsConfig
from robust_loc.data.synthetic.flow import static_flow
from robust_loc.data.synthetic.mixture import training_config
from robust_loc.data.synthetic.paths import DriveConfig, HandheldConfig, drive_path, handheld_path
from robust_loc.data.synthetic.renderer import Renderer, RendererConfig, Rendering
from robust_loc.data.synthetic.rooms import RoomConfig, make_room
from robust_loc.data.synthetic.scene import Scene
from robust_loc.data.synthetic.sequence import SequenceConfig, render_sequence
from robust_loc.data.synthetic.street import make_street
from robust_loc.data.synthetic.worlds import make_world

__all__ = [
    "Clip",
    "DriveConfig",
    "EffectsConfig",
    "HandheldConfig",
    "Renderer",
    "RendererConfig",
    "Rendering",
    "RoomConfig",
    "Scene",
    "SequenceConfig",
    "demo_sequence",
    "drive_path",
    "handheld_path",
    "list_clips",
    "make_room",
    "make_street",
    "make_world",
    "render_sequence",
    "static_flow",
    "training_config",
    "write_clip",
]
