"""Speed of the pose regressor: frames per second of its parts, and training samples per second.

The reference is the published layout (ACE's encoder and head, marepo's transformer) on the same machine and threads;
weights are random, which does not matter to the speed. Prints one table, or one JSON object with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, PoseRegressor, PoseRegressorConfig
from robust_loc.pose_regression.reprojection import reprojection_loss
from robust_loc.types import Camera, Frame


def per_second(call: Callable[[], object], seconds: float) -> float:
    """Calls per second: the median of single calls, after one to warm up."""
    call()
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 3:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return 1 / float(np.median(times))


def measure(config: PoseNetworkConfig, seconds: float, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    network = PoseNetwork(config).to(device).eval()
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    camera = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
    small = camera.resized(640 * config.image_height // 480, config.image_height)
    images = 255 * torch.rand(1, 3, small.height, small.width, device=device)
    intrinsics = torch.from_numpy(small.intrinsics).float()[None].to(device)
    regressor = PoseRegressor(PoseRegressorConfig(device=device), network)
    with torch.inference_mode():
        features = network.encoder(images)
        points = network.scene(features)
        result = {
            "encoder": per_second(lambda: network.encoder(images).sum().item(), seconds),
            "head": per_second(lambda: network.scene(features).sum().item(), seconds),
            "transformer": per_second(lambda: network.pose_of_points(points, intrinsics).factor.sum().item(), seconds),
            "frames": per_second(lambda: regressor.update(Frame(image, camera, 0)), seconds),
        }
    batch = 2048
    cells = torch.randn(batch, network.encoder.channels, 1, 1, device=device)
    cameras = torch.eye(4, device=device).expand(batch, 4, 4)
    pixels = torch.rand(batch, 2, device=device) * 100

    def step() -> None:
        network.zero_grad()
        world = network.scene(cells)[..., 0, 0]
        reprojection_loss(world, cameras, intrinsics.expand(batch, 4), pixels, 0.0).loss.backward()

    result["map samples"] = batch * per_second(step, seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="of the networks")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compact = measure(PoseNetworkConfig(), options.seconds, options.device)
    reference = measure(PoseNetworkConfig.published(), options.seconds, options.device)
    rows = {name: {"compact": compact[name], "published": reference[name]} for name in compact}
    for row in rows.values():
        row["ratio"] = row["compact"] / row["published"]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"per second on {options.threads} thread(s), {options.device}:")
    for name, row in rows.items():
        print(f"  {name:12s} compact {row['compact']:10.1f}  published {row['published']:10.2f}  x {row['ratio']:.1f}")


if __name__ == "__main__":
    main()
