"""``robust-loc odometry``: the camera's motion in a recording, up to scale, with covariances."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from robust_loc.odometry import Odometry


@click.command()
@click.argument("bag", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Trajectory to write, TUM format.")  # fmt: skip
@click.option("--answers", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the poses as they were answered, frame by frame.")  # fmt: skip
@click.option("--preset", type=click.Choice(["default", "fast", "cpu"]),
              help="Default: 'default' with a GPU, else 'cpu'.")  # fmt: skip
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Parameter file: its section 'odometry', which may name a preset.")  # fmt: skip
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Network weights: .safetensors or an official dpvo.pth; default: the package's.")  # fmt: skip
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame to read.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not to read any more.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bag: Path,
    output: Path,
    answers: Path | None,
    preset: str | None,
    config: Path | None,
    weights: Path | None,
    image_topic: str | None,
    from_frame: int,
    until_frame: int | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Track the camera of the recording BAG.

    OUTPUT holds the trajectory as the whole recording has refined it; OUTPUT.cov.csv the covariances as stated when
    each frame was answered (judge them on the poses of --answers, with evaluate --align start); OUTPUT.run.json
    configuration, version and seed. The unit of length is arbitrary: evaluate with --align sim3.
    """
    import numpy as np

    from robust_loc.data import Trajectory, open_bag, run_description, trajectory_of, write_tum
    from robust_loc.data.files import write_atomically
    from robust_loc.errors import TrajectoryError
    from robust_loc.evaluation.replay import replay

    recording = open_bag(bag, image_topic)
    odometry = _odometry(preset, config, weights, device, seed)
    last = len(recording) if until_frame is None else min(until_frame, len(recording))
    frames = tqdm(
        recording.frames(from_frame, until_frame),
        total=max(last - from_frame, 0),
        desc=bag.name,
        unit="frame",
        disable=as_json or None,
    )
    estimates = list(replay(frames, odometry))
    answered = trajectory_of(estimates)
    refined = {point.stamp: point.world_T_cam for point in odometry.terminate()}
    if not refined:
        raise TrajectoryError(f"{bag}: none of {len(estimates)} frames could be tracked")
    stated = dict(zip(answered.stamps.tolist(), answered.covariances if answered.covariances is not None else ()))
    stamps = sorted(refined)
    trajectory = Trajectory(
        np.array(stamps, dtype=np.int64),
        np.array([refined[stamp] for stamp in stamps]),
        np.array([stated.get(stamp, np.full((6, 6), np.nan)) for stamp in stamps]),
    )
    write_tum(output, trajectory)
    if answers is not None:
        write_tum(answers, answered)
    description = run_description({"odometry": odometry.config.to_dict()}, seed, bag)
    description["weights"] = "package" if weights is None else str(weights)
    write_atomically(output.with_name(output.name + ".run.json"), json.dumps(description, indent=2) + "\n")
    seconds = np.array([estimate.latency for estimate in estimates])
    summary: dict[str, Any] = {
        "trajectory": str(output),
        "frames": len(estimates),
        "poses": len(trajectory),
        "status": dict(Counter(estimate.status.value for estimate in estimates)),
        "latency": {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 99)},
    }
    if as_json:
        click.echo(json.dumps(summary))
        return
    counts = ", ".join(f"{count} {status}" for status, count in summary["status"].items())
    click.echo(f"{output}: {len(trajectory)} poses of {len(estimates)} frames ({counts})")
    click.echo(f"latency p50 {1000 * summary['latency']['p50']:.0f} ms, p99 {1000 * summary['latency']['p99']:.0f} ms")


def _odometry(preset: str | None, config: Path | None, weights: Path | None, device: str, seed: int) -> Odometry:
    import torch

    from robust_loc.errors import ConfigurationError
    from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork
    from robust_loc.odometry.weights import default_weights

    if preset is not None and config is not None:
        raise ConfigurationError("give --preset or --config, not both")
    if config is not None:
        chosen = OdometryConfig.from_mapping(
            {
                **OdometryConfig.from_yaml(config, "odometry").to_dict(),
                "device": device,
                "seed": seed,
                "keep_trajectory": True,
            }
        )
    else:
        name = preset or ("default" if torch.cuda.is_available() and device != "cpu" else "cpu")
        chosen = OdometryConfig.preset(name, device=device, seed=seed)
    return Odometry(chosen, PatchNetwork.from_checkpoint(weights or default_weights()))
