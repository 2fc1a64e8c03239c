"""Are the new weights better? Measured before and after on frames that neither training nor calibration has seen."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from robust_loc.pose_regression import PoseNetwork
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.regressor_data import PosedImages
from robust_loc.training.regressor_validation import answer
from robust_loc.uncertainty import CovarianceFactors, nees

RECALL_TRANSLATION, RECALL_ROTATION = 0.25, math.radians(5.0)
_CONSTANT = 3.0 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Metrics:
    """Quality of a network's answers on frames with known poses.

    Attributes:
        frames: judged.
        answered: of these, accepted by the scene gate.
        median_translation, median_rotation: metres and radians, over all frames, refused ones included.
        recall: share of all frames within 0.25 m and 5 degrees; refused ones are failures.
        nll: mean negative log-likelihood, nats, of the frames that fit best (all but the share ``trim``).
        anees: of the same frames, corrected for the selection: 1 when the covariances are right.
    """

    frames: int
    answered: int
    median_translation: float
    median_rotation: float
    recall: float
    nll: float
    anees: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def miscalibration(self) -> float:
        """|log ANEES|: 0 when the covariances are right."""
        return abs(math.log(self.anees)) if 0.0 < self.anees < math.inf else math.inf


def measure(
    network: PoseNetwork, factors: CovarianceFactors, images: PosedImages, trim: float = 0.0, device: str = "cpu"
) -> Metrics:
    """Judge a network with its covariance factors on labelled images; answers that are not finite count as infinitely
    bad.
    """
    said = answer(network, images, device)
    covariance = factors.apply(said.covariance)
    finite = np.asarray(np.isfinite(said.error).all(1) & np.isfinite(covariance).all((1, 2)))
    translation = np.where(finite, np.linalg.norm(said.error[:, :3], axis=1), np.inf)
    rotation = np.where(finite, np.linalg.norm(said.error[:, 3:], axis=1), np.inf)
    gate = network.gate
    accepted = finite & (said.similarity >= float(gate.minimum_similarity))
    accepted &= said.agreement >= float(gate.minimum_agreement)
    right = accepted & (translation <= RECALL_TRANSLATION) & (rotation <= RECALL_ROTATION)
    distance, nll = np.full(len(finite), np.inf), np.full(len(finite), np.inf)
    if finite.any():
        distance[finite] = nees(said.error[finite], covariance[finite])
        nll[finite] = 0.5 * (distance[finite] + np.linalg.slogdet(covariance[finite])[1]) + _CONSTANT
    best = np.argsort(distance)[: max(1, round((1.0 - trim) * len(distance)))]
    return Metrics(
        len(images),
        int(accepted.sum()),
        float(np.median(translation)),
        float(np.median(rotation)),
        float(right.mean()),
        float(nll[best].mean()),
        float(distance[best].mean() / 6 / _selected_mean(len(best) / len(distance))),
    )


def _selected_mean(share: float, dimension: int = 6) -> float:
    """Mean over its dimension of a chi-square variable among the ``share`` of its smallest values."""
    if share >= 1.0:
        return 1.0
    return float(chi2.cdf(chi2.ppf(share, dimension), dimension + 2) / share)


def reasons_against(before: Metrics, after: Metrics, config: FinetuneConfig) -> list[str]:
    """Why ``after`` must not replace ``before``: what got worse by more than its tolerance. Empty when all hold."""
    reasons = []

    def compare(name: str, was: str, now: str, is_worse: bool, tolerance: str) -> None:
        if is_worse:
            reasons.append(f"{name} went from {was} to {now} (tolerance {tolerance})")

    compare(
        "NLL", f"{before.nll:.2f}", f"{after.nll:.2f}",
        not after.nll <= before.nll + config.nll_tolerance, f"{config.nll_tolerance:g} nats",
    )  # fmt: skip
    for name, was, now, scale, unit in (
        ("median translation error", before.median_translation, after.median_translation, 100.0, "cm"),
        ("median rotation error", before.median_rotation, after.median_rotation, 180.0 / math.pi, "deg"),
    ):
        compare(
            name, f"{scale * was:.2f}", f"{scale * now:.2f} {unit}",
            not now <= was * (1.0 + config.error_tolerance), f"{100 * config.error_tolerance:g} %",
        )  # fmt: skip
    compare(
        "recall", f"{100 * before.recall:.0f} %", f"{100 * after.recall:.0f} %",
        not after.recall >= before.recall - config.recall_tolerance, f"{100 * config.recall_tolerance:g} %",
    )  # fmt: skip
    compare(
        "ANEES", f"{before.anees:.2f}", f"{after.anees:.2f}",
        not after.miscalibration <= before.miscalibration + config.calibration_tolerance,
        f"{config.calibration_tolerance:g} in |log ANEES|",
    )  # fmt: skip
    return reasons


def gained(before: Metrics, after: Metrics) -> bool:
    """Whether the likelihood or an error improved at all: weights that only hold are not worth a change."""
    return (
        after.nll < before.nll
        or after.median_translation < before.median_translation
        or after.median_rotation < before.median_rotation
    )


@dataclass(frozen=True)
class Verdict:
    """The decision and what it rests on; ``earlier_*`` where frames of earlier bags are kept."""

    accepted: bool
    message: str
    before: Metrics
    after: Metrics
    earlier_before: Metrics | None = None
    earlier_after: Metrics | None = None


def verdict(pairs: dict[str, tuple[Metrics, Metrics]], config: FinetuneConfig) -> Verdict:
    """Accept only if every quantity holds on every set of frames, and something improved on the new ones.

    Args:
        pairs: metrics before and after, of the sets "new" and, where there is one, "earlier".
    """
    before, after = pairs["new"]
    reasons = [
        f"on {name} bags the {reason}" for name, pair in pairs.items() for reason in reasons_against(*pair, config)
    ]
    if not reasons and not gained(before, after):
        reasons = ["nothing improved"]
    if reasons:
        message = "rolled back: " + "; ".join(reasons)
    else:
        message = (
            f"accepted: median error {100 * before.median_translation:.1f} -> {100 * after.median_translation:.1f} cm, "
            f"{math.degrees(before.median_rotation):.2f} -> {math.degrees(after.median_rotation):.2f} deg, "
            f"NLL {before.nll:.2f} -> {after.nll:.2f}, ANEES {before.anees:.2f} -> {after.anees:.2f} "
            f"on {after.frames} held-out frames"
        )
    return Verdict(not reasons, message, before, after, *pairs.get("earlier", (None, None)))
