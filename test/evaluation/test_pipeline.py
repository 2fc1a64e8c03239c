"""The offline driver against simulated estimators: order, missing ones, slow ones, and what it writes."""

import csv
import json

import numpy as np
import pytest

from robust_loc.data.results import read_source, sources_in
from robust_loc.data.trajectory import Trajectory
from robust_loc.evaluation import evaluate, write_report
from robust_loc.evaluation.pipeline import TIMELINE, localize, record
from robust_loc.fusion import FusionConfig, LocalizationFilter, State
from robust_loc.fusion.simulation import Fixes, Scenario, run, simulate
from robust_loc.types import Camera, Frame

CAMERA = Camera(8, 6, 8.0, 8.0, 3.5, 2.5)
WHITE = FusionConfig(fix_correlation_time=0.0)


class Scripted:
    """Answers a frame with the simulated estimate of its stamp."""

    def __init__(self, events, source):
        self.answers = {e.estimate.stamp: e.estimate for e in events if e.source == source}
        self.asked, self.priors = [], []

    def update(self, frame, prior=None):
        assert frame.world_T_cam is None, "the truth must not reach an estimator"
        self.asked.append(frame.stamp)
        self.priors.append(prior)
        return self.answers.get(frame.stamp)

    def reset(self):
        self.asked.clear()
        self.priors.clear()


@pytest.fixture(scope="module")
def events():
    fixes = [Fixes("relocalizer", period=0.2), Fixes("regressor", period=0.1, position_sigma=0.05)]
    return simulate(Scenario(duration=6, fixes=fixes, dark=[(4.0, 4.5)], restart=0.0), 3)


def frames(events):
    blank = np.zeros((6, 8, 3), np.uint8)
    return [Frame(blank, CAMERA, e.estimate.stamp, None, e.truth) for e in events if e.source == "odometry"]


def truth(events):
    moving = [e for e in events if e.source == "odometry"]
    return Trajectory(np.array([e.estimate.stamp for e in moving]), np.array([e.truth for e in moving]))


def test_offline_driver_gives_what_the_filter_gives_event_by_event(events):
    regressor, relocalizer = Scripted(events, "regressor"), Scripted(events, "relocalizer")
    answers = list(
        localize(
            frames(events),
            LocalizationFilter(WHITE),
            odometry=Scripted(events, "odometry"),
            absolute={"relocalizer": relocalizer, "regressor": regressor},
        )
    )
    in_order = sorted(events, key=lambda e: (e.estimate.stamp, e.source != "odometry", e.source))
    moments = run(LocalizationFilter(WHITE), in_order)
    assert len(answers) == len(moments) == 61
    for answer, moment in zip(answers, moments):
        assert answer.localization.state is moment.localization.state
        if moment.localization.map_T_base is not None:
            assert np.array_equal(answer.localization.map_T_base, moment.localization.map_T_base)


def test_wheels_carry_the_pose_on_when_there_is_neither_camera_odometry_nor_a_fix():
    events = simulate(Scenario(duration=5, fixes=[Fixes("relocalizer", period=0.1, alive=(0.0, 2.0))]), 5)
    origin = next(e.truth for e in events if e.source == "odometry")
    wheels = [(e.estimate.stamp, np.linalg.inv(origin) @ e.truth) for e in events if e.source == "odometry"]
    for metric, localized in ((wheels, True), ([], False)):
        sources = {"relocalizer": Scripted(events, "relocalizer")}
        *_, last = localize(frames(events), LocalizationFilter(WHITE), absolute=sources, metric_odometry=metric)
        assert (last.localization.state is State.LOCALIZED) == localized
        if localized:
            truth = next(e.truth for e in reversed(events) if e.source == "odometry")
            assert np.linalg.norm(last.fusion.world_T_cam[:3, 3] - truth[:3, 3]) < 0.1


def test_results_folder_can_be_evaluated(events, tmp_path):
    answers = localize(
        frames(events),
        LocalizationFilter(WHITE),
        odometry=Scripted(events, "odometry"),
        absolute={"relocalizer": Scripted(events, "relocalizer")},
    )
    counts = record(tmp_path, answers, {"fusion": WHITE.to_dict()}, seed=7, recording="run.mcap")
    assert sum(counts.values()) == 61
    assert sources_in(tmp_path) == ["fusion", "odometry", "relocalizer"]
    assert json.loads((tmp_path / "run.json").read_text())["configuration"]["fusion"]["history"] == 10.0

    fusion = read_source(tmp_path, "fusion")
    fixes = [read_source(tmp_path, "relocalizer").trajectory]
    evaluation = evaluate(fusion.trajectory, truth(events), states=(fusion.stamps, fusion.states), fixes=fixes)
    summary = evaluation.summary
    assert summary["state"]["longest_wrong"] <= 1.0
    assert evaluation.states.said("LOCALIZED").sum() == counts["LOCALIZED"]
    assert evaluation.states.right_fix.sum() >= 25
    assert "States" in write_report(tmp_path, evaluation, "run").read_text()
    assert summary["state"]["localized"] == pytest.approx(counts["LOCALIZED"] / 61)
    assert summary["state"]["localized_while_wrong"] <= 0.05
    assert summary["ate"]["none"]["rmse"] < 0.1
    lost = [state for state in fusion.states if state == "LOST"]
    assert len(fusion.trajectory) == 61 - counts["INITIALIZING"] - len(lost)

    with (tmp_path / TIMELINE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == list(fusion.states)
    assert float(rows[-1]["scale"]) > 0 and rows[0]["nis"] == ""


def test_without_odometry_the_fixes_alone_localize(events):
    answers = list(
        localize(frames(events), LocalizationFilter(WHITE), absolute={"regressor": Scripted(events, "regressor")})
    )
    assert answers[30].localization.map_T_base is not None
    assert "odometry" not in answers[0].by_source


def test_odometry_alone_never_leaves_initializing(events):
    answers = localize(frames(events), LocalizationFilter(WHITE), odometry=Scripted(events, "odometry"))
    assert {answer.localization.state for answer in answers} == {State.INITIALIZING}


def test_slow_estimator_is_asked_at_every_nth_frame_only(events):
    slow = Scripted(events, "relocalizer")
    answers = list(
        localize(
            frames(events),
            LocalizationFilter(WHITE),
            odometry=Scripted(events, "odometry"),
            absolute={"relocalizer": slow},
            every={"relocalizer": 4},
        )
    )
    assert len(slow.asked) == 16
    assert sum("relocalizer" in answer.by_source for answer in answers) == 16


def test_absolute_estimators_get_the_fused_pose_of_the_frame_before_as_a_prior(events):
    relocalizer = Scripted(events, "relocalizer")
    odometry = Scripted(events, "odometry")
    answers = list(
        localize(frames(events), LocalizationFilter(WHITE), odometry=odometry, absolute={"relocalizer": relocalizer})
    )
    assert set(odometry.priors) == {None} and relocalizer.priors[0] is None
    for before, prior in zip(answers, relocalizer.priors[1:]):
        assert (prior is before.fusion) if before.fusion.has_pose else prior is None
