"""What pre-training the pose transformer on synthetic maps is worth in a new scene.

    python experiments/pose_regression/pretraining.py WORK --transformer TRANSFORMER

WORK is the folder of a ``wrong_labels.py`` run: its map, features and images. The transformer is trained on that
scene for several lengths, from the pre-trained weights and from random ones; median errors on held-out frames and on
the frames after the training ones, of the transformer alone and after refinement on the scene coordinates. Beside it,
on synthetic maps that pre-training never drew: the transformer, and PnP with RANSAC on the same maps (poselib).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from wrong_labels import Points, read, see

from robust_loc.data.files import write_atomically
from robust_loc.pose_regression import PoseNetwork, PoseTransformer, load_network
from robust_loc.pose_regression.weights import load_transformer
from robust_loc.training.regressor import FeatureBuffer, RegressorTrainer, RegressorTrainingConfig
from robust_loc.training.regressor_data import held_out_blocks
from robust_loc.training.scene_maps import SceneMapConfig, draw_scene_maps
from robust_loc.uncertainty import pose_error

Medians = tuple[float, float]  # centimetres, degrees


def medians(estimate: np.ndarray, truth: np.ndarray) -> Medians:
    error = pose_error(estimate, truth)
    position, rotation = np.linalg.norm(error[:, :3], axis=1), np.linalg.norm(error[:, 3:], axis=1)
    return 100 * float(np.median(position)), float(np.degrees(np.median(rotation)))


@torch.no_grad()
def judged(network: PoseNetwork, seen: Points) -> dict[str, Medians]:
    """Of the transformer's poses, and of the refined ones."""
    network.eval()
    raw = network.pose_of_points(seen.points, seen.intrinsics).world_T_cam.double().numpy()
    refined = network.locate(seen.points, seen.intrinsics).world_T_cam.double().numpy()
    return {"transformer": medians(raw, seen.world_T_cam), "refined": medians(refined, seen.world_T_cam)}


@torch.no_grad()
def synthetic(transformer: PoseTransformer, maps: SceneMapConfig, count: int = 200) -> dict[str, Medians]:
    """The transformer and PnP on maps of seeds that training does not use."""
    import poselib

    batch = draw_scene_maps(maps, count, torch.Generator().manual_seed(987_654_321))
    truth = batch.world_T_cam.double().numpy()
    pose = transformer.eval()(batch.points, batch.intrinsics, maps.stride)[0][-1]
    v, u = torch.meshgrid(torch.arange(maps.height), torch.arange(maps.width), indexing="ij")
    pixels = maps.stride * torch.stack([u, v], -1).flatten(0, 1).double().numpy()
    found = []
    for points, intrinsics in zip(batch.points.flatten(2).mT.double().numpy(), batch.intrinsics.tolist()):
        camera = {
            "model": "PINHOLE", "width": maps.width * maps.stride, "height": maps.height * maps.stride,
            "params": intrinsics,
        }  # fmt: skip
        answer, _ = poselib.estimate_absolute_pose(pixels, points, camera, {"max_reproj_error": 16.0}, {})
        cam_T_world = np.eye(4)
        cam_T_world[:3] = answer.Rt
        found.append(np.linalg.inv(cam_T_world))
    return {"transformer": medians(pose.double().numpy(), truth), "PnP": medians(np.stack(found), truth)}


def cell(value: Medians) -> str:
    return f"{value[0]:.1f} cm, {value[1]:.2f} deg"


@click.command()
@click.argument("work", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--transformer", "weights", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", multiple=True, type=int, default=(0, 100, 300, 1000), show_default=True)
@click.option("--grid", type=(int, int, int), default=(8, 10, 32), show_default=True, help="Synthetic cells, stride.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(work: Path, weights: Path, steps: tuple[int, ...], grid: tuple[int, int, int], output: Path) -> None:
    """Write pretraining.json and pretraining.md."""
    torch.set_num_threads(1)
    height = load_network(work / "map.safetensors").config.image_height
    training, test = read(work, height, 450, work / "images.npz")
    fitted, held_out = (training.subset(rows) for rows in held_out_blocks(len(training)))
    buffer = FeatureBuffer(*torch.load(work / "buffer.pt", weights_only=True))
    maps = SceneMapConfig(height=grid[0], width=grid[1], stride=grid[2])
    results: dict[str, dict[str, dict[str, Medians]]] = {"synthetic": {}}
    for start in ("random", "pre-trained"):
        torch.manual_seed(0)
        network = load_network(work / "map.safetensors")
        shape = network.config
        network.transformer = PoseTransformer(shape.width, shape.blocks, shape.heads, shape.blocks_per_stage)
        if start == "pre-trained":
            load_transformer(network, weights)
        results["synthetic"][start] = synthetic(network.transformer, maps)
        initial = {name: value.clone() for name, value in network.transformer.state_dict().items()}
        trainer = RegressorTrainer(network, RegressorTrainingConfig())
        stored = trainer.store(buffer)
        seen = {"held out": see(network, held_out), "test": see(network, test)}
        for count in steps:
            network.transformer.load_state_dict(initial)
            config = replace(RegressorTrainingConfig(), pose_steps=count)
            if count:
                RegressorTrainer(network, config).train_pose(stored, fitted.world_T_cam)
            for name, points in seen.items():
                row = judged(network, points)
                results.setdefault(name, {}).update({f"{start}, {count}: {k}": v for k, v in row.items()})  # type: ignore[arg-type]
                click.echo(f"{start}, {count} steps, {name}: " + "; ".join(f"{k} {cell(v)}" for k, v in row.items()))
    write_atomically(output / "pretraining.json", json.dumps(results, indent=1) + "\n")
    write_atomically(output / "pretraining.md", table(results, steps))


def table(results: dict, steps: tuple[int, ...]) -> str:
    synthetic_rows = results["synthetic"]
    lines = [
        "# Pre-training of the pose transformer", "",
        "Median errors on 200 synthetic maps that training never drew:", "",
        "| random weights | pre-trained | PnP with RANSAC |", "| --- | --- | --- |",
        f"| {cell(synthetic_rows['random']['transformer'])} | {cell(synthetic_rows['pre-trained']['transformer'])} "
        f"| {cell(synthetic_rows['pre-trained']['PnP'])} |", "",
        "In the scene, by steps of the stage `pose`: the transformer alone, and refined on the scene coordinates.", "",
        "| frames | steps | random: transformer | refined | pre-trained: transformer | refined |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in ("held out", "test"):
        for count in steps:
            row = [
                results[name][f"{s}, {count}: {k}"]
                for s in ("random", "pre-trained")
                for k in ("transformer", "refined")
            ]
            lines.append(f"| {name} | {count} | " + " | ".join(cell(v) for v in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
