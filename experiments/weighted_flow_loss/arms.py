"""Weighted against plain flow loss, with and without balancing: validation error and gradient SNR through training.

    python experiments/weighted_flow_loss/arms.py --train rendered/train --validation rendered/validation \\
        --steps 1200 --seeds 3 -o OUT                     # V2V, Figures 3 and 4 (non-streaming)
    ... --streaming                                       # Figure 5

Every arm sees the same clips. The SNR is that of the *plain and the weighted* flow loss of the same network on the same
held-out clips: ``|mean g| / mean |g - mean g|``, g the gradient on ``update.d.1.weight``. The file grows arm by arm, so
an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from clips import ARMS, arm, fixed_clips, generator, sampler

from robust_loc.data.files import write_atomically
from robust_loc.odometry.network import PatchNetwork
from robust_loc.training.odometry import OdometryTrainer
from robust_loc.training.odometry_data import ClipBatch
from robust_loc.training.odometry_losses import LossConfig, loss_terms
from robust_loc.training.odometry_unroll import UnrollConfig, unroll
from robust_loc.training.odometry_validation import Validation


def snr(network: PatchNetwork, batches: list[ClipBatch], config: UnrollConfig, weighting: str) -> float:
    """Signal-to-noise ratio over clips of the flow loss's gradient on the last layer of the revision head."""
    parameter = network.update.d[1].weight
    gradients = []
    for number, batch in enumerate(batches):
        steps = unroll(network, batch, config, generator(number))
        flow = loss_terms(steps, LossConfig(pose=0.0, weighting=weighting)).flow
        gradients.append(torch.autograd.grad(flow, parameter)[0].flatten())
    g = torch.stack(gradients)
    return float(g.mean(0).norm() / (g - g.mean(0)).norm(dim=1).mean())


def run_arm(
    name: str, seed: int, steps: int, every: int, streaming: bool, train: Path, held_out: list[ClipBatch], rate: float
) -> dict[str, object]:
    """Train one arm; validation error, SNR of both losses and seconds per step."""
    config = arm(name, steps, seed, streaming, rate)
    trainer = OdometryTrainer(config, sampler(train, 100 + seed))
    # non-streaming whatever the arm: errors of different arms must be comparable
    validate = Validation(held_out, UnrollConfig(steps=8, first=6, patches=16))
    curve: list[dict[str, float]] = []
    seconds = 0.0
    while True:
        if trainer.step % every == 0:
            trainer.network.eval()
            test = replace(config.unroll, steps=6, first=6)
            ratios = {f"snr_{w}": snr(trainer.network, held_out, test, w) for w in ("none", "linear")}
            curve.append({"step": trainer.step, **validate(trainer.network), **ratios})
            trainer.network.train()
        if trainer.step == steps:
            break
        begin = time.process_time()
        trainer.train_step()
        seconds += time.process_time() - begin
    return {
        "arm": name, "seed": seed, "streaming": streaming, "steps": steps, "learning_rate": rate, "curve": curve,
        "cpu_seconds_per_step": seconds / steps, "flow_balance": trainer.flow_balance.factor,
    }  # fmt: skip


@click.command()
@click.option("--train", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--validation", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", default=1200, show_default=True)
@click.option("--every", default=150, show_default=True, help="Steps between measurements.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--clips", default=24, show_default=True, help="Held-out clips.")
@click.option("--learning-rate", default=4e-4, show_default=True)
@click.option("--streaming", is_flag=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(
    train: Path, validation: Path, steps: int, every: int, seeds: int, clips: int, learning_rate: float,
    streaming: bool, output: Path,
) -> None:  # fmt: skip
    """Run what is missing of all arms and seeds into arms.json (arms_streaming.json)."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    path = output / ("arms_streaming.json" if streaming else "arms.json")
    results = json.loads(path.read_text()) if path.is_file() else []
    held_out = fixed_clips(validation, clips)
    for seed in range(1, seeds + 1):
        for name in ARMS:
            if any(r["arm"] == name and r["seed"] == seed and r["steps"] == steps for r in results):
                continue
            results.append(run_arm(name, seed, steps, every, streaming, train, held_out, learning_rate))
            write_atomically(path, json.dumps(results, indent=1) + "\n")
            last = results[-1]["curve"][-1]
            click.echo(f"{name}, seed {seed}: ATE {last['ate']:.4f} of the path, SNR {last['snr_none']:.3f} plain, "
                       f"{last['snr_linear']:.3f} weighted")  # fmt: skip


if __name__ == "__main__":
    main()
