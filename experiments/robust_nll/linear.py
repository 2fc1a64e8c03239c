"""Linear regression with outliers (Sec. 4.1, Figure 3): error of the fitted weight against the rate of outliers.

    y = w x + eps + o,  w ~ N(0, 1), eps ~ N(0, 0.1), o ~ N(0, 10) for a fraction of the samples, x ~ U(0, 1]

with 0.1 and 10 read as standard deviations. One linear layer for the mean (initialised at the least-squares solution)
and one for the standard deviation (softplus, initialised at zero), SGD with learning rate 1e-4, batch 16, 10 000
iterations, T = 1, gradient through the weights, 20 runs. The paper leaves open: the number of inputs (1 here), of
samples (1000), a bias (none for the mean), the variance's link, beta (0.5, and 0.25 beside it) and what is averaged
(here the per-rate reductions of the error).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from estimators import Estimator, ours, plain, published
from report import markdown_table, save_figure
from torch import Tensor

RATES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
PAPER = {"MSE": 55.4, "NLL": 80.5, "beta-NLL": 71.1}  # per cent reduction by the Boltzmann weights


def make_data(runs: int, samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and y of shape (rates * runs, samples), and the true weights (rates * runs)."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(runs, 1, generator=generator)
    x = 1 - torch.rand(runs, samples, generator=generator)
    y = weight * x + 0.1 * torch.randn(runs, samples, generator=generator)
    outlier = 10.0 * torch.randn(runs, samples, generator=generator)
    order = torch.rand(runs, samples, generator=generator)
    noisy = torch.cat([torch.where(order < rate, y + outlier, y) for rate in RATES])
    return x.repeat(len(RATES), 1), noisy, weight[:, 0].repeat(len(RATES))


def estimators(problems: int) -> dict[str, Estimator]:
    return {
        "MSE": plain("MSE"),
        "NLL": plain("NLL"),
        "beta-NLL": plain("beta-NLL"),
        "beta-NLL .25": plain("beta-NLL", beta=0.25),
        "Robust-MSE": published("MSE", 1.0),
        "Robust-NLL": published("NLL", 1.0),
        "Robust-beta-NLL": published("beta-NLL", 1.0),
        "Robust-beta-NLL .25": published("beta-NLL", 1.0, beta=0.25),
        "RobustNLL (ours)": ours(problems),
    }


def train(runs: int, samples: int, iterations: int, rate: float, seed: int) -> dict[str, list[float]]:
    """Mean squared weight error of every estimator at every outlier rate."""
    x, y, truth = make_data(runs, samples, seed)
    problems = len(truth)
    closed_form = (x * y).sum(-1) / x.square().sum(-1)
    columns = estimators(problems)
    weight = closed_form.repeat(len(columns)).requires_grad_()
    spread = torch.zeros(len(weight), 2, requires_grad=True)  # slope and bias of the standard deviation's layer
    optimizer = torch.optim.SGD([weight, spread], lr=rate)
    generator = torch.Generator().manual_seed(seed + 1)
    for iteration in range(iterations):
        batch = torch.randint(samples, (16,), generator=generator)
        inputs = x[:, batch].repeat(len(columns), 1)
        mean = (weight[:, None] * inputs).split(problems)
        sigma = F.softplus(spread[:, :1] * inputs + spread[:, 1:])
        log_variance = (2 * sigma.log()).split(problems)
        losses = [
            estimator(mean[i], log_variance[i], y[:, batch], iteration / iterations)
            for i, estimator in enumerate(columns.values())
        ]
        optimizer.zero_grad()
        torch.cat(losses).sum().backward()
        optimizer.step()
    fitted = dict(zip(columns, weight.detach().split(problems)))
    errors = {"closed form": closed_form, **fitted}
    return {
        name: (value - truth).square().reshape(len(RATES), runs).mean(-1).tolist() for name, value in errors.items()
    }


def reductions(errors: dict[str, list[float]]) -> dict[str, float]:
    """Average over the rates of the error's reduction by the Boltzmann weights, in per cent."""
    pairs = [(name, f"Robust-{name}") for name in errors if f"Robust-{name}" in errors] + [("NLL", "RobustNLL (ours)")]
    result = {}
    for plain_name, robust_name in pairs:
        ratios = [1 - b / a for a, b in zip(errors[plain_name], errors[robust_name])]
        result[f"{robust_name} against {plain_name}"] = 100 * sum(ratios) / len(ratios)
    return result


def figure(all_errors: dict[float, dict[str, list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(1, len(all_errors), figsize=(5.2 * len(all_errors), 4.2), sharey=True)
    for axis, (rate, errors) in zip(axes, all_errors.items()):
        for name, values in errors.items():
            if name.endswith(".25"):
                continue
            style = "-" if name.startswith("Robust") else "--"
            axis.plot(
                RATES, values, style, marker="o", markersize=3, label=name, linewidth=2.5 if "ours" in name else 1
            )
        axis.set(yscale="log", xlabel="rate of outliers", title=f"learning rate {rate:g}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error of the weight")
    axes[0].legend(fontsize=7)
    save_figure(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    settings = (options.runs, options.samples, options.iterations)
    all_errors = {rate: train(*settings, rate, options.seed) for rate in (1e-4, 1e-3)}
    options.output.mkdir(parents=True, exist_ok=True)
    sections = []
    for rate, errors in all_errors.items():
        rows = [[name, *(f"{value:.2g}" for value in values)] for name, values in errors.items()]
        rows_reduction = [
            [
                name,
                f"{value:.1f} %",
                f"{PAPER[name.split(' against ')[1]]} %"
                if name.startswith("Robust-") and name.split(" against ")[1] in PAPER
                else "",
            ]
            for name, value in reductions(errors).items()
        ]
        sections += [
            f"## Learning rate {rate:g}",
            "Mean squared error of the weight by rate of outliers:",
            markdown_table(["estimator", *(f"{100 * r:.0f} %" for r in RATES)], rows),
            "Reduction of the error, averaged over the rates:",
            markdown_table(["estimator", "here", "paper"], rows_reduction),
        ]
    title = (
        f"# Linear regression (Sec. 4.1, Figure 3)\n\n{options.runs} runs, {options.samples} samples, "
        f"{options.iterations} iterations, seed {options.seed}; made in {time.perf_counter() - start:.0f} s."
    )
    (options.output / "linear.md").write_text("\n\n".join([title, *sections]) + "\n")
    (options.output / "linear.json").write_text(json.dumps({str(k): v for k, v in all_errors.items()}))
    figure(all_errors, options.output / "figure3_linear.png")


if __name__ == "__main__":
    main()
