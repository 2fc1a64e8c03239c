"""One core, two drivers: in lockstep the graph gives the offline driver's trajectory and states."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from robust_loc.msg import LocalizationState
from test_fusion_node import BASE_T_CAM, PERIOD, SECOND, drive, fix, odometry  # noqa: F401

from robust_loc.evaluation.pipeline import localize
from robust_loc.fusion import FusionConfig, LocalizationFilter
from robust_loc.nodes.conversions import from_pose_with_covariance, nanoseconds
from robust_loc.types import Camera, Estimate, Frame, Status

FRAMES = 120
DARK = range(60, 75)
CAMERA = Camera(8, 6, 8.0, 8.0, 3.5, 2.5)


def stamp_of(index):
    return SECOND + index * PERIOD


def moved(index):
    if index in DARK:
        return Estimate(stamp_of(index), Status.FAILED, "dark")
    return odometry(stamp_of(index), stamp_of(index - 1))


def relocalized(index):
    if index % 4 or index in DARK:
        return Estimate(stamp_of(index), Status.REFUSED, "not here")
    return fix(stamp_of(index), (3.0, 0.0, 0.0) if index == 40 else (0.0, 0.0, 0.0))


def regressed(index):
    return fix(stamp_of(index), (0.002 * (-1) ** index, 0.0, 0.0))


class Scripted:
    def __init__(self, answer):
        self.answer = answer

    def update(self, frame, prior=None):
        return self.answer((frame.stamp - SECOND) // PERIOD)

    def reset(self):
        pass


def test_in_lockstep_the_graph_gives_the_offline_trajectory(drive):  # noqa: F811
    sources = {"odometry": moved, "regressor": regressed, "relocalizer": relocalized}
    frames = [Frame(np.zeros((6, 8, 3), np.uint8), CAMERA, stamp_of(i)) for i in range(FRAMES)]
    offline = list(
        localize(
            frames,
            LocalizationFilter(FusionConfig(), BASE_T_CAM),
            odometry=Scripted(moved),
            absolute={"relocalizer": Scripted(relocalized), "regressor": Scripted(regressed)},
        )
    )
    _, car = drive(sources=list(sources))
    for i in range(FRAMES):
        for name, answer in sorted(sources.items(), reverse=True):  # the order of arrival must not matter
            car.say(name, answer(i), stamp_of(i - 1) if name == "odometry" else None)
        car.state_at(stamp_of(i))
    # states were waited for one by one; the estimates come on a topic of their own
    assert car.wait(lambda: len({nanoseconds(message.header.stamp) for message in car.estimates}) == FRAMES)
    live = {nanoseconds(message.header.stamp): message for message in car.estimates}
    states = {nanoseconds(message.header.stamp): message for message in car.states}
    assert len(live) == len(states) == FRAMES
    posed = 0
    for answer in offline:
        state = states[answer.stamp]
        assert state.state == getattr(LocalizationState, answer.localization.state.name)
        assert state.reason == answer.localization.reason
        if answer.fusion.has_pose:
            pose, covariance = from_pose_with_covariance(live[answer.stamp].pose)
            np.testing.assert_allclose(pose, answer.fusion.world_T_cam, atol=1e-6)
            np.testing.assert_allclose(covariance, answer.fusion.covariance, rtol=1e-6, atol=1e-9)
            posed += 1
    assert posed > FRAMES // 2
