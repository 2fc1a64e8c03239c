"""What refinement on the scene coordinates adds to a regressed pose: errors, calibration and refusals.

Uses the weights and images that ``wrong_labels.py`` left in its working folder (trained on clean labels).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chi2
from wrong_labels import read

from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, load_network
from robust_loc.training.regressor import RegressorTrainer
from robust_loc.training.regressor_data import PosedImages, held_out_blocks
from robust_loc.training.regressor_validation import answer
from robust_loc.uncertainty import ause, fit_factors, nees


def row(name: str, network: PoseNetwork, held_out: PosedImages, test: PosedImages) -> str:
    before = answer(network, held_out)
    factors = fit_factors(before.error, before.covariance)
    cells = [name]
    for images in (held_out, test):
        answers = answer(network, images)
        distance = np.linalg.norm(answers.error[:, :3], axis=1)
        angle = np.degrees(np.linalg.norm(answers.error[:, 3:], axis=1))
        covariance = factors.apply(answers.covariance)
        squared = nees(answers.error, covariance)
        inside = "/".join(f"{100 * (squared < chi2.ppf(level, 6)).mean():.0f}" for level in (0.5, 0.9, 0.95))
        sigma = np.sqrt(np.trace(covariance[:, :3, :3], axis1=1, axis2=2))
        raw = nees(answers.error, answers.covariance).mean() / 6
        cells += [
            f"{100 * np.median(distance):.1f} cm, {np.median(angle):.2f} deg",
            f"{raw:.2f} / {squared.mean() / 6:.2f}",
            inside,
            f"{ause(distance, sigma):.3f}",
        ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="working folder of wrong_labels.py")
    parser.add_argument("--other", type=Path, help="a recording of another place (folder with frames.csv)")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_network(options.work / "start.safetensors")
    training, test = read(Path(), 0, 0, options.work / "images.npz")
    fitted_rows, held_out_rows = held_out_blocks(len(training))
    held_out = training.subset(held_out_rows)
    header = ["", "held out: median", "ANEES raw / calibrated", "coverage 50/90/95 %", "AUSE"]
    header += ["test: median", "ANEES raw / calibrated", "coverage 50/90/95 %", "AUSE"]
    lines = [
        "# Refinement on the scene coordinates",
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
    ]
    for iterations in (0, 10):
        config = PoseNetworkConfig.from_mapping({**trained.config.to_dict(), "refinement": iterations})
        network = PoseNetwork(config).eval()
        network.load_state_dict(trained.state_dict())
        lines.append(row(f"{iterations} iterations", network, held_out, test))
    trainer = RegressorTrainer(network)
    trainer.set_gate(training.subset(fitted_rows[::4]), held_out)

    def accepted(images: PosedImages) -> str:
        descriptors, agreed = trainer._look(images)
        kept = agreed >= network.gate.minimum_agreement
        kept &= network.gate.similarity(descriptors) >= network.gate.minimum_similarity
        return f"{int(kept.sum())} of {len(kept)}"

    lines += ["", f"The gate accepts {accepted(test)} test frames"]
    if options.other is not None:
        from robust_loc.data.datasets import READERS

        frames = list(READERS["folder"](options.other).frames())[::10]
        other = PosedImages.from_frames(frames, trained.config.image_height)
        lines[-1] += f", and {accepted(other)} frames of another place ({options.other.name})"
    (options.output / "refinement.md").write_text("\n".join(lines) + ".\n")


if __name__ == "__main__":
    main()
