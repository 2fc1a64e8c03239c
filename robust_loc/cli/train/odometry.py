"""``robust-loc train odometry``."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robust_loc.errors import ConfigurationError

if TYPE_CHECKING:
    from robust_loc.training.odometry_presets import Preset

RENDERED_CLIPS = 32  # rendered for a run that names no data
VALIDATION_CLIPS = 6
VALIDATION_SEED = 1_000_000


@click.command()
@click.option("--preset", "name", default="compact", show_default=True, help="Named configuration.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("odometry_training"))
@click.option(
    "--data", multiple=True, metavar="KIND:PATH[:WEIGHT]",
    help="Training data: rendered:, tartanair: or folder:. Repeatable. Default: clips rendered into the output folder.",
)  # fmt: skip
@click.option("--validation", multiple=True, metavar="KIND:PATH", help="Held-out data; default: rendered likewise.")
@click.option("--initial", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Weights to start from.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the schedule; default: the preset's.")
@click.option("--clips", type=click.IntRange(min=1), help="Clips per step and process.")
@click.option("--learning-rate", type=float, help="Peak of the schedule.")
@click.option("--seconds", type=float, default=math.inf, help="Stop (resumably) after this time.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--processes", default=0, show_default=True, help="Processes that make clips ahead of their use.")
@click.option("--seed", default=0, show_default=True)
@click.option("--validation-clips", type=click.IntRange(min=1), default=12, show_default=True, help="Held-out clips.")
@click.option("--validate-every", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    name: str,
    output: Path,
    data: tuple[str, ...],
    validation: tuple[str, ...],
    initial: Path | None,
    steps: int | None,
    clips: int | None,
    learning_rate: float | None,
    seconds: float,
    resume: bool,
    device: str,
    processes: int,
    seed: int,
    validation_clips: int,
    validate_every: int,
    as_json: bool,
) -> None:
    """Train the patch odometry on rendered or recorded sequences with depth.

    The output folder receives checkpoints, weights.safetensors, log.jsonl, TensorBoard events and the configuration.
    With ``torchrun`` every process takes one device and its own clips.
    """
    from tqdm import tqdm

    from robust_loc.odometry.network import PatchNetwork
    from robust_loc.training.augmentation import AugmentationConfig
    from robust_loc.training.odometry import OdometryTrainer, train
    from robust_loc.training.odometry_data import ClipSampler
    from robust_loc.training.odometry_presets import preset
    from robust_loc.training.odometry_sources import open_sources
    from robust_loc.training.odometry_validation import Validation

    chosen = _adjusted(preset(name), steps, clips, learning_rate, seed)
    if resume and initial is not None:
        raise ConfigurationError("--resume and --initial exclude each other: a checkpoint brings its own weights")
    device = _join_processes(device)
    mixture = open_sources(data or [_rendered(output / "clips", RENDERED_CLIPS, 0, chosen)])
    held_out = open_sources(validation or [_rendered(output / "validation", VALIDATION_CLIPS, VALIDATION_SEED, chosen)])
    rank = int(os.environ.get("RANK", "0"))
    sampler = ClipSampler(
        mixture.sequences, chosen.clips, AugmentationConfig(), 1000 * seed + 17 + rank, mixture.weights, processes
    )
    network = PatchNetwork.from_checkpoint(initial) if initial is not None else None
    trainer = OdometryTrainer(chosen.training, sampler, device, network)
    if resume:
        trainer.load(output)
    output.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        (output / "config.json").write_text(json.dumps(asdict(chosen), indent=1) + "\n")
    validate = Validation.of(held_out.sequences, chosen.clips, validation_clips)
    before = validate(trainer.network.eval())
    trainer.network.train()
    with tqdm(
        total=chosen.training.optimizer.steps, initial=trainer.step, unit="step", disable=as_json or rank > 0
    ) as bar:

        def report(step: int, scalars: dict[str, float]) -> None:
            bar.update()
            bar.set_postfix(loss=f"{scalars['loss']:.3f}", refresh=False)

        after = train(
            trainer, output, validate=validate, validate_every=validate_every, seconds=seconds, report=report
        )  # fmt: skip
    if rank == 0:
        weights = output / "weights.safetensors"
        trainer.averaged.save(weights)
        summary = {"weights": str(weights), "step": trainer.step, "before": before, "after": after}
        if as_json:
            click.echo(json.dumps(summary))
        else:
            click.echo(f"{weights}: step {trainer.step}")
            for key in after:
                click.echo(f"  {key}: {before[key]:.4f} -> {after[key]:.4f}")


def _adjusted(preset: Preset, steps: int | None, clips: int | None, rate: float | None, seed: int) -> Preset:
    optimizer = preset.training.optimizer
    optimizer = replace(
        optimizer,
        steps=steps or optimizer.steps,
        clips=clips or optimizer.clips,
        learning_rate=optimizer.learning_rate if rate is None else rate,
    )
    return replace(preset, training=replace(preset.training, optimizer=optimizer, seed=seed))


def _join_processes(device: str) -> str:
    """The device of this process; joins the group when launched by ``torchrun``."""
    import torch

    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    cuda = device.startswith("cuda")
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    return device


def _rendered(folder: Path, count: int, first_seed: int, preset: Preset) -> str:
    """Render what is missing of ``count`` clips, a quarter larger than the training window."""
    import torch
    from tqdm import tqdm

    from robust_loc.data.synthetic.cache import write_clip
    from robust_loc.data.synthetic.mixture import training_config
    from robust_loc.data.synthetic.sequence import render_sequence

    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not together or torch.distributed.get_rank() == 0
    if not first:  # the first process renders
        torch.distributed.barrier()
    width, height = round(preset.clips.width * 1.25), round(preset.clips.height * 1.25)
    missing = [s for s in range(first_seed, first_seed + count) if not (folder / f"clip_{s:06d}.npz").is_file()]
    for seed in tqdm(missing, desc=f"rendering {folder}", unit="clip", disable=not missing):
        config = training_config(seed, max(32, 2 * preset.clips.frames), width, height)
        write_clip(folder / f"clip_{seed:06d}.npz", render_sequence(config, seed), source=f"{config.kind} seed {seed}")
    if together and first:
        torch.distributed.barrier()
    return f"rendered:{folder}"
