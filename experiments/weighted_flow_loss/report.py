"""Figures and tables of the experiments on the weighted flow loss, beside the paper's claims.

python experiments/weighted_flow_loss/report.py RESULTS
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import click
import matplotlib
import numpy as np
from clips import ARMS, CLIPS, NETWORK

from robust_loc.data.files import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"plain": "C0", "weighted": "C1", "plain, balanced": "C2", "weighted, balanced": "C3"}


def curves(results: list[dict], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps, and values [seeds, steps], of each arm."""
    rows: dict[str, list[list[float]]] = defaultdict(list)
    steps: dict[str, list[float]] = {}
    for result in results:
        rows[result["arm"]].append([point[key] for point in result["curve"]])
        steps[result["arm"]] = [point["step"] for point in result["curve"]]
    return {name: (np.array(steps[name]), np.array(values)) for name, values in rows.items()}


def draw(results: list[dict], path: Path) -> None:
    """Validation error and SNR by step."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, (steps, values) in curves(results, "ate").items():
        axes[0].plot(steps, values.mean(0), "o-", color=COLOURS[name], label=name)
        axes[0].fill_between(steps, values.min(0), values.max(0), color=COLOURS[name], alpha=0.15)
    axes[0].set(xlabel="step", ylabel="ATE / path length", title="validation error (mean and range over seeds)")
    for name in COLOURS:
        for key, style in (("snr_none", "--"), ("snr_linear", "-")):
            if name in curves(results, key):
                steps, values = curves(results, key)[name]
                label = f"{'plain' if key == 'snr_none' else 'weighted'} loss, network: {name}"
                axes[1].plot(steps, values.mean(0), style, color=COLOURS[name], label=label)
    axes[1].set(xlabel="step", ylabel="SNR of the revision head's gradient", title="gradient signal to noise")
    for axis in axes:
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def steps_to(values: np.ndarray, steps: np.ndarray, level: float) -> float:
    """First step (interpolated) at which a curve is at or below ``level``; nan if never."""
    below = np.flatnonzero(values <= level)
    if not len(below):
        return float("nan")
    k = int(below[0])
    if k == 0:
        return float(steps[0])
    share = (values[k - 1] - level) / max(values[k - 1] - values[k], 1e-12)
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


def table(results: list[dict]) -> str:
    """The 2x2 table: final error, steps to the plain arm's best error, SNR ratio."""
    error = curves(results, "ate")
    plain, weighted = curves(results, "snr_none"), curves(results, "snr_linear")
    # the level that the plain, balanced arm reaches at the end: what the others need fewer steps for
    level = float(error["plain, balanced"][1].mean(0).min()) if "plain, balanced" in error else float("nan")
    lines = [
        "| arm | seeds | final ATE / path, mean (range) | best | steps to the plain, balanced arm's best "
        "| SNR weighted / plain loss, last |",
        "|---|---|---|---|---|---|",
    ]
    for name, (steps, values) in error.items():
        mean = values.mean(0)
        ratio = (weighted[name][1] / plain[name][1])[:, -1].mean()
        lines.append(
            f"| {name} | {len(values)} | {mean[-1]:.4f} ({values[:, -1].min():.4f} - {values[:, -1].max():.4f}) "
            f"| {mean.min():.4f} | {steps_to(mean, steps, level):.0f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def unfinished(results: list[dict]) -> list[str]:
    """What the table lacks, in words: arms not run, too few seeds."""
    missing = [name for name in ARMS if not any(r["arm"] == name for r in results)]
    seeds = min(len({r["seed"] for r in results if r["arm"] == name}) for name in {r["arm"] for r in results})
    parts = []
    if missing:
        parts.append(f"Not run yet: {'; '.join(missing)}. Without them the table says nothing about a speed-up.")
    if seeds < 3:
        parts.append(f"{seeds} seed(s): differences between arms are within what a seed may do.")
    return [" ".join(parts), ""] if parts else []


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path))
def main(results: Path) -> None:
    """Draw figures and write README tables for every result file in RESULTS."""
    parts = ["# Weighted flow loss at small scale", ""]
    for name, title in (("arms", "Non-streaming (Figures 3, 4)"), ("arms_streaming", "Streaming (Figure 5)")):
        path = results / f"{name}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        draw(found, results / f"{name}.png")
        run = found[0]
        parts += [
            f"## {title}", "",
            f"Network of {NETWORK.hidden} hidden channels, {CLIPS.frames} frames of {CLIPS.width}x{CLIPS.height} (the "
            "paper: 384 channels, 8 or 15 frames of 640x480, 240 000 steps on a GPU). "
            f"{run['steps']} steps, learning rate {run['learning_rate']}, one clip per step, "
            f"{np.mean([r['cpu_seconds_per_step'] for r in found]):.2f} CPU seconds per step.", "",
            table(found), "", *unfinished(found), f"![curves]({name}.png)", "",
            "Paper: SNR of the weighted loss higher throughout; 2 to 2.5 times fewer iterations to the same error.", "",
        ]  # fmt: skip
    if (results / "gradient_noise.json").is_file():
        noise = json.loads((results / "gradient_noise.json").read_text())
        a, b, c, d = (noise[key] for key in "abcd")
        parts += [
            "## Sources of gradient noise (Figure 2)", "",
            f"{noise['clips']} clips, {noise['trials']} trials.", "",
            "| quantity | least noise | most noise |", "|---|---|---|",
            f"| (a) SNR of the target gradient, flow loss (dB) | {a['flow'][0]:.2f} | {a['flow'][-1]:.2f} |",
            f"| (a) the same, pose loss (dB) | {a['pose'][0]:.2f} | {a['pose'][-1]:.2f} |",
            f"| (b) error of pose gradients, bad depths, plain | {b['plain'][0]:.4f} | {b['plain'][-1]:.4f} |",
            f"| (b) the same, weighted | {b['weighted'][0]:.4f} | {b['weighted'][-1]:.4f} |",
            f"| (c) error of pose gradients, bad pose, plain | {c['plain'][0]:.4f} | {c['plain'][-1]:.4f} |",
            f"| (c) the same, weighted | {c['weighted'][0]:.4f} | {c['weighted'][-1]:.4f} |",
            f"| (d) weight gradient, smallest to largest residuals | {d['weight_gradient'][0]:.2e} "
            f"| {d['weight_gradient'][-1]:.2e} |",
            f"| (d) target gradient, likewise | {d['target_gradient'][0]:.2e} | {d['target_gradient'][-1]:.2e} |", "",
            "![noise](gradient_noise.png)", "",
            "Paper: noise in the depth or pose of one frame spoils all gradients; the flow loss passes through the",
            "linearisation less noisily at first and more noisily later; the weight gradient grows with the residual.",
        ]  # fmt: skip
    if (results / "patch_selection.md").is_file():
        parts += [
            "", "## Patch selection (Figure 6)", "", (results / "patch_selection.md").read_text().rstrip(), "",
            "![patches](patch_selection.png)", "",
            "Preset `cpu`, the package's weights. Paper: with the weighted loss, random patches beat SIFT, ORB, "
            "SuperPoint and gradients.",
        ]  # fmt: skip
    if (results / "memory.json").is_file():
        m = json.loads((results / "memory.json").read_text())
        long, short = m["streaming, weighted"], m["non-streaming, weighted"]
        parts += [
            "", "## Memory of a training step", "",
            f"What autograd keeps of one forward pass, {m['network']} network, {m['width']}x{m['height']}, "
            f"{m['patches']} patches per frame: streaming {long:.2f} GB, non-streaming {short:.2f} GB, "
            f"{long / short:.1f} times less; the weighting changes {abs(long - m['streaming, plain']):.3f} GB.", "",
            "Paper (480x640, 80 patches, whole card): 19.2 and 7.2 GB, 2.7 times less.",
        ]  # fmt: skip
    write_atomically(results / "README.md", "\n".join(parts) + "\n")
    click.echo(f"{results / 'README.md'}")


if __name__ == "__main__":
    main()
