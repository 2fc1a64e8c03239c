"""What wrong labels cost the pose regressor (Table 2 and Figure 4 of the Robust-NLL paper), on one recording.

A wrong label is the pose of another frame of the recording. The map and the transformer are trained once on clean
labels and frozen (the paper starts from weights trained elsewhere). From there the pose head and the uncertainty head
are trained for each likelihood, with clean and with half wrong labels, all side by side (``heads.py``): the
uncertainty on the NLL with the mean frozen, then both together. Then the same with a map that the wrong labels have
spoilt too, with and without weighting the frames. Errors on the frames after the training ones and on held-out ones
among them; ANEES, coverage and AUSE before and after calibration on the held-out frames, whose labels are right.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from heads import Heads, Training, pooled_tokens, train
from torch import Tensor

from robust_loc.pose_regression import PoseNetwork, covariance_of_factor, load_network, save_network
from robust_loc.pose_regression.refinement import refine_pose
from robust_loc.pose_regression.scene_gate import agreement
from robust_loc.training.regressor import FeatureBuffer, RegressorTrainer, RegressorTrainingConfig
from robust_loc.training.regressor_data import PosedImages, held_out_blocks, plain_batch, spoilt
from robust_loc.types import Frame
from robust_loc.uncertainty import ause, coverage, fit_factors, from_body_tangent, nees, pose_error

NAMES = {
    "nll": "NLL",
    "beta_nll": "beta-NLL",
    "faithful": "Faithful",
    "robust_nll": "Robust-NLL (paper)",
    "consistent": "RobustNLL (ours)",
}
THINNING = 2


MAPS = {  # file: share of wrong labels, weighted frames
    "map of wrong labels, frames weighted": ("map_wrong_weighted", True),
    "map of wrong labels, all frames alike": ("map_wrong_plain", False),
}


class Encoded(NamedTuple):
    """Frozen features of labelled images: features (n, C, h, w) half, intrinsics (n, 4), world_T_cam (n, 4, 4)."""

    features: Tensor
    intrinsics: Tensor
    world_T_cam: Tensor


class Seen(NamedTuple):
    """What a map makes of them, about the scene's centre: points (n, 3, h, w), tokens (n, width), poses (n, 4, 4)."""

    points: Tensor
    tokens: Tensor
    intrinsics: Tensor
    world_T_cam: Tensor


@torch.no_grad()
def encode(network: PoseNetwork, images: PosedImages, cache: Path) -> Encoded:
    if not cache.exists():
        chunks = np.array_split(np.arange(len(images)), max(1, len(images) // 16))
        parts = [network.encoder(plain_batch(images, rows).rgb).half() for rows in chunks]
        torch.save((torch.cat(parts), images.intrinsics, images.world_T_cam), cache)
    return Encoded(*torch.load(cache, weights_only=True))


@torch.no_grad()
def see(network: PoseNetwork, encoded: Encoded) -> Seen:
    centre = network.scene.mean
    points = torch.cat([network.scene(part.float()) - centre for part in encoded.features.split(32)])
    poses = about(encoded.world_T_cam, centre)
    tokens = pooled_tokens(network, points, encoded.intrinsics, None, THINNING)
    return Seen(points, tokens, encoded.intrinsics, poses)


def about(world_T_cam: Tensor, centre: Tensor) -> Tensor:
    poses = world_T_cam.clone()
    poses[:, :3, 3] -= centre.reshape(3)
    return poses


@torch.no_grad()
def answers(
    network: PoseNetwork, heads: Heads, index: int, seen: Seen, refinement: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses about the scene's centre (n, 4, 4), errors (n, 6) and covariances (n, 6, 6) in ROS convention."""
    poses, factors = (value[index] for value in heads(seen.tokens, torch.zeros(1, dtype=torch.bool)))
    covariance = covariance_of_factor(factors.double()).float()
    if refinement:
        pixels = network.cell_pixels(*seen.points.shape[-2:])
        flat = seen.points.flatten(2).mT, pixels.flatten(1).T, seen.intrinsics
        refined, refined_covariance = refine_pose(*flat, poses, refinement)
        before, after = (agreement(seen.points, pose, seen.intrinsics, pixels) for pose in (poses, refined))
        better = ((after > before) & refined.flatten(1).isfinite().all(-1))[:, None, None]
        poses, covariance = torch.where(better, refined, poses), torch.where(better, refined_covariance, covariance)
    found = poses.double().numpy()
    rotated = np.stack([from_body_tangent(c, pose) for c, pose in zip(covariance.double().numpy(), found)])
    return found, pose_error(found, seen.world_T_cam.double().numpy()), rotated


def evaluate(network: PoseNetwork, heads: Heads, index: int, held_out: Seen, test: Seen, refinement: int) -> dict:
    _, held_error, held_covariance = answers(network, heads, index, held_out, refinement)
    factors = fit_factors(held_error, held_covariance)
    result: dict[str, float] = {}
    for place, seen in (("held_out", held_out), ("test", test)):
        _, error, raw = answers(network, heads, index, seen, refinement)
        distance = np.linalg.norm(error[:, :3], axis=1)
        result[f"{place}_translation_cm"] = 100 * float(np.median(distance))
        result[f"{place}_rotation_deg"] = float(np.degrees(np.median(np.linalg.norm(error[:, 3:], axis=1))))
        for name, covariance in (("raw", raw), ("calibrated", factors.apply(raw))):
            squared = nees(error, covariance)
            result[f"{place}_anees_{name}"] = float(squared.mean() / 6)
            for level, share in coverage(squared, 6).items():
                result[f"{place}_coverage_{level}_{name}"] = share
        result[f"{place}_ause"] = float(ause(distance, np.sqrt(np.trace(raw[:, :3, :3], axis1=1, axis2=2))))
    return result


def read(source: Path, height: int, train: int, cache: Path) -> tuple[PosedImages, PosedImages]:
    """Training and test images of a recording or of a whole 7-Scenes scene; kept in ``cache`` once read.

    ``source`` is a bag or a folder with frames.csv (the first ``train`` labelled frames are for training), or a scene
    of the 7-Scenes data set such as ``chess`` with its TrainSplit.txt and TestSplit.txt.
    """
    if not cache.exists():
        frames, train = _labelled_frames(source, train)
        images = PosedImages.from_frames(frames, height)
        depth = np.zeros(images.rgb.shape[:3], np.float32) if images.depth is None else images.depth
        np.savez(
            cache, rgb=images.rgb, intrinsics=images.intrinsics.numpy(), world_T_cam=images.world_T_cam.numpy(),
            stamps=images.stamps, depth=depth, train=train,
        )  # fmt: skip
    with np.load(cache) as file:
        tensors = (torch.from_numpy(file[name]) for name in ("intrinsics", "world_T_cam"))
        images, train = PosedImages(file["rgb"], *tensors, file["stamps"], file["depth"]), int(file["train"])
    return images.subset(np.arange(train)), images.subset(np.arange(train, len(images)))


def _labelled_frames(source: Path, train: int) -> tuple[Iterator[Frame], int]:
    """The frames, and how many of them are for training."""
    from robust_loc.data import open_bag
    from robust_loc.data.datasets import READERS

    if (source / "TrainSplit.txt").exists():
        splits = []
        for name in ("TrainSplit.txt", "TestSplit.txt"):
            numbers = [int(re.sub(r"\D", "", line)) for line in (source / name).read_text().split()]
            splits.append([READERS["7scenes"](source / f"seq-{number:02d}") for number in numbers])
        count = sum(len(recording) for recording in splits[0])
        return itertools.chain.from_iterable(itertools.chain(*splits)), count
    if (source / "frames.csv").exists():
        return READERS["folder"](source).frames(), train
    return open_bag(source).frames(), train


def figure(curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], truth: np.ndarray, path: Path) -> None:
    """Seen from above, and errors with their predicted standard deviations along the test frames."""
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(3, len(curves), figsize=(4.6 * len(curves), 8.5), squeeze=False, sharey="row")
    for column, (name, (poses, error, covariance)) in enumerate(curves.items()):
        above = axes[0, column]
        sigma = 100 * np.sqrt(np.trace(covariance[:, :3, :3], axis1=1, axis2=2))
        above.plot(truth[:, 0, 3], truth[:, 2, 3], color="black", linewidth=1, label="truth")
        dots = above.scatter(poses[:, 0, 3], poses[:, 2, 3], c=sigma, s=8, cmap="viridis")
        picture.colorbar(dots, ax=above, label="predicted sigma, cm")
        above.set(title=name, xlabel="x, m", ylabel="z, m", aspect="equal")
        above.title.set_fontsize(9)
        for row, (block, unit, scale) in enumerate(((slice(0, 3), "cm", 100), (slice(3, 6), "deg", 180 / np.pi)), 1):
            axis = axes[row, column]
            sigma = scale * np.sqrt(np.trace(covariance[:, block, block], axis1=1, axis2=2))
            axis.fill_between(np.arange(len(error)), 0, 2 * sigma, alpha=0.25, label="2 sigma, predicted")
            axis.plot(scale * np.linalg.norm(error[:, block], axis=1), color="black", linewidth=1, label="error")
            axis.set(ylabel=unit, xlabel="test frame")
            axis.grid(alpha=0.3)
    axes[1, 0].legend(fontsize=8)
    picture.tight_layout()
    picture.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="bag, folder with frames.csv, or a scene of 7-Scenes")
    parser.add_argument("--train", type=int, default=450, help="first frames, to train on; the others are the test")
    parser.add_argument("--wrong", type=float, default=0.5, help="share of wrong labels")
    parser.add_argument("--map-steps", type=int, default=1200)
    parser.add_argument("--wrong-map-steps", type=int, default=600)
    parser.add_argument("--pose-steps", type=int, default=1500)
    parser.add_argument("--uncertainty-steps", type=int, default=300)
    parser.add_argument("--joint-steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maps", action="store_true", help="also train maps on the wrong labels")
    parser.add_argument(
        "--work", type=Path, default=Path("wrong_labels_work"), help="what is trained once is kept here"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    for folder in (options.work, options.output):
        folder.mkdir(parents=True, exist_ok=True)

    network = PoseNetwork()
    buffer, network, poses, encoded = prepared(network, options)
    spoilt_poses = spoilt(poses, options.wrong, torch.Generator().manual_seed(options.seed))
    share = f"{100 * options.wrong:.0f} %"
    settings = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
    results: dict[str, dict] = {}

    def run(name: str, mapped: PoseNetwork, cells: list[tuple[str, str, Tensor]]) -> tuple[Heads, Seen]:
        """Train one map's heads: (row, likelihood, labels of the frames)."""
        held_out, test = (see(mapped, part) for part in encoded)
        stored = RegressorTrainer(mapped).store(buffer)
        tokens = pooled_tokens(mapped, stored.points, stored.intrinsics, stored.valid, THINNING)
        trainings = [
            Training(row, kind, about(labels[stored.frame] @ stored.frame_T_row, mapped.scene.mean))
            for row, kind, labels in cells
        ]
        heads = Heads(mapped, len(trainings))
        steps = (options.uncertainty_steps, options.joint_steps)
        train(heads, trainings, tokens, steps, options.batch, options.rate, options.seed)
        for refinement in (0, 10):
            title = f"{name}, {'refined' if refinement else 'not refined'}"
            results[title] = {
                one.name: evaluate(mapped, heads, index, held_out, test, refinement)
                for index, one in enumerate(trainings)
            }
        (options.output / "wrong_labels.json").write_text(
            json.dumps({"settings": settings, "results": results}, indent=1)
        )
        (options.output / "wrong_labels.md").write_text(report(options.source.name, settings, results))
        return heads, test

    cells = [
        (f"{name}, {label}", kind, labels)
        for label, labels in (("clean", poses), (f"{share} wrong", spoilt_poses))
        for kind, name in NAMES.items()
    ]
    heads, test = run("Clean map", network, cells)
    chosen = {name: index for index, (name, kind, _) in enumerate(cells) if kind in ("nll", "consistent")}
    curves = {name: answers(network, heads, index, test, 0) for name, index in chosen.items() if "wrong" in name}
    figure(curves, test.world_T_cam.numpy(), options.output / "figure4_uncertainty.png")
    for name, (file, weighted) in MAPS.items() if options.maps else ():
        spoilt_map = copy.deepcopy(network)
        path = options.work / f"{file}.safetensors"
        if path.exists():
            spoilt_map.scene.load_state_dict(load_network(path).scene.state_dict())
        else:
            spoilt_map.scene = PoseNetwork().scene
            spoilt_map.scene.mean.copy_(spoilt_poses[:, :3, 3].mean(0).reshape(1, 3, 1, 1))
            config = RegressorTrainingConfig(
                map_steps=options.wrong_map_steps, robust_labels=weighted, seed=options.seed
            )
            RegressorTrainer(spoilt_map, config).train_map(buffer, spoilt_poses)
            save_network(spoilt_map, path)
        kinds = [(NAMES[kind], kind, spoilt_poses) for kind in ("nll", "consistent")]
        run(name[0].upper() + name[1:], spoilt_map, kinds)


def prepared(
    network: PoseNetwork, options: argparse.Namespace
) -> tuple[FeatureBuffer, PoseNetwork, Tensor, list[Encoded]]:
    """Features of the training frames, the network with map and transformer trained on their clean labels, these
    labels, and the encoded held-out and test frames. All of it is computed once and kept."""
    files = [options.work / name for name in ("images.npz", "held_out.pt", "test.pt", "buffer.pt", "start.safetensors")]
    if not all(path.exists() for path in files):
        training, test = read(options.source, network.config.image_height, options.train, files[0])
        fitted, held_out = (training.subset(rows) for rows in held_out_blocks(len(training)))
        buffer, network = trained_once(network, fitted, options)
        return (
            buffer,
            network,
            fitted.world_T_cam,
            [encode(network, *pair) for pair in zip((held_out, test), files[1:])],
        )
    with np.load(files[0]) as file:  # the poses alone
        poses = torch.from_numpy(file["world_T_cam"])[: int(file["train"])]
    buffer = FeatureBuffer(*torch.load(files[3], weights_only=True))
    encoded = [Encoded(*torch.load(path, weights_only=True)) for path in files[1:3]]
    return buffer, load_network(files[4]), poses[held_out_blocks(len(poses))[0]], encoded


def trained_once(
    network: PoseNetwork, fitted: PosedImages, options: argparse.Namespace
) -> tuple[FeatureBuffer, PoseNetwork]:
    """Features of the training frames, and map and transformer trained on their clean labels."""
    config = RegressorTrainingConfig(map_steps=options.map_steps, pose_steps=options.pose_steps, seed=options.seed)
    trainer = RegressorTrainer(network, config)
    start, stored_file = options.work / "start.safetensors", options.work / "buffer.pt"
    if stored_file.exists():
        buffer = FeatureBuffer(*torch.load(stored_file, weights_only=True))
    else:
        buffer = trainer.fill_buffer(fitted)
        torch.save(tuple(buffer), stored_file)
    if start.exists():
        return buffer, load_network(start)
    network.scene.mean.copy_(fitted.world_T_cam[:, :3, 3].mean(0).reshape(1, 3, 1, 1))
    trainer.train_map(buffer, fitted.world_T_cam)
    trainer.train_pose(trainer.store(buffer), fitted.world_T_cam)
    save_network(network, start)
    return buffer, network


def report(source: str, settings: dict[str, float], results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"# Wrong labels: {source}", "", f"Settings: {settings}."]
    header = ["", "held-out frames", "ANEES raw / calibrated", "coverage 50/90/95 %", "AUSE"]
    header += ["test frames", "ANEES raw / calibrated", "coverage 50/90/95 %", "AUSE"]
    lines += ["", "Median errors; coverage is that of the calibrated covariances; AUSE of the position."]
    for title, rows in results.items():
        lines += ["", f"## {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        for name, row in rows.items():
            cells = [name]
            for place in ("held_out", "test"):
                inside = "/".join(
                    f"{100 * row[f'{place}_coverage_{level}_calibrated']:.0f}" for level in (0.5, 0.9, 0.95)
                )
                cells += [
                    f"{row[f'{place}_translation_cm']:.1f} cm, {row[f'{place}_rotation_deg']:.2f} deg",
                    f"{row[f'{place}_anees_raw']:.2f} / {row[f'{place}_anees_calibrated']:.2f}",
                    inside,
                    f"{row[f'{place}_ause']:.2f}",
                ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
