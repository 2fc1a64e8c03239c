"""Accuracy against time of the patch odometry, by preset: what a preset costs and what it gives.

    python benchmarks/odometry_accuracy.py RECORDING... --presets cpu,fast,default -o benchmarks/results/odometry.md

Every number is the median over seeds (patch positions and first depths) of the RMSE of the camera centres after Sim(3)
alignment, of all frames that have a pose; online: each pose as it was answered, refined: as known at the end.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch

from robust_loc.data import Trajectory, open_bag
from robust_loc.data.datasets import read_folder
from robust_loc.data.files import write_atomically
from robust_loc.errors import TrajectoryError
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork, PatchNetworkConfig
from robust_loc.types import Frame

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "robust_loc" / "weights" / "odometry.safetensors"


def read(path: Path) -> tuple[str, list[Frame], Trajectory]:
    """Name, frames and ground truth of a bag, or of a folder with a frames.csv."""
    if (path / "frames.csv").exists():
        recording = read_folder(path)
        frames, truth, name = list(recording), recording.ground_truth, path.name
    else:
        bag = open_bag(path)
        frames, truth, name = list(bag), bag.ground_truth_at_images(), path.stem
    if truth is None:
        raise TrajectoryError(f"{path}: no ground truth to judge by")
    return name, frames, truth


def run(
    frames: list[Frame], config: OdometryConfig, network: PatchNetwork, clock: str = "wall"
) -> tuple[Trajectory, Trajectory, float]:
    """Online and refined trajectory, and the median seconds per frame.

    The clock ``cpu`` counts this process's time on all cores: what a frame costs, also on a machine that is shared.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    odometry = Odometry(config, network)
    answers, seconds = [], []
    for frame in frames:
        start = now()
        answers.append(odometry.update(frame))
        seconds.append(now() - start)
    online = [(a.stamp, a.world_T_cam) for a in answers if a.world_T_cam is not None]
    refined = [(p.stamp, p.world_T_cam) for p in odometry.trajectory()]
    return _trajectory(online), _trajectory(refined), float(np.median(seconds))


def _trajectory(points: list) -> Trajectory:
    return Trajectory(np.array([s for s, _ in points], np.int64), np.stack([p for _, p in points]))


def ate(estimate: Trajectory, truth: Trajectory) -> float:
    """RMSE after Sim(3) alignment; nan where it is not determined."""
    try:
        found = evaluate(estimate, truth, alignment=AlignmentMode.SIM3).summary["ate"]["sim3"]["rmse"]
    except (TrajectoryError, KeyError):
        return float("nan")
    return float(found)


@click.command()
@click.argument("recordings", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--presets", default="cpu", show_default=True, help="Comma-separated.")
@click.option("--weights", type=click.Path(path_type=Path), default=DEFAULT_WEIGHTS, help="Or the word 'untrained'.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--precision", type=click.Choice(["full", "mixed"]), default="full", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="Of s/frame.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown table to write.")
def main(
    recordings: tuple[Path, ...],
    presets: str,
    weights: Path,
    seeds: int,
    precision: str,
    threads: int,
    clock: str,
    output: Path | None,
) -> None:
    """Sim(3) ATE and time per frame of the odometry on RECORDINGS."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if str(weights) == "untrained":
        network = PatchNetwork(PatchNetworkConfig.compact()).eval()
    else:
        network = PatchNetwork.from_checkpoint(weights)
    lines = [
        "| recording | preset | path (m) | online ATE, median (m) | min - max (m) | refined ATE, median (m) "
        "| min - max (m) | % of path | frames answered | s/frame |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for path in recordings:
        name, frames, truth = read(path)
        for preset in presets.split(","):
            online, refined, answered, seconds = [], [], [], []
            for seed in range(seeds):
                config = OdometryConfig.preset(preset, seed=seed, mixed_precision=precision == "mixed")
                first, final, took = run(frames, config, network, clock)
                online.append(ate(first, truth))
                refined.append(ate(final, truth))
                answered.append(len(first) / len(frames))
                seconds.append(took)
            lines.append(
                f"| {name} | {preset} | {truth.path_length:.2f} | {np.median(online):.4f} "
                f"| {min(online):.4f} - {max(online):.4f} | {np.median(refined):.4f} "
                f"| {min(refined):.4f} - {max(refined):.4f} | {100 * np.median(refined) / truth.path_length:.2f} "
                f"| {100 * np.median(answered):.0f} % | {np.median(seconds):.3f} |"
            )
            click.echo(lines[-1])
    if output is not None:
        head = (
            f"# Patch odometry\n\n`python benchmarks/odometry_accuracy.py`, weights {weights}, {precision} precision, "
            f"{threads} CPU thread(s), {seeds} seeds, {clock} time; RMSE of the camera centres after Sim(3) "
            "alignment.\n\n"
        )
        write_atomically(output, head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
