"""Acceptance: every quantity must hold, and the metrics are what they say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scene import SHAPE, frames

from robust_loc.pose_regression import PoseNetwork
from robust_loc.training.finetune import acceptance
from robust_loc.training.finetune.acceptance import Metrics, gained, measure, reasons_against, verdict
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.regressor_data import PosedImages
from robust_loc.training.regressor_validation import HeldOut
from robust_loc.uncertainty import CovarianceFactors

CONFIG = FinetuneConfig()
BEFORE = Metrics(100, 98, 0.10, 0.02, 0.9, -8.0, 1.1)
BETTER = Metrics(100, 99, 0.08, 0.015, 0.95, -9.0, 1.0)


def test_better_weights_are_accepted():
    decision = verdict({"new": (BEFORE, BETTER), "earlier": (BEFORE, BEFORE)}, CONFIG)
    assert decision.accepted and "accepted" in decision.message and "10.0 -> 8.0 cm" in decision.message
    assert decision.earlier_before == BEFORE


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"nll": -7.8}, "NLL"),
        ({"median_translation": 0.106}, "translation"),
        ({"median_rotation": 0.022}, "rotation"),
        ({"recall": 0.87}, "recall"),
        ({"anees": 1.6}, "ANEES"),
        ({"anees": 0.6}, "ANEES"),
        ({"nll": math.nan}, "NLL"),
        ({"median_translation": math.inf}, "translation"),
        ({"anees": math.nan}, "ANEES"),
        ({"anees": 0.0}, "ANEES"),
    ],
)
@pytest.mark.parametrize("where", ["new", "earlier"])
def test_one_quantity_that_gets_worse_rolls_back_and_is_named(changes, word, where):
    pairs = {"new": (BEFORE, BETTER), "earlier": (BEFORE, BEFORE)}
    pairs[where] = (BEFORE, replace(BETTER, **changes))
    decision = verdict(pairs, CONFIG)
    assert not decision.accepted
    assert decision.message.startswith("rolled back") and f"on {where} bags the" in decision.message
    assert word in decision.message and "tolerance" in decision.message


def test_what_stays_within_the_tolerances_holds():
    slightly = Metrics(100, 97, 0.104, 0.0209, 0.885, -7.95, 1.3)
    assert reasons_against(BEFORE, slightly, CONFIG) == []
    assert not gained(BEFORE, slightly)
    decision = verdict({"new": (BEFORE, slightly)}, CONFIG)
    assert not decision.accepted and "nothing improved" in decision.message


def simulated(monkeypatch, count=2000, scale=1.0, outliers=0.0, finite=True):
    """A network whose errors are drawn from its covariances, times ``scale``."""
    rng = np.random.default_rng(0)
    sigma = np.array([0.1, 0.1, 0.1, 0.02, 0.02, 0.02])
    error = scale * sigma * rng.standard_normal((count, 6))
    wrong = rng.permutation(count)[: round(outliers * count)]
    error[wrong] += 5.0
    if not finite:
        error[: count // 2 + 1] = np.nan
    covariance = np.broadcast_to(np.diag(sigma**2), (count, 6, 6)).copy()
    answers = HeldOut(np.tile(np.eye(4), (count, 1, 1)), covariance, error, np.ones(count), np.ones(count))
    monkeypatch.setattr(acceptance, "answer", lambda *_: answers)
    images = PosedImages.from_frames(frames(1), 64).subset(np.zeros(count, int))
    return PoseNetwork(SHAPE), images


def test_honest_covariances_have_an_anees_of_one_with_and_without_wrong_labels(monkeypatch):
    for trim, outliers in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)):
        network, images = simulated(monkeypatch, outliers=outliers)
        metrics = measure(network, CovarianceFactors(), images, trim)
        # all outliers are trimmed; then nothing is left to correct the selection for
        expected = 1.0 if outliers == 0.0 else 1.0 / acceptance._selected_mean(0.9)
        assert metrics.anees == pytest.approx(expected, rel=0.05)
        assert metrics.frames == 2000 and metrics.answered == 2000


def test_likelihood_and_anees_follow_the_size_of_the_errors(monkeypatch):
    network, images = simulated(monkeypatch)
    honest = measure(network, CovarianceFactors(), images)
    entropy = 3 * (math.log(2 * math.pi) + 1) + 3 * math.log(0.1) + 3 * math.log(0.02)
    assert honest.nll == pytest.approx(entropy, abs=0.1)
    wide = measure(network, CovarianceFactors(2.0, 2.0), images)
    assert wide.anees == pytest.approx(0.25, rel=0.05) and wide.nll > honest.nll
    network, images = simulated(monkeypatch, scale=2.0)
    assert measure(network, CovarianceFactors(), images).anees == pytest.approx(4.0, rel=0.05)


def test_answers_that_are_not_finite_can_never_be_accepted(monkeypatch):
    network, images = simulated(monkeypatch, 20, finite=False)
    after = measure(network, CovarianceFactors(), images)
    assert after.median_translation == math.inf and after.nll == math.inf and after.answered == 9
    assert reasons_against(BEFORE, after, CONFIG)


def test_frames_that_the_gate_refuses_are_failures_of_recall_but_count_in_the_medians(monkeypatch):
    network, images = simulated(monkeypatch)
    open_gate = measure(network, CovarianceFactors(), images)
    network.gate.minimum_agreement.copy_(torch.tensor(2.0))
    closed = measure(network, CovarianceFactors(), images)
    assert (closed.answered, closed.recall) == (0, 0.0) and open_gate.recall > 0.5
    assert closed.median_translation == open_gate.median_translation
