"""Continue the training of the default odometry weights, wherever this runs.

    python experiments/train_default/train.py RUN --seconds 480 --device cuda --clips 48 --processes 14  # one piece
    nice python experiments/train_default/train.py RUN --seconds 7200                                     # on a CPU

The run is a list of stages (``PLAN``), each a training preset with its own length. ``RUN`` holds the state of the stage
at work and the weights of finished ones, well under 64 MB, in files under 16 MB, so that it can be carried to a machine
for one piece of work and back. Clips are rendered into ``--clips-folder`` first where there are fewer than
``--least-clips``; they need not be carried: the same seeds give the same clips.

A plan's step counts are for one clip per step; with ``--clips N`` per step and process a stage is shortened by sqrt(N),
its learning rate kept: larger batches have less noise, not more steps' worth of it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click

HERE = Path(__file__).resolve().parent


class Stage(NamedTuple):
    """A training preset for a number of one-clip steps."""

    name: str
    preset: str
    steps: int


PLANS = {
    "compact": [
        Stage("1_matching", "compact-matching", 1000),
        Stage("2_direct", "compact-direct", 1000),
        Stage("3_weighted", "compact", 3000),
        Stage("4_longer", "compact", 60_000),
        Stage("5_streaming", "compact-streaming", 60_000),
    ],
    "full": [
        Stage("1_non_streaming", "full-non-streaming", 120_000),
        Stage("2_streaming", "full", 240_000),
    ],
}


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option("--plan", type=click.Choice(list(PLANS)), default="compact", show_default=True)
@click.option("--seconds", default=480.0, show_default=True, help="Stop after this time, state saved.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--clips", default=1, show_default=True, help="Clips per step: fill the card.")
@click.option("--processes", default=0, show_default=True, help="Processes that make clips.")
@click.option("--clips-folder", type=click.Path(path_type=Path), default=Path("rendered/train"), show_default=True)
@click.option("--validation-folder", type=click.Path(path_type=Path), default=Path("rendered/validation"))
@click.option("--least-clips", default=200, show_default=True, help="Render until the folder holds so many.")
@click.option("--bare-folder", type=click.Path(path_type=Path), help="Bare corridors; rendered there if missing.")
@click.option("--bare-share", default=0.4, show_default=True, help="Share of the clips drawn from --bare-folder.")
@click.option("--textures", type=click.Path(path_type=Path), help="Pictures for the rendered worlds.")
@click.option("--initial", type=click.Path(path_type=Path), help="Weights to begin with, skipping --from-stage.")
@click.option("--from-stage", default=0, show_default=True, help="With --initial: number of the first stage to run.")
def main(
    run: Path,
    plan: str,
    seconds: float,
    device: str,
    clips: int,
    processes: int,
    clips_folder: Path,
    validation_folder: Path,
    least_clips: int,
    bare_folder: Path | None,
    bare_share: float,
    textures: Path | None,
    initial: Path | None,
    from_stage: int,
) -> None:
    """Work on RUN for a while; prints one JSON line per stage worked on."""
    begin = time.monotonic()
    render(clips_folder, least_clips, 0, textures, max(1, processes))
    sources = [f"rendered:{clips_folder}:{1 - bare_share if bare_folder else 1}"]
    if bare_folder is not None:
        render_bare(bare_folder, 60, max(1, processes))
        sources.append(f"rendered:{bare_folder}:{bare_share}")
    render(validation_folder, 16, 1_000_000, textures, max(1, processes))
    left = seconds - (time.monotonic() - begin)
    for number, stage in enumerate(PLANS[plan]):
        if initial is not None and number < from_stage:
            continue
        finished = run / f"{stage.name}.safetensors"
        if finished.is_file():
            initial = finished
            continue
        if left <= 0:
            break
        summary = work(stage, run, initial, left, device, clips, processes, sources, validation_folder)
        click.echo(json.dumps(summary))
        if not summary["done"]:
            break
        initial, left = finished, seconds - (time.monotonic() - begin)


def render(folder: Path, count: int, first_seed: int, textures: Path | None, processes: int) -> None:
    """Render the missing clips with ``render.py``."""
    command = [sys.executable, str(HERE / "render.py"), str(folder), "--count", str(count)]
    command += ["--first-seed", str(first_seed), "--processes", str(processes)]
    if textures is not None:
        command += ["--textures", str(textures)]
    subprocess.run(command, check=True)


def render_bare(folder: Path, count: int, processes: int) -> None:
    """Render the missing clips with ``render_bare.py``."""
    command = [sys.executable, str(HERE / "render_bare.py"), str(folder), "--count", str(count)]
    subprocess.run([*command, "--processes", str(processes)], check=True)


def work(
    stage: Stage,
    run: Path,
    initial: Path | None,
    seconds: float,
    device: str,
    clips: int,
    processes: int,
    sources: list[str],
    validation_folder: Path,
) -> dict[str, object]:
    """Train one stage for at most ``seconds``, from its checkpoint where there is one."""
    import torch

    from robust_loc.odometry.network import PatchNetwork
    from robust_loc.training.augmentation import AugmentationConfig
    from robust_loc.training.checkpoint import checkpoints
    from robust_loc.training.odometry import OdometryTrainer, train
    from robust_loc.training.odometry_data import ClipConfig, ClipSampler
    from robust_loc.training.odometry_presets import preset
    from robust_loc.training.odometry_sources import open_sources
    from robust_loc.training.odometry_validation import Validation

    chosen = preset(stage.preset)
    steps = max(1, round(stage.steps / math.sqrt(clips)))
    optimizer = replace(chosen.training.optimizer, steps=steps, clips=clips)
    config = replace(chosen.training, optimizer=optimizer)
    folder = run / stage.name
    mixture = open_sources(sources)
    sampler = ClipSampler(mixture.sequences, chosen.clips, AugmentationConfig(), 17, mixture.weights, processes)
    network = PatchNetwork.from_checkpoint(initial) if initial is not None else None
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads()))
    trainer = OdometryTrainer(config, sampler, device, network)
    if checkpoints(folder):
        trainer.load(folder)
    first = trainer.step
    held_out = open_sources([f"rendered:{validation_folder}"]).sequences
    validate = Validation.of(held_out, ClipConfig(frames=8), 16)
    begin = time.monotonic()
    seen: list[float] = []
    scalars = train(
        trainer, folder, validate=validate, validate_every=1000, checkpoint_every=200, seconds=seconds,
        report=lambda _, s: seen.append(s["seconds_data"]),
    )  # fmt: skip
    took = time.monotonic() - begin
    done = trainer.step >= steps
    weights = run / f"{stage.name}{'' if done else '_unfinished'}.safetensors"
    trainer.averaged.save(weights)
    return {
        "stage": stage.name,
        "step": trainer.step,
        "of": steps,
        "done": done,
        "steps_per_second": round((trainer.step - first) / took, 3),
        "clips_per_second": round((trainer.step - first) * clips / took, 3),
        "share_waiting_for_clips": round(sum(seen) / took, 3),
        "weights": str(weights),
        **scalars,
    }


if __name__ == "__main__":
    main()
