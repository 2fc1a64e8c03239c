"""Rendered recordings: a scene, a path and a camera drawn from one seed, as frames with exact depth and pose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic.effects import CameraEffects, EffectsConfig
from robust_loc.data.synthetic.flow import static_flow
from robust_loc.data.synthetic.movers import add_movers
from robust_loc.data.synthetic.paths import (
    DriveConfig,
    HandheldConfig,
    PathError,
    check_range,
    drive_path,
    handheld_path,
)
from robust_loc.data.synthetic.renderer import Renderer, RendererConfig
from robust_loc.data.synthetic.rooms import make_room
from robust_loc.data.synthetic.scene import FloatArray, Scene, Trajectory
from robust_loc.data.synthetic.street import make_street
from robust_loc.data.synthetic.textures import Picture, load_pictures
from robust_loc.data.synthetic.worlds import make_world
from robust_loc.errors import ConfigurationError
from robust_loc.types import Camera, Frame

_SCENES_TRIED = 5  # a random room may be too full to walk in


@dataclass(frozen=True)
class SequenceConfig(Config):
    kind: str = parameter("room", "world", choices=["room", "street", "yard", "world"])
    world: Path | None = parameter(None, "file of the triangle world, when kind is world")
    movers: tuple = parameter((0, 0), "range of the number of moving distractors")
    frames: int = parameter(48, "frames in the sequence", minimum=1)
    width: int = parameter(320, "image width, pixels", minimum=8)
    height: int = parameter(240, "image height, pixels", minimum=8)
    field_of_view: tuple = parameter((50.0, 100.0), "range of the horizontal field of view, degrees")
    rate: tuple = parameter((10.0, 30.0), "range of the frame rate, Hz")
    flow: tuple | None = parameter(None, "wanted range of the median flow between frames, pixels; None: real speed")
    textures: Path | None = parameter(None, "folder of pictures to mix with the procedural textures")
    effects: EffectsConfig = parameter(EffectsConfig(), "what the camera does to the image")
    drive: DriveConfig = parameter(DriveConfig(), "how the car moves, when kind is street")
    path: HandheldConfig = parameter(HandheldConfig(), "how the camera moves")
    renderer: RendererConfig = parameter(RendererConfig(), "ray caster")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("field_of_view", "rate", "flow", "movers"):
            check_range(f"SequenceConfig.{name}", getattr(self, name))


def random_camera(g: np.random.Generator, config: SequenceConfig) -> Camera:
    """A pinhole camera with a field of view in range, nearly square pixels and a nearly central principal point."""
    width, height = config.width, config.height
    fx = 0.5 * width / np.tan(0.5 * np.radians(g.uniform(*config.field_of_view)))
    fy = fx * g.uniform(0.98, 1.02)
    cx = (width - 1) / 2 + width * g.uniform(-0.03, 0.03)
    cy = (height - 1) / 2 + height * g.uniform(-0.03, 0.03)
    return Camera(width, height, float(fx), float(fy), float(cx), float(cy))


def render_sequence(config: SequenceConfig, seed: int, pictures: Sequence[Picture] | None = None) -> Iterator[Frame]:
    """Render the recording that ``config`` and ``seed`` define, frame by frame.

    Args:
        config: what to render.
        seed: the same seed gives the same frames.
        pictures: the pictures of ``config.textures`` if they are already in memory.

    Yields:
        Frames with exact ``depth`` (0: nothing hit) and ``world_T_cam``, stamped at the middle of the exposure.
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    if pictures is None:
        pictures = load_pictures(config.textures) if config.textures else ()
    rate = float(streams[2].uniform(*config.rate))
    spare = 3.0 if config.flow else 1.0
    scene, path = make_scene(config, pictures, spare * config.frames / rate, *streams[:2])
    movers = int(streams[2].integers(config.movers[0], config.movers[1] + 1))
    if movers:
        scale = 3.0 if config.kind in ("street", "yard") else 1.0
        scene = add_movers(scene, path, config.frames / rate, movers, np.random.default_rng([seed, 1]), scale)
    camera = random_camera(streams[2], config)
    caster = Renderer(scene, config.renderer)
    if config.flow:
        wanted = float(np.exp(streams[2].uniform(*np.log(config.flow))))
        pace = np.clip(wanted / max(median_flow(caster, path, camera, rate, config.frames), 1e-3), 0.5, spare)
        path = Paced(path, float(pace))
    yield from render_path(caster, path, camera, rate, config.frames, config.effects, streams[3])


def make_scene(
    config: SequenceConfig,
    pictures: Sequence[Picture],
    duration: float,
    scene_generator: np.random.Generator,
    path_generator: np.random.Generator,
) -> tuple[Scene, Trajectory]:
    """A world of ``config.kind`` and a camera path of ``duration`` seconds through it.

    Raises:
        ConfigurationError: kind is world, and no file is named.
        PathError: no collision-free path was found in several worlds.
    """
    if config.kind == "street":
        path, road = drive_path(path_generator, duration, config.drive)
        return make_street(scene_generator, road, pictures), path
    for attempt in range(_SCENES_TRIED):
        scene = _place(config, pictures, scene_generator)
        assert scene.free_space is not None
        try:
            return scene, handheld_path(path_generator, scene.free_space, duration, config.path)
        except PathError:
            if attempt == _SCENES_TRIED - 1:
                raise
    raise AssertionError("unreachable")


def _place(config: SequenceConfig, pictures: Sequence[Picture], generator: np.random.Generator) -> Scene:
    """A random world to walk in."""
    if config.kind == "yard":
        square = np.column_stack([np.arange(-10.0, 11.0), np.zeros(21)])
        return make_street(generator, square, pictures, density=5.0, roam=6.0)
    if config.kind == "world":
        if config.world is None:
            raise ConfigurationError("SequenceConfig.world names no file; kind 'world' needs one")
        return make_world(generator, config.world, pictures)
    return make_room(generator, pictures)


@dataclass(frozen=True, eq=False)
class Paced:
    """A trajectory travelled ``pace`` times as fast."""

    trajectory: Trajectory
    pace: float

    def pose(self, seconds: float) -> FloatArray:
        return self.trajectory.pose(self.pace * seconds)


def median_flow(caster: Renderer, path: Trajectory, camera: Camera, rate: float, frames: int) -> float:
    """Median length in pixels of the flow between consecutive frames, from a few small renderings."""
    small = camera.resized(max(camera.width // 16, 8), max(camera.height // 16, 8))
    lengths = []
    for index in np.linspace(0, max(frames - 2, 0), 7).astype(int):
        now, after = path.pose(index / rate), path.pose((index + 1) / rate)
        view = caster.render(small, now, index / rate)
        flow = static_flow(small, view.depth, np.linalg.inv(after) @ now)
        lengths.append(np.median(np.linalg.norm(flow, axis=-1)) * camera.width / small.width)
    return float(np.median(lengths))


def render_path(
    caster: Renderer,
    path: Trajectory,
    camera: Camera,
    rate: float,
    frames: int,
    effects: EffectsConfig,
    generator: np.random.Generator,
    first_stamp: int = 0,
) -> Iterator[Frame]:
    """Frames of one camera along one path through one scene, ``rate`` per second from ``first_stamp`` (ns)."""
    sensor = CameraEffects(effects, generator)
    for index in range(frames):
        seconds = index / rate
        world_T_cam = path.pose(seconds)
        rows = world_T_cam
        if sensor.readout > 0:
            offsets = ((np.arange(camera.height) + 0.5) / camera.height - 0.5) * sensor.readout / rate
            rows = np.stack([path.pose(seconds + float(offset)) for offset in offsets])
        view = caster.render(camera, rows, seconds)
        flow = None
        if sensor.exposure > 0:
            half = 0.5 * sensor.exposure / rate
            ends = [np.linalg.inv(path.pose(seconds + s)) @ world_T_cam for s in (-half, half)]
            flow = static_flow(camera, view.depth, ends[1]) - static_flow(camera, view.depth, ends[0])
        image = sensor.apply(view.rgb, flow)
        yield Frame(image, camera, first_stamp + round(seconds * 1e9), view.depth, world_T_cam)
