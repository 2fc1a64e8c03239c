"""What wrong labels cost the pose regressor (Table 2 and Figure 4 of the Robust-NLL paper), on one recording.

The map and the transformer's mean are trained once on clean labels (the paper starts from pre-trained weights). From
there, for each fraction of wrong labels: the uncertainty head on the NLL with the mean frozen, then transformer and
head together on each likelihood. A wrong label is the pose of another frame of the recording. Medians of the errors on
the frames after the training ones; ANEES, coverage and AUSE before and after calibration on held-out training frames.
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
from scipy.stats import chi2
from torch import Tensor

from robust_loc.pose_regression import PoseNetwork, covariance_of_factor, load_network, save_network
from robust_loc.training.regressor import FeatureBuffer, RegressorTrainer, RegressorTrainingConfig
from robust_loc.training.regressor_data import PosedImages, held_out_blocks, plain_batch, spoilt
from robust_loc.types import Frame
from robust_loc.uncertainty import ause, fit_factors, from_body_tangent, nees, pose_error

NAMES = {
    "nll": "NLL",
    "beta_nll": "beta-NLL",
    "faithful": "Faithful",
    "robust_nll": "Robust-NLL (paper)",
    "consistent": "RobustNLL (ours)",
}


class Points(NamedTuple):
    """Scene coordinates of labelled images: points (n, 3, h, w), intrinsics (n, 4), world_T_cam (n, 4, 4)."""

    points: Tensor
    intrinsics: Tensor
    world_T_cam: np.ndarray


@torch.no_grad()
def see(network: PoseNetwork, images: PosedImages) -> Points:
    parts = []
    for rows in np.array_split(np.arange(len(images)), max(1, len(images) // 16)):
        parts.append(network.scene(network.encoder(plain_batch(images, rows).rgb)))
    return Points(torch.cat(parts), images.intrinsics, images.world_T_cam.double().numpy())


@torch.no_grad()
def answers(network: PoseNetwork, seen: Points) -> tuple[np.ndarray, np.ndarray]:
    """Errors (n, 6) and covariances (n, 6, 6) in ROS convention."""
    network.eval()
    prediction = network.pose_of_points(seen.points, seen.intrinsics)
    poses = prediction.world_T_cam.double().numpy()
    body = covariance_of_factor(prediction.factor.double()).numpy()
    covariance = np.stack([from_body_tangent(c, pose) for c, pose in zip(body, poses)])
    return pose_error(poses, seen.world_T_cam), covariance


def evaluate(network: PoseNetwork, held_out: Points, test: Points) -> dict[str, float]:
    error, raw = answers(network, test)
    factors = fit_factors(*answers(network, held_out))
    result = {
        "translation_cm": 100 * float(np.median(np.linalg.norm(error[:, :3], axis=1))),
        "rotation_deg": float(np.degrees(np.median(np.linalg.norm(error[:, 3:], axis=1)))),
    }
    for name, covariance in (("raw", raw), ("calibrated", factors.apply(raw))):
        squared = nees(error, covariance)
        result[f"anees_{name}"] = float(squared.mean() / 6)
        for level in (0.5, 0.9, 0.95):
            result[f"coverage_{level}_{name}"] = float((squared < chi2.ppf(level, 6)).mean())
    sigma = np.sqrt(np.trace(raw[:, :3, :3], axis1=1, axis2=2))
    result["ause_translation"] = float(ause(np.linalg.norm(error[:, :3], axis=1), sigma))
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


def figure(curves: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Error of the position and its predicted standard deviation along the test frames."""
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(2, len(curves), figsize=(5 * len(curves), 5), squeeze=False, sharex=True, sharey="row")
    for column, (name, (error, covariance)) in enumerate(curves.items()):
        for row, (block, unit, scale) in enumerate(((slice(0, 3), "cm", 100), (slice(3, 6), "deg", 180 / np.pi))):
            axis = axes[row, column]
            sigma = scale * np.sqrt(np.trace(covariance[:, block, block], axis1=1, axis2=2))
            axis.fill_between(np.arange(len(error)), 0, 2 * sigma, alpha=0.25, label="2 sigma, predicted")
            axis.plot(scale * np.linalg.norm(error[:, block], axis=1), color="black", linewidth=1, label="error")
            axis.set_ylabel(unit)
            axis.grid(alpha=0.3)
        axes[0, column].set_title(name, fontsize=9)
        axes[1, column].set_xlabel("test frame")
    axes[0, 0].legend(fontsize=8)
    picture.tight_layout()
    picture.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="bag, folder with frames.csv, or a scene of 7-Scenes")
    parser.add_argument("--train", type=int, default=450, help="first frames, to train on; the others are the test")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--map-steps", type=int, default=1200)
    parser.add_argument("--pose-steps", type=int, default=2500)
    parser.add_argument("--uncertainty-steps", type=int, default=400)
    parser.add_argument("--joint-steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("wrong_labels_work"), help="what is trained once is kept here"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    config = {
        "map_steps": options.map_steps,
        "pose_steps": options.pose_steps,
        "uncertainty_steps": options.uncertainty_steps,
        "joint_steps": options.joint_steps,
        "seed": options.seed,
    }

    def progress(stage: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if step % 100 == 0:
            print(stage, step, {name: round(value, 3) for name, value in numbers.items()}, flush=True)

    network = PoseNetwork()
    training, test = read(options.source, network.config.image_height, options.train, options.work / "images.npz")
    fitted, held_out = (training.subset(rows) for rows in held_out_blocks(len(training)))

    start, stored_file = options.work / "start.safetensors", options.work / "buffer.pt"
    trainer = RegressorTrainer(network, RegressorTrainingConfig(**config), progress=progress)
    if stored_file.exists():
        buffer = FeatureBuffer(*torch.load(stored_file, weights_only=True))
    else:
        buffer = trainer.fill_buffer(fitted)
        torch.save(tuple(buffer), stored_file)
    if start.exists():
        network = load_network(start)
    else:
        if (options.work / "map.safetensors").exists():
            network = trainer.network = load_network(options.work / "map.safetensors")
        else:
            network.scene.mean.copy_(fitted.world_T_cam[:, :3, 3].mean(0).reshape(1, 3, 1, 1))
            trainer.train_map(buffer, fitted.world_T_cam)
            save_network(network, options.work / "map.safetensors")
        trainer.train_pose(trainer.store(buffer), fitted.world_T_cam)
        save_network(network, start)
    trainer = RegressorTrainer(network, RegressorTrainingConfig(**config), progress=progress)
    stored = trainer.store(buffer)
    seen_held_out, seen_test = see(network, held_out), see(network, test)

    results: dict[str, dict[str, dict[str, float]]] = {}
    curves = {}
    for fraction in options.fractions:
        labels = spoilt(fitted.world_T_cam, fraction, torch.Generator().manual_seed(options.seed))
        first = copy.deepcopy(network)
        RegressorTrainer(first, RegressorTrainingConfig(**config), progress=progress).train_uncertainty(stored, labels)
        rows = {"after step 1": evaluate(first, seen_held_out, seen_test)}
        for likelihood, name in NAMES.items():
            chosen = RegressorTrainingConfig(**config, likelihood=likelihood)
            trained = copy.deepcopy(first)
            RegressorTrainer(trained, chosen, progress=progress).train_joint(stored, labels)
            rows[name] = evaluate(trained, seen_held_out, seen_test)
            print(fraction, name, rows[name], flush=True)
            if likelihood in ("nll", "consistent"):
                curves[f"{name}, {100 * fraction:.0f} % wrong labels"] = answers(trained, seen_test)
        results[f"{fraction:g}"] = rows
        (options.output / "wrong_labels.json").write_text(
            json.dumps({"settings": config, "results": results}, indent=1)
        )
    spoilt_curves = {name: curve for name, curve in curves.items() if not name.endswith(" 0 % wrong labels")}
    figure(spoilt_curves, options.output / "figure4_uncertainty.png")
    (options.output / "wrong_labels.md").write_text(report(options.source.name, config, results))


def report(source: str, config: dict[str, int], results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"# Wrong labels: {source}", "", f"Settings: {config}."]
    header = ["", "median", "ANEES raw", "calibrated", "coverage 50/90/95 % calibrated", "AUSE of the position"]
    for fraction, rows in results.items():
        lines += ["", f"## {100 * float(fraction):.0f} % of the training labels wrong", ""]
        lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        for name, row in rows.items():
            coverage = "/".join(f"{100 * row[f'coverage_{level}_calibrated']:.0f}" for level in (0.5, 0.9, 0.95))
            median = f"{row['translation_cm']:.1f} cm, {row['rotation_deg']:.2f} deg"
            cells = [name, median, f"{row['anees_raw']:.2f}", f"{row['anees_calibrated']:.2f}", coverage]
            lines.append("| " + " | ".join([*cells, f"{row['ause_translation']:.3f}"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
