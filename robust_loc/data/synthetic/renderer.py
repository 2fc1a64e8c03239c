"""``Renderer``: images and exact depth of a scene, by the compiled passes or the torch ray caster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic.packed import pack
from robust_loc.data.synthetic.scene import FloatArray, Scene
from robust_loc.types import Camera

if TYPE_CHECKING:
    from robust_loc.data.synthetic.raycast import TorchRayCaster


@dataclass(frozen=True)
class RendererConfig(Config):
    backend: str = parameter("compiled", "compiled: numba on the CPU; torch: on device", choices=["compiled", "torch"])
    device: str = parameter("cpu", "torch device of the torch backend")
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
        self._torch: TorchRayCaster | None = None
        if self.config.backend == "torch":
            from robust_loc.data.synthetic.raycast import TorchRayCaster

            self._torch = TorchRayCaster(self.packed, self.config.device)

    def body_transforms(self, seconds: float) -> FloatArray:
        """(B, 3, 4) ``body_T_world`` at a time; the static world first."""
        poses = [np.eye(4), *(np.linalg.inv(mover.trajectory.pose(seconds)) for mover in self.scene.movers)]
        return np.ascontiguousarray(np.stack(poses)[:, :3])

    def render(self, camera: Camera, world_T_cam: FloatArray, seconds: float = 0.0) -> Rendering:
        """Render from ``world_T_cam``: (4, 4), or (H, 4, 4) with one pose for each image row (rolling shutter).

        ``seconds`` places the movers. With a pose per row, the depth of a pixel is along its own row's optical axis.
        """
        scene, near, taps, K = self.packed, self.config.near, self.config.texture_taps, camera.intrinsics
        shape = (camera.height, camera.width)
        cameras = np.ascontiguousarray(np.asarray(world_T_cam, float).reshape(-1, 4, 4)[:, :3])
        bodies = self.body_transforms(seconds)
        views = bodies[None, :, :, :3] @ cameras[:, None]
        views[..., 3] += bodies[None, :, :, 3]
        if self._torch is not None:
            return self._render_torch(shape, K, cameras, views, bodies)
        from robust_loc.data.synthetic import shading, visibility

        face, inverse_depth = np.empty(shape, np.int32), np.empty(shape)
        rgb, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
        tree = (scene.geometry, scene.bounds, scene.skip, scene.first, scene.leaf, scene.roots)

        def see(top: int, bottom: int) -> None:
            if len(cameras) == 1:
                visibility.scan_rows(*tree, views[0], K, top, bottom, near, face, inverse_depth)
            else:
                visibility.trace_rows(*tree, views, K, top, bottom, near, face, inverse_depth)
            shading.shade_rows(scene, cameras, views, bodies, K, top, bottom, taps, face, inverse_depth, rgb, depth)

        def refine(top: int, bottom: int) -> None:
            shading.refine_rows(scene, cameras, views, bodies, K, top, bottom, near, taps, face, edge, rgb)

        self._in_bands(see, camera.height)
        if self.config.antialiasing:
            edge = np.empty(shape, np.bool_)
            shading.find_edges(scene.surface, face, inverse_depth, edge)
            self._in_bands(refine, camera.height)
        return Rendering(rgb, depth, face)

    def _render_torch(
        self, shape: tuple[int, int], K: FloatArray, cameras: FloatArray, views: FloatArray, bodies: FloatArray
    ) -> Rendering:
        import torch

        assert self._torch is not None
        device, config = self._torch.device, self.config
        K_, cameras_, views_, bodies_ = (
            torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (K, cameras, views, bodies)
        )
        images = self._torch.render(
            shape, (K_, cameras_, views_, bodies_), config.near, config.texture_taps, config.antialiasing
        )
        return Rendering(*(image.cpu().numpy() for image in images))

    def _in_bands(self, work: Callable[[int, int], None], height: int) -> None:
        """Call ``work(top, bottom)`` on bands of rows, one per thread."""
        count = self.config.num_threads
        if count == 1:
            work(0, height)
            return
        cuts = np.linspace(0, height, count + 1).astype(int)
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, cuts[:-1], cuts[1:]))
