"""The ray caster in plain torch: any device, thousands of rays at once; the reference of the compiled passes.

Rays walk the bounding volume hierarchy without a stack: a ray that misses a node's box jumps to the node after its
subtree. Shading and antialiasing are those of ``shading.py``, written over arrays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robust_loc.data.synthetic.packed import PackedScene

_LEAF = 4  # most triangles of a leaf (``bvh``)


class TorchRayCaster:
    """Casts rays into a packed scene on one device.

    Args:
        scene: the packed scene.
        device: torch device.
        batch: most rays that are traced at once.
    """

    def __init__(self, scene: PackedScene, device: str | torch.device = "cpu", batch: int = 1 << 20) -> None:
        self.device = torch.device(device)
        self.batch = batch

        def load(array, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(array).to(self.device, dtype)

        self.geometry = load(scene.geometry, torch.float64)
        self.surface = load(scene.surface, torch.float64)
        self.body = load(scene.body, torch.int64)
        self.bounds = load(scene.bounds, torch.float64)
        self.skip = load(scene.skip, torch.int64)
        self.first = load(scene.first, torch.int64)
        self.leaf = load(scene.leaf, torch.int64)
        self.roots = scene.roots.tolist()
        self.texels = load(scene.texels, torch.uint8)
        self.ambience = load(scene.ambience, torch.float64)
        self.lamps = load(scene.lamps, torch.float64)

    def trace(self, origin: Tensor, direction: Tensor, body: int = 0, near: float = 0.0) -> tuple[Tensor, Tensor]:
        """Nearest hit of rays with one body.

        Args:
            origin, direction: (n, 3) in the body's frame; directions need not be unit vectors.
            body: 0 is the static world.
            near: least ray parameter.

        Returns:
            Ray parameter (n,), infinite where nothing is hit, and triangle (n,), -1 where nothing is hit.
        """
        results = [self._trace(o, d, body, near) for o, d in zip(origin.split(self.batch), direction.split(self.batch))]
        return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results])

    def _trace(self, origin: Tensor, direction: Tensor, body: int, near: float) -> tuple[Tensor, Tensor]:
        count = len(origin)
        best = torch.full((count,), math.inf, dtype=torch.float64, device=self.device)
        face = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        inverse = 1.0 / torch.where(direction.abs() > 1e-15, direction, torch.full_like(direction, 1e-15))
        root = self.roots[body]
        end = int(self.skip[root])
        ray = torch.arange(count, device=self.device)
        node = torch.full((count,), root, dtype=torch.int64, device=self.device)
        while len(ray):
            low = (self.bounds[node, :3] - origin[ray]) * inverse[ray]
            high = (self.bounds[node, 3:] - origin[ray]) * inverse[ray]
            enter = torch.minimum(low, high).amax(dim=1).clamp(min=0.0)
            leave = torch.minimum(torch.maximum(low, high).amin(dim=1), best[ray])
            crossed = enter <= leave
            at_leaf = (crossed & (self.leaf[node] > 0)).nonzero()[:, 0]
            if len(at_leaf):
                self._hit_leaves(node[at_leaf], ray[at_leaf], origin, direction, near, best, face)
            node = torch.where(crossed & (self.leaf[node] == 0), node + 1, self.skip[node])
            alive = node < end
            ray, node = ray[alive], node[alive]
        return best, face

    def _hit_leaves(
        self, node: Tensor, ray: Tensor, origin: Tensor, direction: Tensor, near: float, best: Tensor, face: Tensor
    ) -> None:
        """Moller and Trumbore (1997) on the triangles of one leaf per ray; updates ``best`` and ``face``."""
        slot = torch.arange(_LEAF, device=self.device)
        index = self.first[node][:, None] + slot
        valid = slot < self.leaf[node][:, None]
        g = self.geometry[torch.where(valid, index, self.first[node][:, None])]
        v0, e1, e2 = g[..., :3], g[..., 3:6], g[..., 6:]
        d = direction[ray][:, None].expand_as(e2)
        p = torch.linalg.cross(d, e2)
        inv = 1.0 / (e1 * p).sum(-1)
        s = origin[ray][:, None] - v0
        u = (s * p).sum(-1) * inv
        q = torch.linalg.cross(s, e1)
        v = (d * q).sum(-1) * inv
        t = (e2 * q).sum(-1) * inv
        margin = 1e-9
        good = valid & (u >= -margin) & (v >= -margin) & (u + v <= 1.0 + margin) & (t > near)
        t, chosen = torch.where(good, t, torch.full_like(t, math.inf)).min(dim=1)
        nearer = t < best[ray]
        best[ray] = torch.where(nearer, t, best[ray])
        face[ray] = torch.where(nearer, index.gather(1, chosen[:, None])[:, 0], face[ray])

    def render(
        self,
        size: tuple[int, int],
        arrays: tuple[Tensor, Tensor, Tensor, Tensor],
        near: float,
        taps: int,
        antialiasing: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One image.

        Args:
            size: height and width.
            arrays: K, cameras, views and bodies as in ``shading.shade_rows``, float64 on the device.
            near: least depth that is seen.
            taps: most texture samples along a pixel's footprint.
            antialiasing: refine edges.

        Returns:
            rgb (H, W, 3) float32, depth (H, W) float32 and face (H, W) int32.
        """
        K, cameras, views, bodies = arrays
        height, width = size
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float64, device=self.device),
            torch.arange(width, dtype=torch.float64, device=self.device),
            indexing="ij",
        )
        row = (y.long() if len(cameras) > 1 else torch.zeros_like(y, dtype=torch.int64)).flatten()
        x, y = x.flatten(), y.flatten()
        k = torch.stack([(x - K[2]) / K[0], (y - K[3]) / K[1], torch.ones_like(x)], dim=-1)
        depth = torch.full_like(x, math.inf)
        face = torch.full_like(row, -1)
        for body in range(len(self.roots)):
            view = views[:, body][row]
            d = (view[..., :3] @ k[..., None])[..., 0]
            t, found = self.trace(view[..., 3], d, body, near)
            nearer = t < depth
            depth, face = torch.where(nearer, t, depth), torch.where(nearer, found, face)
        rgb = self._colour(cameras, views, bodies, K, row, x, y, face, taps)
        if antialiasing:
            inverse = torch.where(face >= 0, 1.0 / depth, torch.zeros_like(depth))
            edge = self._edges(face.view(size), inverse.view(size)).flatten().nonzero()[:, 0]
            if len(edge):
                rgb[edge] = self._refined(cameras, views, bodies, K, row[edge], edge, face.view(size), near, taps)
        depth = torch.where(face >= 0, depth, torch.zeros_like(depth))
        return rgb.view(height, width, 3).float(), depth.view(size).float(), face.view(size).int()

    def _pixel_functions(self, face: Tensor, views: Tensor, row: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (n, 3, 3) by x, y and 1 of U, V and W, and D (n,); see ``visibility``."""
        view = views[row, self.body[face]]
        g = self.geometry[face]
        v0, e1, e2 = g[:, :3], g[:, 3:6], g[:, 6:]
        T = view[..., 3] - v0
        A2 = torch.linalg.cross(T, e1)
        D = (e2 * A2).sum(-1)
        vectors = torch.stack([torch.linalg.cross(e2, T), A2, torch.linalg.cross(e2, e1)], dim=1)
        c = (vectors @ view[..., :3]) * torch.where(D >= 0, 1.0, -1.0)[:, None, None]
        cx, cy = c[..., 0] / K[0], c[..., 1] / K[1]
        return torch.stack([cx, cy, c[..., 2] - cx * K[2] - cy * K[3]], dim=-1), D.abs()

    def _colour(
        self, cameras: Tensor, views: Tensor, bodies: Tensor, K: Tensor, row: Tensor, x: Tensor, y: Tensor,
        face: Tensor, taps: int,
    ) -> Tensor:  # fmt: skip
        """Colours (n, 3) of the triangles ``face`` (-1: the sky) at pixels (x, y)."""
        camera = cameras[row]
        k = torch.stack([(x - K[2]) / K[0], (y - K[3]) / K[1], torch.ones_like(x)], dim=-1)
        d = (camera[..., :3] @ k[..., None])[..., 0]
        rgb = torch.empty((len(face), 3), dtype=torch.float64, device=self.device)
        sky, hit = (face < 0).nonzero()[:, 0], (face >= 0).nonzero()[:, 0]
        rgb[sky] = self._sky(d[sky], K)
        rgb[hit] = self._shade(camera[hit], d[hit], views, bodies, K, row[hit], x[hit], y[hit], face[hit], taps)
        return rgb

    def _sky(self, d: Tensor, K: Tensor) -> Tensor:
        colour = self.ambience[10:13].expand(len(d), 3)
        base, k = int(self.ambience[14]), int(self.ambience[15])
        if base < 0 or len(d) == 0:
            return colour
        u = torch.atan2(d[:, 1], d[:, 0]) / (2 * math.pi)
        v = torch.acos((d[:, 2] / d.norm(dim=1)).clamp(-1.0, 1.0)) / math.pi
        lod = (torch.ones_like(u) * 2**k / (math.pi * K[0])).clamp(min=1.0).log2().clamp(max=k)
        full = torch.full_like(u, base).long(), torch.full_like(u, k).long()
        return self._sample(*full, u, v, lod) * colour

    def _shade(
        self, camera: Tensor, d: Tensor, views: Tensor, bodies: Tensor, K: Tensor, row: Tensor, x: Tensor, y: Tensor,
        face: Tensor, taps: int,
    ) -> Tensor:  # fmt: skip
        f, D = self._pixel_functions(face, views, row, K)
        pixel = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        UVW = (f @ pixel[..., None])[..., 0]
        inv = 1.0 / UVW[:, 2]
        b = UVW[:, :2] * inv[:, None]
        depth = D * inv
        s = self.surface[face]
        uv = s[:, :6].view(-1, 3, 2)
        edges = uv[:, 1:] - uv[:, :1]
        at = uv[:, 0] + (b[:, None] @ edges)[:, 0]
        slope = (f[:, :2, :2] - b[..., None] * f[:, 2:, :2]) * inv[:, None, None]  # of b1, b2 by x, y
        by_pixel = slope.transpose(1, 2) @ edges  # [by x, by y] x [u, v]
        rgb = torch.ones_like(d)
        textured = (s[:, 18] >= 0).nonzero()[:, 0]
        rgb[textured] = self._footprint(
            s[textured, 18].long(), s[textured, 19].long(), at[textured], by_pixel[textured], taps
        )
        weights = torch.stack([1.0 - b.sum(-1), b[:, 0], b[:, 1]], dim=-1)
        n = (weights[:, None] @ s[:, 6:15].view(-1, 3, 3))[:, 0]
        n = (bodies[self.body[face], :, :3].transpose(1, 2) @ n[..., None])[..., 0]
        n = n / n.norm(dim=1, keepdim=True).clamp(min=1e-12)
        n = torch.where(((n * d).sum(-1) > 0)[:, None], -n, n)
        rgb = rgb * self._light(camera[..., 3] + depth[:, None] * d, n) * s[:, 15:18]
        clear = torch.exp(-self.ambience[13] * depth * d.norm(dim=1))[:, None]
        return clear * rgb + (1.0 - clear) * self.ambience[10:13]

    def _light(self, p: Tensor, n: Tensor) -> Tensor:
        a = self.ambience
        light = a[:3] * (1.0 - a[9] * 0.5 * (1.0 - n[:, 2:])) + (n @ a[3:6]).clamp(min=0.0)[:, None] * a[6:9]
        for lamp in self.lamps:
            towards = lamp[:3] - p
            squared = (towards**2).sum(-1)
            cosine = (n * towards).sum(-1).clamp(min=0.0) / squared.sqrt().clamp(min=1e-12)
            light = light + (cosine / (1.0 + squared / lamp[6] ** 2))[:, None] * lamp[3:6]
        return light

    def _footprint(self, base: Tensor, k: Tensor, at: Tensor, by_pixel: Tensor, taps: int) -> Tensor:
        """Anisotropic look-up; ``by_pixel`` (n, 2, 2) holds the derivatives of uv by column and by row."""
        side = torch.exp2(k.double())
        lengths = by_pixel.norm(dim=-1)
        longer_x = lengths[:, 0] >= lengths[:, 1]
        along = torch.where(longer_x[:, None], by_pixel[:, 0], by_pixel[:, 1])
        major = lengths.amax(dim=1) * side
        minor = torch.linalg.det(by_pixel).abs() * side**2 / major.clamp(min=1e-12)
        count = torch.ceil(major / minor.clamp(min=1.0) - 1e-6).clamp(1.0, float(taps))
        lod = torch.maximum(minor, major / count).clamp(min=1.0).log2().minimum(k.double())
        rgb = torch.zeros((len(at), 3), dtype=torch.float64, device=self.device)
        for i in range(taps):
            used = (count > i).nonzero()[:, 0]
            if len(used) == 0:
                break
            s = ((i + 0.5) / count[used] - 0.5)[:, None]
            point = at[used] + s * along[used]
            rgb[used] += self._sample(base[used], k[used], point[:, 0], point[:, 1], lod[used]) / count[used, None]
        return rgb

    def _sample(self, base: Tensor, k: Tensor, u: Tensor, v: Tensor, lod: Tensor) -> Tensor:
        """Trilinear look-up (n, 3)."""
        level = lod.floor()
        fraction = (lod - level)[:, None]
        finer = self._texel(base, k, level.long(), u, v)
        coarser = self._texel(base, k, torch.minimum(level.long() + 1, k), u, v)
        return (1.0 - fraction) * finer + fraction * coarser

    def _texel(self, base: Tensor, k: Tensor, level: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Bilinear look-up (n, 3) in one mip level."""
        one = torch.ones_like(k)
        side = one << (k - level)
        start = base + ((one << (2 * k + 2)) - (one << (2 * (k - level) + 2))) // 3
        x, y = u * side - 0.5, v * side - 0.5
        fx, fy = x.floor(), y.floor()
        ax, ay = (x - fx)[:, None], (y - fy)[:, None]
        mask = side - 1
        x0, y0 = fx.long() & mask, fy.long() & mask
        x1, y1 = (x0 + 1) & mask, (y0 + 1) & mask

        def read(row: Tensor, column: Tensor) -> Tensor:
            return self.texels[start + row * side + column, :3].double()

        above = (1 - ax) * read(y0, x0) + ax * read(y0, x1)
        below = (1 - ax) * read(y1, x0) + ax * read(y1, x1)
        return ((1 - ay) * above + ay * below) / 255.0

    def _edges(self, face: Tensor, inverse: Tensor) -> Tensor:
        """(H, W) pixels for which one sample does not stand; see ``shading.find_edges``."""
        edge = torch.zeros(face.shape, dtype=torch.bool, device=self.device)
        normal = self.surface[face.clamp(min=0), 6:9]
        texture = self.surface[face.clamp(min=0), 18]
        height, width = face.shape
        for here, there in (
            ((slice(0, height - 1), slice(None)), (slice(1, height), slice(None))),
            ((slice(None), slice(0, width - 1)), (slice(None), slice(1, width))),
        ):
            p, q = inverse[here], inverse[there]
            alike = (face[here] >= 0) & (face[there] >= 0) & (texture[here] == texture[there])
            alike &= (normal[here] * normal[there]).sum(-1) > 0.9
            alike &= torch.maximum(p, q) < 1.05 * torch.minimum(p, q)
            border = (face[here] != face[there]) & ~alike
            edge[here] |= border
            edge[there] |= border
        return edge

    def _refined(
        self, cameras: Tensor, views: Tensor, bodies: Tensor, K: Tensor, row: Tensor, pixel: Tensor, face: Tensor,
        near: float, taps: int,
    ) -> Tensor:  # fmt: skip
        """Mean colour (n, 3) of 2 x 2 samples in each of the edge pixels; see ``shading.refine_rows``."""
        height, width = face.shape
        y, x = pixel // width, pixel % width
        offset = torch.tensor([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)], device=self.device)
        near_y, near_x = y[:, None] + offset[:, 0], x[:, None] + offset[:, 1]
        inside = (near_y >= 0) & (near_x >= 0) & (near_y < height) & (near_x < width)
        candidate = face[near_y.clamp(0, height - 1), near_x.clamp(0, width - 1)]
        open_sky = (inside & (candidate < 0)).any(dim=1)
        valid = inside & (candidate >= 0)
        f, D = self._pixel_functions(candidate.clamp(min=0).flatten(), views, row.repeat_interleave(9), K)
        f, D = f.view(-1, 9, 3, 3), D.view(-1, 9)
        own, x, y = face[y, x], x.double(), y.double()
        ids, xs, ys = [], [], []
        for s in range(4):
            sx, sy = x - 0.25 + 0.5 * (s % 2), y - 0.25 + 0.5 * (s // 2)
            u, v, w = (f @ torch.stack([sx, sy, torch.ones_like(sx)], -1)[:, None, :, None])[..., 0].unbind(-1)
            z = w / D
            seen = valid & (u >= 0) & (v >= 0) & (w - u - v >= 0) & (z * near < 1.0) & (z > 0)
            z, chosen = torch.where(seen, z, torch.zeros_like(z)).max(dim=1)
            found = z > 0
            sky = ~found & (open_sky | (own < 0))
            number = torch.where(found, candidate.gather(1, chosen[:, None])[:, 0], own)
            ids.append(torch.where(sky, torch.full_like(number, -1), number))
            xs.append(torch.where(found | sky, sx, x))
            ys.append(torch.where(found | sky, sy, y))
        number, px, py = torch.stack(ids, 1), torch.stack(xs, 1), torch.stack(ys, 1)
        same = (number[:, :, None] == number[:, None, :]).double()
        weight = same / same.sum(dim=2, keepdim=True)
        px, py = (weight @ px[..., None])[..., 0], (weight @ py[..., None])[..., 0]
        rows = row.repeat_interleave(4)
        rgb = self._colour(cameras, views, bodies, K, rows, px.flatten(), py.flatten(), number.flatten(), taps)
        return rgb.view(-1, 4, 3).mean(dim=1)
