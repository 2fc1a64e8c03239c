"""The trainer in a live graph: better weights swapped in, worse ones rolled back, cancelled runs without effect."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import SECOND, Client
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from robust_loc.action import Finetune
from robust_loc.srv import LoadWeights
from small_scene import CALIBRATION, QUICK, frames, untrained, write_bag

from robust_loc.nodes.regressor_node import RegressorNode
from robust_loc.nodes.trainer_node import TrainerNode

SUCCEEDED, CANCELED, ABORTED = 4, 5, 6
TIMEOUT = 250.0  # seconds: a child process imports torch, on a machine that may be busy


class Runner:
    """A regressor and a trainer in one graph, and a client of both that keeps sending images."""

    def __init__(self, graph, folder):
        self.folder = folder
        self.weights = untrained(folder / "untrained.safetensors")
        self.regressor = self.node(graph, RegressorNode, weights=str(self.weights), gate=False)
        settings = {name: value for name, value in QUICK.to_dict().items() if name != "map"}
        settings |= {"output_directory": str(folder / "runs"), "feedback_period": 0.0, "replay_fraction": 0.0}
        self.trainer = self.node(graph, TrainerNode, **settings)
        self.client = graph.add(Client("regressor"))
        self.client.wait_for_node()
        self.action = ActionClient(self.client, Finetune, "/trainer/finetune")
        assert self.action.wait_for_server(TIMEOUT)
        self.sent = 0

    @staticmethod
    def node(graph, kind, **values):
        values = {"diagnostics_period": 0.2, **({"lockstep": True} if kind is RegressorNode else {}), **values}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = graph.add(kind(parameter_overrides=overrides))
        node.start()
        assert node.is_active
        return node

    def frame(self):
        """Send the next image and wait for its answer."""
        self.sent += 1
        stamp = SECOND + self.sent * SECOND // 20
        self.client.send(stamp, CALIBRATION, frames(1, self.sent)[0].image)
        return self.client.answer(stamp, TIMEOUT)

    def start(self, bag, **goal):
        """Send a goal; returns its handle and the list that feedback goes to."""
        feedback = []

        def keep(message):
            with self.client.received:
                feedback.append(message.feedback)
                self.client.received.notify_all()

        sending = self.action.send_goal_async(Finetune.Goal(**{"bags": [str(bag)], **goal}), feedback_callback=keep)
        return done(sending), feedback

    def digest(self):
        """SHA-256 of the weights that the regressor uses, as it says when it is asked to load a wrong file."""
        service = self.client.create_client(LoadWeights, "/regressor/load_weights")
        assert service.wait_for_service(TIMEOUT)
        answer = service.call(LoadWeights.Request(path="/nowhere"), timeout_sec=TIMEOUT)
        assert not answer.success
        return answer.digest


def done(future):
    finished = threading.Event()
    future.add_done_callback(lambda _: finished.set())
    assert finished.wait(TIMEOUT), "no answer from the action server"
    return future.result()


def digest_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def runner(graph, tmp_path):
    return Runner(graph, tmp_path)


@pytest.mark.timeout(1200)  # most of it is waiting for processors where many share them
def test_better_weights_are_swapped_in_without_missing_a_frame_and_poisoned_labels_are_rolled_back(runner):
    bag = write_bag(runner.folder / "bag.mcap", frames(80))
    before = runner.frame()
    handle, feedback = runner.start(bag, swap_in=True, seed=0)
    assert handle.accepted
    ending = handle.get_result_async()
    poses = []
    finished = threading.Event()
    ending.add_done_callback(lambda _: finished.set())
    while not finished.wait(0.1):
        poses.append(runner.frame())  # in lockstep: every single frame is answered, during the swap too
    ended = ending.result()
    assert ended.status == SUCCEEDED and ended.result.accepted, ended.result.message
    assert ended.result.message.startswith("accepted") and ended.result.steps == QUICK.max_steps
    assert ended.result.after.nll < ended.result.before.nll and ended.result.after.frames >= 10
    assert Path(ended.result.report).is_file()
    assert runner.digest() == digest_of(ended.result.weights)
    after = runner.frame()
    assert after.has_pose and all(pose.has_pose for pose in (before, *poses))
    assert runner.regressor.health.dropped == 0 and runner.regressor.health.refused == 0

    assert runner.client.wait(lambda: feedback[-1].stage == "validating")
    stages = [f.stage for f in feedback]
    assert sorted(set(stages), key=stages.index) == ["reading", "training", "validating"]
    training = [f for f in feedback if f.stage == "training"]
    assert [f.step for f in training] == sorted(f.step for f in training) and training[-1].step == QUICK.max_steps
    assert all(np.isfinite(f.loss) and f.eta >= 0 and f.max_steps == QUICK.max_steps for f in training)
    assert any(f.temperature > 0 and f.effective_sample_size > 0 for f in training)

    # The labels of the second bag are of another frame of reference.
    swapped = runner.digest()
    wrong = np.eye(4)
    wrong[:3, 3] = 3.0, -2.0, 4.0
    poisoned = [replace(frame, world_T_cam=wrong @ frame.world_T_cam) for frame in frames(80, 200)]
    handle, _ = runner.start(write_bag(runner.folder / "poisoned.mcap", poisoned), swap_in=True, max_steps=60)
    ended = done(handle.get_result_async())
    assert ended.status == SUCCEEDED and not ended.result.accepted and ended.result.weights == ""
    assert "rolled back" in ended.result.message and "on earlier bags" in ended.result.message
    assert runner.digest() == swapped, "the weights in use are those swapped in before"
    assert runner.frame().has_pose


@pytest.mark.timeout(1200)  # most of it is waiting for processors where many share them
def test_a_cancelled_run_changes_nothing_and_a_second_goal_waits_its_turn(runner):
    bag = write_bag(runner.folder / "bag.mcap", frames(80))
    in_use = runner.digest()
    output = runner.folder / "run"
    handle, feedback = runner.start(bag, swap_in=True, max_steps=1_000_000, output=str(output))
    assert runner.client.wait(lambda: any(f.stage == "training" and f.step > 3 for f in feedback), TIMEOUT)
    refused, _ = runner.start(bag, swap_in=True)
    assert not refused.accepted, "one run at a time"
    done(handle.cancel_goal_async())
    ended = done(handle.get_result_async())
    assert ended.status == CANCELED and not ended.result.accepted
    assert "cancelled while training" in ended.result.message
    assert not list(output.glob("weights*"))
    assert runner.digest() == in_use == digest_of(runner.weights)
    assert runner.frame().has_pose

    # What cannot be done is aborted with the reason, and the next goal is served.
    for goal, reason in (({"label_source": "magic"}, "label_source"), ({"bags": []}, "no bags")):
        handle, _ = runner.start(bag, **goal)
        ended = done(handle.get_result_async())
        assert ended.status == ABORTED and reason in ended.result.message, ended.result.message
    assert runner.client.complains("fine-tuning failed")
