"""``robust-loc train regressor``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robust_loc.errors import ConfigurationError, WeightsError

if TYPE_CHECKING:
    from robust_loc.training.regressor_data import PosedImages


@click.command()
@click.argument("bags", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("scene.safetensors"), show_default=True,
    help="The scene's weights; the covariance calibration and frames to replay are written beside them.",
)  # fmt: skip
@click.option("--preset", type=click.Choice(["compact", "published"]), default="compact", show_default=True)
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame of each recording.")
@click.option("--until-frame", type=click.IntRange(min=1), help="First frame not used any more.")
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Camera poses (TUM format, world_T_camera) instead of the recordings' ground truth.",
)  # fmt: skip
@click.option("--likelihood", help="Loss of the last stage: consistent (default), nll, beta_nll, faithful, robust_nll.")
@click.option("--initial", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Weights to start from.")
@click.option(
    "--encoder", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A published ACE encoder."
)
@click.option(
    "--features", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of the compact descriptors, instead of the hand-made ones.",
)  # fmt: skip
@click.option(
    "--transformer", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of 'robust-loc train pose_transformer' to start from; default: the package's (compact preset).",
)  # fmt: skip
@click.option("--pretrained/--random", default=True, help="Start from a pre-trained transformer or a random one.")
@click.option("--scale-steps", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Lengthen all stages.")
@click.option("--resume", is_flag=True, help="Go on after the last finished stage of an interrupted run.")
@click.option(
    "--keep-frames", type=click.IntRange(min=0), default=400, show_default=True,
    help="Frames kept beside the weights, for 'robust-loc finetune' to replay.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bags: tuple[Path, ...],
    output: Path,
    preset: str,
    from_frame: int,
    until_frame: int | None,
    labels: Path | None,
    likelihood: str | None,
    initial: Path | None,
    encoder: Path | None,
    features: Path | None,
    transformer: Path | None,
    pretrained: bool,
    scale_steps: float,
    resume: bool,
    keep_frames: int,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Train the pose regressor for the scene of the recordings BAGS.

    The last 5 of every 50 labelled frames are held out: they set the covariance factors and the limits of the scene
    gate. An interrupted run goes on with --resume.
    """
    import torch
    from tqdm import tqdm

    from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, load_network, load_published, save_network
    from robust_loc.pose_regression.weights import default_transformer, load_details, load_transformer
    from robust_loc.training.finetune.replay import memory_file, memory_of
    from robust_loc.training.regressor import STAGES, RegressorTrainer, RegressorTrainingConfig
    from robust_loc.training.regressor_data import held_out_blocks
    from robust_loc.training.regressor_validation import calibrate, summary
    from robust_loc.uncertainty import CovarianceCalibration

    shape = PoseNetworkConfig.published() if preset == "published" else PoseNetworkConfig()
    config = RegressorTrainingConfig.published() if preset == "published" else RegressorTrainingConfig()
    config = _scaled(replace(config, seed=seed, likelihood=likelihood or config.likelihood), scale_steps)
    if features is not None and (preset == "published" or initial is not None):
        raise ConfigurationError("--features goes with the compact preset and without --initial")
    if preset == "published" and encoder is None and initial is None:
        raise ConfigurationError("the published preset needs --encoder (ACE's encoder file) or --initial")
    partial = output.with_name(f"{output.stem}.partial.safetensors")
    stages: tuple[str, ...] = STAGES
    torch.manual_seed(seed)
    if resume:
        if not partial.exists():
            raise WeightsError(f"{partial}: no interrupted run to resume")
        network = load_network(partial, device)
        stages = STAGES[STAGES.index(load_details(partial)["stage"]) + 1 :]
    elif initial is not None:
        network = load_network(initial, device)
        stages = STAGES[1:]
    elif features is not None:
        network = PoseNetwork(replace(shape, encoder="compact"))
        network.encoder.load_features(features)  # type: ignore[operator]
        stages = STAGES[1:]
    else:
        network = PoseNetwork(shape)
        if encoder is not None:
            load_published(network, encoder=encoder)
            stages = STAGES[1:]
    if transformer is None and preset == "compact" and initial is None:
        transformer = default_transformer()
    if transformer is not None and pretrained and not resume:
        load_transformer(network, transformer)
    images = _labelled(bags, labels, network.config.image_height, from_frame, until_frame)
    fitted, held_out = (images.subset(rows) for rows in held_out_blocks(len(images)))
    if len(held_out) < 10:
        raise ConfigurationError(f"{len(images)} labelled frames; training and validating a scene needs at least 100")

    bars: dict[str, tqdm] = {}

    def progress(stage: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        bar = bars.setdefault(stage, tqdm(total=steps, desc=stage, disable=as_json or None))
        bar.set_postfix({name: f"{value:.3g}" for name, value in numbers.items()}, refresh=False)
        bar.update()

    def done(stage: str) -> None:
        if stage in bars:
            bars[stage].close()
        save_network(network, partial, {"stage": stage, "seed": seed})

    trainer = RegressorTrainer(network, config, device, progress)
    trainer.run(fitted, stages, done)
    trainer.set_gate(fitted, held_out)
    factors = calibrate(network, held_out, device)
    result: dict[str, Any] = {
        "weights": str(output),
        "frames": len(fitted),
        "held_out": summary(network, held_out, factors, device),
        "covariance_factors": {"translation": factors.translation, "rotation": factors.rotation},
    }
    details = {"bags": [bag.name for bag in bags], "training": config.to_dict(), **result}
    if keep_frames:
        name = ", ".join(bag.name for bag in bags)
        memory_of(fitted, held_out, name, keep_frames).save(memory_file(output))
    save_network(network, output, details)
    calibration = CovarianceCalibration({"regressor": factors}, {"frames": len(held_out)})
    calibration.save(output.with_name(f"{output.stem}.covariance_calibration.json"))
    partial.unlink(missing_ok=True)
    if as_json:
        click.echo(json.dumps(result))
    else:
        error = result["held_out"]
        click.echo(
            f"{output}: {len(fitted)} frames; on {len(held_out)} held-out frames median "
            f"{100 * error['translation']:.1f} cm, {error['rotation_deg']:.2f} deg, ANEES {error['anees']:.2f}"
        )


def _scaled(config: Any, factor: float) -> Any:
    names = ("encoder_steps", "map_steps", "pose_steps", "uncertainty_steps", "joint_steps")
    return replace(config, **{name: round(factor * getattr(config, name)) for name in names})


def _labelled(
    bags: tuple[Path, ...], labels: Path | None, height: int, from_frame: int, until_frame: int | None
) -> PosedImages:
    from robust_loc.data import open_bag, read_tum
    from robust_loc.training.regressor_data import PosedImages

    trajectory = None if labels is None else read_tum(labels)

    def frames() -> Any:
        for bag in bags:
            for frame in open_bag(bag).frames(from_frame, until_frame):
                yield frame if trajectory is None else replace(frame, world_T_cam=trajectory.at(frame.stamp))

    return PosedImages.from_frames(frames(), height)
