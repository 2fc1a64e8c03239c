"""States against the truth: what counts as wrong, and what could have been known."""

import numpy as np
import pytest

from robust_loc.data.trajectory import Trajectory
from robust_loc.evaluation import evaluate
from robust_loc.evaluation.figures import png_of, state_figure
from robust_loc.evaluation.state_timeline import longest_run

STAMPS = np.arange(10, dtype=np.int64) * 100_000_000


def trajectory(offsets, index=slice(None), sigma=0.05):
    poses = np.tile(np.eye(4), (10, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(10) + np.asarray(offsets)
    poses[:, 1, 3] = np.sin(np.arange(10))
    return Trajectory(STAMPS[index], poses[index], np.tile(sigma**2 * np.eye(6), (10, 1, 1))[index])


def test_states_are_judged_by_bounds_and_by_sigmas():
    offsets = np.zeros(10)
    offsets[3:6] = [0.3, 0.4, 0.3]  # over 0.25 m
    offsets[8] = 0.24  # below it, but over 3 sigma
    states = ["INITIALIZING"] + ["LOCALIZED"] * 4 + ["DEGRADED"] + ["LOCALIZED"] * 4
    truth = trajectory(np.zeros(10))
    evaluation = evaluate(trajectory(offsets), truth, states=(STAMPS, states))
    state = evaluation.summary["state"]
    assert state["localized"] == pytest.approx(0.8)
    assert state["localized_while_wrong"] == pytest.approx(0.3)
    assert state["longest_wrong"] == pytest.approx(0.1)
    assert state["lost"] == 0.0 and "lost_while_fixes_possible" not in state


def test_lost_counts_as_avoidable_where_a_source_was_right():
    truth = trajectory(np.zeros(10))
    wrong_fixes = trajectory([5.0] * 5 + [0.01] * 5)
    states = ["LOCALIZED"] * 3 + ["LOST"] * 4 + ["LOCALIZED"] * 3
    answered = trajectory(np.zeros(10), [0, 1, 2, 7, 8, 9])
    state = evaluate(answered, truth, states=(STAMPS, states), fixes=[wrong_fixes]).summary["state"]
    assert state["lost"] == pytest.approx(0.4)
    assert state["lost_while_fixes_possible"] == pytest.approx(0.2)
    assert state["localized"] == pytest.approx(0.6) and state["localized_while_wrong"] == 0.0


def test_longest_run_is_measured_in_seconds():
    assert longest_run(STAMPS, np.array([0, 1, 1, 1, 0, 1, 1, 0, 0, 1], bool)) == pytest.approx(0.2)
    assert longest_run(STAMPS, np.zeros(10, bool)) == 0.0


def test_figure_is_drawn_for_one_frame_and_for_many():
    for count in (1, 10):
        flags = np.arange(count) % 2 == 0
        assert (
            len(
                png_of(
                    state_figure(STAMPS[:count] / 1e9, ["LOCALIZED", "LOST"] * (count // 2) or ["LOST"], flags, flags)
                )
            )
            > 1000
        )
