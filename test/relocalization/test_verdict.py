"""The verdict: calibrated on right and wrong poses."""

import numpy as np

from robust_loc.relocalization.verdict import Evidence, Verdict, fit_verdict


def draws(rng, right, count):
    centre = np.array([0.45, 0.15, 0.27, 2.3]) if right else np.array([0.22, 0.01, 0.03, 1.2])
    return centre + rng.normal(0, 1, (count, 4)) * [0.08, 0.05, 0.05, 0.2]


def test_the_default_separates_good_from_poor_evidence():
    verdict = Verdict()
    assert verdict.probability(Evidence(0.5, 0.15, 0.28, 2.3)) > 0.9
    assert verdict.probability(Evidence(0.25, 0.01, 0.02, 1.1)) < 0.02


def test_fitted_probabilities_are_those_of_held_out_poses():
    rng = np.random.default_rng(0)
    right = np.repeat([1.0, 0.0], 150)
    evidence = np.concatenate([draws(rng, True, 150), draws(rng, False, 150)])
    verdict = fit_verdict(evidence, right)
    assert verdict.samples == 300 and min(verdict.weights) >= 0
    for good in (True, False):
        told = np.mean([verdict.probability(Evidence(*e)) for e in draws(rng, good, 300)])
        assert told > 0.95 if good else told < 0.05


def test_a_verdict_survives_its_dictionary():
    verdict = Verdict((1.0, 2.0, 3.0, 4.0), -5.0, 7)
    assert Verdict.from_dict(verdict.to_dict()) == verdict
