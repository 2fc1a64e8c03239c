"""What one training step must keep for its backward pass: streaming against non-streaming (V2V, Section 5).

    python experiments/weighted_flow_loss/memory.py -o OUT

Counts the distinct storages that autograd saves in one forward pass; the paper's 7.2 and 19.2 GB are a card's peak
memory at 480x640 with 80 patches per frame. The losses' weighting changes nothing here: the weighted loss saves memory
by making the non-streaming run good enough.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

from robust_loc.data.files import write_atomically
from robust_loc.geometry.lie import SE3
from robust_loc.odometry.network import PatchNetwork, PatchNetworkConfig
from robust_loc.training.odometry_data import ClipBatch
from robust_loc.training.odometry_losses import LossConfig, loss_terms
from robust_loc.training.odometry_unroll import UnrollConfig, unroll

RUNS = {"streaming": (15, UnrollConfig(steps=18)), "non-streaming": (8, UnrollConfig(steps=8))}
LOSSES = {"weighted": LossConfig(), "plain": LossConfig(weighting="none")}


def clip(frames: int, height: int, width: int) -> ClipBatch:
    """A camera that moves sideways before a slanted wall; what is seen does not matter here."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, frames, 3, height, width), generator=g, dtype=torch.uint8)
    depth = torch.linspace(0.5, 1.5, width // 4).expand(1, frames, height // 4, width // 4).contiguous()
    tangent = torch.zeros(frames, 6)
    tangent[:, 0] = 0.02 * torch.arange(frames)
    intrinsics = torch.tensor([width / 8, width / 8, width / 8, height / 8]).expand(1, frames, 4).contiguous()
    return ClipBatch(images, depth, SE3.exp(tangent).data[None], intrinsics)


def saved_bytes(network: PatchNetwork, batch: ClipBatch, config: UnrollConfig, loss: LossConfig) -> int:
    """Bytes of the distinct storages that the graph of one forward pass holds on to, the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # a storage must not be freed and its address counted again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_terms(unroll(network, batch, config, torch.Generator().manual_seed(1)), loss)
    return sum(storages.values())


@click.command()
@click.option("--height", default=96, show_default=True)
@click.option("--width", default=128, show_default=True)
@click.option("--patches", default=12, show_default=True)
@click.option("--size", type=click.Choice(["full", "compact"]), default="full", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(height: int, width: int, patches: int, size: str, output: Path) -> None:
    """Write memory.json: gigabytes of each run and loss at this size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = PatchNetwork(PatchNetworkConfig.compact() if size == "compact" else PatchNetworkConfig())
    found: dict[str, object] = {"network": size, "height": height, "width": width, "patches": patches}
    for name, (frames, config) in RUNS.items():
        batch = clip(frames, height, width)
        for kind, loss in LOSSES.items():
            used = saved_bytes(network, batch, replace(config, patches=patches), loss)
            found[f"{name}, {kind}"] = used / 1e9
            click.echo(f"{name}, {kind}: {used / 1e9:.3f} GB")
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "memory.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
