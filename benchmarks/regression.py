"""Speed of the pose regressor: frames per second of its parts, training samples per second, fine-tuning from a bag.

    python benchmarks/regression.py --clock cpu -o benchmarks/results/regression_cpu.md

The reference of the first table is the published layout (ACE's encoder and head, marepo's transformer) on the same
machine and threads; weights are random, which does not matter to the speed. The reference of the fine-tuning is the
same number of bare passes, measured in the same run: each image of the buffer through the encoder once, and the
training steps with nothing around them. The rest is reading the bag, checkpoints, calibration, and judging twice.
On a machine that is busy with other work ``--clock cpu`` counts processor time instead of waiting.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from robust_loc.data import BagWriter
from robust_loc.data.files import write_atomically
from robust_loc.geometry import CameraCalibration
from robust_loc.pose_regression import (
    PoseNetwork,
    PoseNetworkConfig,
    PoseRegressor,
    PoseRegressorConfig,
    save_network,
)
from robust_loc.pose_regression.reprojection import reprojection_loss
from robust_loc.training.finetune import FinetuneConfig, Progress, finetune
from robust_loc.training.regressor import RegressorTrainer, StoredScene
from robust_loc.types import Camera, Frame

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
RATE = 10  # labelled frames per second of bag
Clock = Callable[[], float]


def per_second(call: Callable[[], object], seconds: float, clock: Clock) -> float:
    """Calls per second: the median of single calls, after one to warm up."""
    call()
    times, start = [], clock()
    while clock() - start < seconds or len(times) < 2:
        before = clock()
        call()
        times.append(clock() - before)
    return 1 / float(np.median(times))


def measure(config: PoseNetworkConfig, seconds: float, device: str, clock: Clock) -> dict[str, float]:
    """Per second: passes through each part, answers of the estimator, samples of the map stage, of the joint stage."""
    torch.manual_seed(0)
    network = PoseNetwork(config).to(device).eval()
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    camera = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
    small = camera.resized(640 * config.image_height // 480, config.image_height)
    images = 255 * torch.rand(1, 3, small.height, small.width, device=device)
    intrinsics = torch.from_numpy(small.intrinsics).float()[None].to(device)
    regressor = PoseRegressor(PoseRegressorConfig(device=device), network)

    def rate(call: Callable[[], object]) -> float:
        return per_second(call, seconds, clock)

    with torch.inference_mode():
        features = network.encoder(images)
        points = network.scene(features)
        result = {
            "encoder, frames": rate(lambda: network.encoder(images).sum().item()),
            "head, frames": rate(lambda: network.scene(features).sum().item()),
            "transformer, frames": rate(lambda: network.pose_of_points(points, intrinsics).factor.sum().item()),
            "estimator, frames": rate(lambda: regressor.update(Frame(image, camera, 0))),
        }
    batch = 2048
    cells = torch.randn(batch, network.encoder.channels, 1, 1, device=device)
    cameras = torch.eye(4, device=device).expand(batch, 4, 4)
    pixels = torch.rand(batch, 2, device=device) * 100

    def map_step() -> None:
        network.zero_grad()
        world = network.scene(cells)[..., 0, 0]
        reprojection_loss(world, cameras, intrinsics.expand(batch, 4), pixels, 0.0).loss.backward()

    result["training of the map, cells"] = batch * rate(map_step)
    rows = 8
    valid = torch.ones(rows, *points.shape[-2:], dtype=torch.bool, device=device)
    stored = StoredScene(
        torch.randn(rows, *points.shape[1:], device=device), valid, intrinsics.expand(rows, 4),
        torch.arange(rows, device=device), torch.eye(4, device=device).expand(rows, 4, 4),
    )  # fmt: skip
    joint = FinetuneConfig(max_steps=10, pose_batch=rows).training()
    trainer = RegressorTrainer(network, joint, device)
    result["training of the pose, frames"] = (
        rows * joint.joint_steps * rate(lambda: trainer.train_joint(stored, torch.eye(4).expand(rows, 4, 4)))
    )
    return result


def minute(seconds: float, config: FinetuneConfig, clock: Clock) -> dict[str, Any]:
    """Fine-tune the compact network on a bag of so many seconds; seconds by stage, and those of the bare passes."""
    shape = PoseNetworkConfig()
    camera = Camera(320, 240, 262.5, 262.5, 159.5, 119.5)
    texture = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with BagWriter(folder / "bag.mcap", CameraCalibration(320, 240, 262.5, 262.5, 159.5, 119.5)) as writer:
            for k in range(round(seconds * RATE)):
                pose = np.eye(4)
                pose[0, 3] = 0.01 * k
                left = k % 80
                image = np.ascontiguousarray(texture[left // 2 : left // 2 + 240, left : left + 320])
                writer.write_frame(Frame(image, camera, 1_000_000_000 + k * 1_000_000_000 // RATE, None, pose))
        torch.manual_seed(0)
        save_network(PoseNetwork(shape), folder / "weights.safetensors")
        started: dict[str, float] = {}

        def progress(said: Progress) -> None:
            started.setdefault(said.phase or said.stage, clock())

        result = finetune(
            [folder / "bag.mcap"], folder / "weights.safetensors", folder / "run", config, progress=progress
        )
        times = [*started.values(), clock()]
        stages = {stage: after - before for stage, before, after in zip(started, times, times[1:])}
    training = round(seconds * RATE * (1 - config.holdout_fraction))
    cells = training * -(-240 // 16) * -(-320 // 16)
    encoded = training * min(1 + config.training().copies, max(1, config.buffer // cells))
    return {
        "bag_seconds": seconds, "frames": round(seconds * RATE), "steps": result.steps, "stages": stages,
        "encoded": encoded, "total": sum(stages.values()),
    }  # fmt: skip


@click.command()
@click.option("--seconds", type=float, default=3.0, help="Per measurement.")
@click.option("--bag-seconds", type=float, default=60.0, help="Length of the bag to fine-tune on; 0: leave that out.")
@click.option("--steps", type=click.IntRange(min=10), help="Steps of the fine-tuning; default: its own.")
@click.option("--threads", type=int, default=1)
@click.option("--device", default="cpu", help="Of the networks.")
@click.option("--clock", "clock_name", type=click.Choice(list(CLOCKS)), default="wall")
@click.option("--json", "as_json", is_flag=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file to write.")
def main(
    seconds: float,
    bag_seconds: float,
    steps: int | None,
    threads: int,
    device: str,
    clock_name: str,
    as_json: bool,
    output: Path | None,
) -> None:
    """Speed of the pose regressor against the published layout, and of fine-tuning against its bare passes."""
    torch.set_num_threads(threads)
    clock = CLOCKS[clock_name]
    compact = measure(PoseNetworkConfig(), seconds, device, clock)
    published = measure(PoseNetworkConfig.published(), seconds, device, clock)
    rows = {name: {"compact": compact[name], "published": published[name]} for name in compact}
    found: dict[str, Any] = {"per_second": rows, "threads": threads, "device": device, "clock": clock_name}
    if bag_seconds:
        config = FinetuneConfig(threads=threads, device=device)
        config = replace(config, max_steps=steps or config.max_steps)
        run = found["finetune"] = minute(bag_seconds, config, clock)
        training = config.training()
        bare = run["encoded"] / compact["encoder, frames"]
        bare += training.map_steps * training.map_batch / compact["training of the map, cells"]
        poses = (training.uncertainty_steps + training.joint_steps) * training.pose_batch
        run["bare"] = bare + poses / compact["training of the pose, frames"]
    text = json.dumps(found) if as_json else report(found)
    if output is not None:
        write_atomically(output, text + "\n")
    print(text)


def report(found: dict[str, Any]) -> str:
    lines = [
        f"{found['threads']} thread(s), {found['device']}, {found['clock']} time, torch {torch.__version__}", "",
        "| per second | compact | published layout | ratio |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found["per_second"].items():
        ratio = row["compact"] / row["published"]
        lines.append(f"| {name} | {row['compact']:.4g} | {row['published']:.4g} | {ratio:.1f} |")
    if run := found.get("finetune"):
        stages = ", ".join(f"{name} {value:.1f}" for name, value in run["stages"].items())
        lines += [
            "",
            f"Fine-tuning the compact network on {run['bag_seconds']:g} s of bag ({run['frames']} frames of 320x240, "
            f"{run['steps']} steps, {run['encoded']} images encoded for the buffer): {run['total']:.1f} s ({stages}). "
            f"The bare passes alone take {run['bare']:.1f} s: ratio {run['total'] / run['bare']:.2f}. "
            f"Against the length of the bag: {run['total'] / run['bag_seconds']:.2f}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
