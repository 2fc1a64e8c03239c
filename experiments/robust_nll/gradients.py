"""What the weighting does to one sample (Figure 2), and to the variance: eq. 6-7 checked against autograd.

Left: the coefficient ``w_j (1 + (E_w[L] - L_j) / T)`` that the published loss gives to a sample's gradient, against the
sample's loss, for a batch of 256 clean samples. Below zero the sample is pushed away. Right: the expected loss of clean
data as a function of the variance over the true one; the published loss falls without bound for T <= 4, the consistent
one is drawn as its gradient's integral and has its minimum at one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from report import markdown_table, save_figure

from robust_loc.losses import FixedTemperature, RobustNLL, boltzmann_mean, boltzmann_weights, gaussian_nll

TEMPERATURES = [1.0, 4.0, 16.0, 64.0]


def coefficients(losses: torch.Tensor, temperature: float) -> torch.Tensor:
    """Eq. 6-7: the derivative of the Boltzmann mean with respect to each loss."""
    weights = boltzmann_weights(losses, temperature)
    return weights * (1 + ((weights * losses).sum() - losses) / temperature)


def largest_difference_from_autograd(temperature: float, batches: int = 100) -> float:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(batches):
        losses = (3 * torch.randn(256, generator=generator, dtype=torch.float64)).requires_grad_()
        (gradient,) = torch.autograd.grad(boltzmann_mean(losses, temperature), losses)
        worst = max(worst, (gradient - coefficients(losses.detach(), temperature)).abs().max().item())
    return worst


def clean_residuals(count: int = 20_001) -> torch.Tensor:
    """Equally likely values of a unit Gaussian."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def published_potential(log_u: np.ndarray, temperature: float) -> np.ndarray:
    residuals = clean_residuals()
    zeros = torch.zeros_like(residuals)
    return np.array(
        [boltzmann_mean(gaussian_nll(zeros, zeros + value, residuals), temperature).item() for value in log_u]
    )


def consistent_potential(log_u: np.ndarray, temperature: float) -> np.ndarray:
    """The integral over log u of the gradient of ``RobustNLL`` (its weights are not differentiated)."""
    residuals = clean_residuals()
    gradients = []
    for value in log_u:
        variable = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        loss = RobustNLL(FixedTemperature(temperature), beta=0.0, memory=1)
        mean = torch.zeros_like(residuals)
        loss(mean, variable.expand(len(residuals)), residuals).backward()
        assert variable.grad is not None
        gradients.append(variable.grad.item())
    steps = 0.5 * (np.array(gradients[1:]) + gradients[:-1]) * np.diff(log_u)
    return np.concatenate([[0.0], np.cumsum(steps)])


def main() -> None:
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    batch = 0.5 * clean_residuals(256).square()
    sample_losses = torch.linspace(0, 40, 400, dtype=torch.float64)
    log_u = np.linspace(-8, 2, 201)
    picture, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = []
    for index, temperature in enumerate(TEMPERATURES):
        one = [coefficients(torch.cat([batch, value[None]]), temperature)[-1].item() * 257 for value in sample_losses]
        left.plot(sample_losses, one, color=f"C{index}", label=f"T = {temperature:g}")
        potential = published_potential(log_u, temperature)
        right.plot(np.exp(log_u), potential - potential[-1], color=f"C{index}")
        ours = consistent_potential(log_u, temperature)
        right.plot(np.exp(log_u), ours - ours[-1], color=f"C{index}", linestyle="--")
        stationary = (temperature - 2 + np.sqrt(max(0, temperature * (temperature - 4)))) / (2 * temperature)
        rows.append(
            [
                f"{temperature:g}",
                f"{largest_difference_from_autograd(temperature):.1e}",
                f"{stationary:.2f}" if temperature > 4 else "none (collapses)",
                f"{np.exp(log_u[np.argmin(ours)]):.2f}",
            ]
        )
    left.axhline(0, color="black", linewidth=0.6)
    left.set(xlabel="loss of a sample", ylabel="batch size x its gradient coefficient")
    left.legend()
    right.axvline(1, color="black", linewidth=0.6, linestyle=":")
    right.set(xscale="log", ylim=(-6, 5), xlabel="variance / true variance", ylabel="expected loss (shifted)")
    right.set_title("published (solid), consistent (dashed)", fontsize=9)
    output.mkdir(parents=True, exist_ok=True)
    save_figure(picture, output / "figure2_gradients.png")
    header = ["T", "largest difference of eq. 6-7 from autograd", "stationary variance, published", "consistent"]
    text = ["# Gradients of the weighting (eq. 6-7, Figure 2)", markdown_table(header, rows)]
    (output / "gradients.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
