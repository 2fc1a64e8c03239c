"""``Renderer``: images and exact depth of a scene."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic.packed import pack
from robust_loc.data.synthetic.scene import FloatArray, Scene
from robust_loc.types import Camera


@dataclass(frozen=True)
class RendererConfig(Config):
    antialiasing: bool = parameter(True, "cast four more rays at silhouettes and creases")
    texture_taps: int = parameter(6, "most texture samples along a pixel's footprint", minimum=1, maximum=16)
    near: float = parameter(1e-3, "nearest depth that is seen, metres", minimum=0.0)
    num_threads: int = parameter(1, "threads of the compiled backend", minimum=1, maximum=256)


@dataclass(frozen=True, eq=False)
class Rendering:
    """One rendered view.

    Attributes:
        rgb: (H, W, 3) float32, 0..1 nominal, not clipped.
        depth: (H, W) float32 depth along the optical axis in metres at the pixel centres, 0 where nothing was hit.
        face: (H, W) int32 triangle, -1 where nothing was hit; movers' triangles come after the static ones.
    """

    rgb: NDArray[np.float32]
    depth: NDArray[np.float32]
    face: NDArray[np.int32]


class Renderer:
    """Casts rays into one scene; holds its bounding volume hierarchy.

    The compiled backend splits rows over plain Python threads (its kernels release the interpreter lock), so it adds
    no thread pool that could contend with torch's.
    """

    def __init__(self, scene: Scene, config: RendererConfig | None = None) -> None:
        self.scene = scene
        self.config = config or RendererConfig()
        self.packed = pack(scene)
        self.static_faces = len(scene.triangles)

    def body_transforms(self, seconds: float) -> FloatArray:
        """(B, 3, 4) ``body_T_world`` at a time; the static world first."""
        poses = [np.eye(4), *(np.linalg.inv(mover.trajectory.pose(seconds)) for mover in self.scene.movers)]
        return np.ascontiguousarray(np.stack(poses)[:, :3])

    def render(self, camera: Camera, world_T_cam: FloatArray, seconds: float = 0.0) -> Rendering:
        """Render from ``world_T_cam``: (4, 4), or (H, 4, 4) with one pose for each image row (rolling shutter).

        ``seconds`` places the movers. With a pose per row, the depth of a pixel is along its own row's optical axis.
        """
        height, width = camera.height, camera.width
        rows = np.ascontiguousarray(np.broadcast_to(np.asarray(world_T_cam, float)[..., :3, :], (height, 3, 4)))
        bodies = self.body_transforms(seconds)
        rgb = np.empty((height, width, 3), np.float32)
        depth = np.empty((height, width), np.float32)
        face = np.empty((height, width), np.int32)
        self._compiled(camera.intrinsics, rows, bodies, rgb, depth, face)
        return Rendering(rgb, depth, face)

    def _compiled(self, K, rows, bodies, rgb, depth, face) -> None:
        from robust_loc.data.synthetic import compiled

        config, scene, height = self.config, self.packed, len(rgb)
        cuts = np.linspace(0, height, config.num_threads + 1).astype(int) if config.num_threads > 1 else [0, height]
        bands = list(zip(cuts[:-1], cuts[1:]))
        near, taps = config.near, config.texture_taps

        def first_pass(band: tuple[int, int]) -> None:
            compiled.render_rows(scene, bodies, rows, K, *band, near, taps, rgb, depth, face)

        def second_pass(band: tuple[int, int]) -> None:
            compiled.refine_rows(scene, bodies, rows, K, *band, near, taps, rgb, face, edge)

        if len(bands) == 1:
            first_pass(bands[0])
        else:
            with ThreadPoolExecutor(len(bands)) as pool:
                list(pool.map(first_pass, bands))
        if not config.antialiasing:
            return
        edge = np.empty(face.shape, np.bool_)
        compiled.find_edges(scene, depth, face, edge)
        if len(bands) == 1:
            second_pass(bands[0])
        else:
            with ThreadPoolExecutor(len(bands)) as pool:
                list(pool.map(second_pass, bands))
