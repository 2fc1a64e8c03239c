"""``robust-loc train pose_transformer``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("pose_transformer_training"),
    show_default=True, help="Folder for checkpoints and weights.safetensors.",
)  # fmt: skip
@click.option("--preset", type=click.Choice(["compact", "published"]), default="compact", show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=100_000, show_default=True, help="Length of the schedule.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Maps per step.")
@click.option("--seconds", type=float, default=math.inf, help="Stop (resumably) after this time.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    output: Path,
    preset: str,
    steps: int,
    batch: int,
    seconds: float,
    resume: bool,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Pre-train the pose transformer, which serves every scene, on synthetic rooms.

    The weights go into ``robust-loc train regressor --transformer``.
    """
    import torch
    from tqdm import tqdm

    from robust_loc.pose_regression import PoseNetworkConfig, PoseTransformer
    from robust_loc.pose_regression.weights import save_transformer
    from robust_loc.training.pose_transformer import PretrainingConfig, TransformerTrainer, pretrain
    from robust_loc.training.scene_maps import SceneMapConfig

    shape = PoseNetworkConfig.published() if preset == "published" else PoseNetworkConfig()
    grid = SceneMapConfig(height=60, width=80, stride=8) if preset == "published" else SceneMapConfig()
    torch.manual_seed(seed)
    transformer = PoseTransformer(shape.width, shape.blocks, shape.heads, shape.blocks_per_stage)
    config = PretrainingConfig(steps=steps, batch=batch, seed=seed)
    trainer = TransformerTrainer(transformer, config, grid, device)
    if resume:
        trainer.load(output)
    before = trainer.validate()
    with tqdm(total=steps, initial=trainer.step, unit="step", disable=as_json or None) as bar:

        def report(step: int, loss: float) -> None:
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        pretrain(trainer, output, seconds, report)
    after = trainer.validate()
    weights = output / "weights.safetensors"
    save_transformer(transformer, shape, weights, {"step": trainer.step, "seed": seed, "validation": after})
    if as_json:
        click.echo(json.dumps({"weights": str(weights), "step": trainer.step, "before": before, "after": after}))
    else:
        click.echo(
            f"{weights}: step {trainer.step}; median error on unseen rooms {100 * before['translation']:.0f} -> "
            f"{100 * after['translation']:.1f} cm, {before['rotation_deg']:.0f} -> {after['rotation_deg']:.2f} deg"
        )
