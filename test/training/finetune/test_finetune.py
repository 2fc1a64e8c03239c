"""Runs: accepted, rolled back, cancelled, killed and gone on with, out of disk."""

import json
import math
import os
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_scene import QUICK, frames, write_bag

from robust_loc.cli import cli
from robust_loc.errors import ConfigurationError, OutputError, WeightsError
from robust_loc.pose_regression import PoseRegressor, PoseRegressorConfig, load_network
from robust_loc.pose_regression.weights import load_details
from robust_loc.training.checkpoint import checkpoints
from robust_loc.training.finetune import FinetuneCancelled, FrameSet, Role, finetune, memory_file
from robust_loc.training.finetune.process import TrainingProcess
from robust_loc.uncertainty import CovarianceCalibration


def assert_same_weights(first, second):
    first, second = load_network(first), load_network(second)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=0, msg=name)


def test_an_accepted_run_leaves_weights_calibration_memory_and_a_report(recorded, finished):
    result, _ = finished
    assert result.accepted and result.message.startswith("accepted")
    assert result.after.nll < result.before.nll
    assert result.after.median_translation < result.before.median_translation
    assert sorted(file.name for file in result.report.parent.iterdir()) == [
        "report.json", "run.json", "weights.covariance_calibration.json", "weights.replay.npz", "weights.safetensors",
    ]  # fmt: skip
    report = json.loads(result.report.read_text())
    assert report["accepted"] and report["after"]["nll"] == result.after.nll
    assert any("no earlier frames" in loss for loss in report["losses"])
    asked = json.loads((result.report.parent / "run.json").read_text())
    assert asked["config"]["max_steps"] == QUICK.max_steps and asked["bags"] == [str(recorded / "bag.mcap")]
    assert load_details(result.weights)["finetuned"]["initial"] == "untrained.safetensors"
    memory = FrameSet.load(memory_file(result.weights))
    assert len(memory) == 80 and memory.count(Role.JUDGE) >= 10
    assert CovarianceCalibration.load_beside(result.weights).of("regressor").samples >= 10
    regressor = PoseRegressor(PoseRegressorConfig(weights=result.weights, gate=False))
    assert regressor.update(frames(1)[0]).has_pose


def test_encoder_and_centre_of_the_scene_stay(recorded, finished):
    before, after = load_network(recorded / "untrained.safetensors"), load_network(finished[0].weights)
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(value, after.encoder.state_dict()[name]), name
    assert torch.equal(before.scene.mean, after.scene.mean)
    assert not torch.equal(before.scene.fc3.weight, after.scene.fc3.weight)


def test_progress_tells_loss_temperature_effective_samples_and_time_left(finished):
    _, told = finished
    assert [stage for k, stage in enumerate(p.stage for p in told) if k == 0 or told[k - 1].stage != stage] == [
        "reading", "training", "validating",
    ]  # fmt: skip
    training = [p for p in told if p.stage == "training"]
    assert [p.step for p in training] == list(range(1, 41)) and {p.max_steps for p in training} == {40}
    assert all(math.isfinite(p.loss) and p.eta >= 0 for p in training) and training[-1].eta == 0
    joint = [p for p in training if p.phase == "joint"]
    assert len(joint) == 14
    assert all(p.temperature > 0 and 0 < p.effective_sample_size <= QUICK.pose_batch + 1e-3 for p in joint)
    assert {p.phase for p in training} == {"map", "uncertainty", "joint"}


@pytest.mark.parametrize("step", [7, 23, 40])
def test_a_run_stopped_at_any_step_gives_the_weights_of_one_that_never_was(recorded, finished, tmp_path, step):
    arguments = [recorded / "bag.mcap"], recorded / "untrained.safetensors", tmp_path / "run"
    config = replace(QUICK, checkpoint_period=0.0)
    steps = []

    def watch(progress):
        if progress.stage == "training":
            steps.append(progress.step)

    with pytest.raises(FinetuneCancelled, match="cancelled"):
        finetune(*arguments, config, progress=watch, cancelled=lambda: bool(steps) and steps[-1] == step)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    interrupted = list(steps)
    result = finetune(*arguments, config, progress=watch)
    assert steps == [*interrupted, *range(step + 1, 41)], "no step is done twice"
    assert_same_weights(result.weights, finished[0].weights)
    assert result.after == finished[0].after


def killed_at(step, arguments):
    """Start a run in a process and kill it after ``step``; returns the last word said of it."""
    process = TrainingProcess(*arguments)
    events = process.events()
    for event in events:
        if event["kind"] == "progress" and event["stage"] == "training" and event["step"] >= step:
            assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10, "low priority"
            os.kill(process.pid, signal.SIGKILL)
            break
    last = [*events][-1]
    process.close()
    return last


def test_a_killed_process_is_gone_on_with(recorded, finished, tmp_path):
    for attempt in range(5):  # on a busy machine a run may have ended before the kill
        run = tmp_path / f"run{attempt}"
        arguments = [recorded / "bag.mcap"], recorded / "untrained.safetensors", run, QUICK
        last = killed_at(10, arguments)
        if last["kind"] == "error":
            break
    assert last["kind"] == "error" and "ended with code -9" in last["message"]
    assert checkpoints(run / "checkpoints")
    steps = []
    result = finetune(*arguments, progress=lambda told: steps.append(told.step) if told.stage == "training" else None)
    assert min(steps) > 10 and result.accepted
    assert_same_weights(result.weights, finished[0].weights)


def test_a_training_process_ends_when_whoever_asked_is_gone(recorded, tmp_path):
    config = replace(QUICK, max_steps=100_000, checkpoint_period=1000.0)
    process = TrainingProcess([recorded / "bag.mcap"], recorded / "untrained.safetensors", tmp_path / "run", config)
    for event in process.events():
        if event["kind"] == "progress" and event["stage"] == "training":
            process._process.stdin.close()  # what the system does when a process ends
            break
    assert [*process.events()][-1]["kind"] == "cancelled"
    process.close()


def test_what_is_wrong_with_a_request_reaches_the_asker(recorded, tmp_path):
    process = TrainingProcess([tmp_path / "absent.mcap"], recorded / "untrained.safetensors", tmp_path / "run", QUICK)
    end = [*process.events()][-1]
    process.close()
    assert end["kind"] == "error" and "absent.mcap" in end["message"]


def shifted(recording):
    """The same images with the labels of another frame of reference."""
    wrong = np.eye(4)
    wrong[:3, 3] = 3.0, -2.0, 4.0
    return [replace(frame, world_T_cam=wrong @ frame.world_T_cam) for frame in recording]


def test_poisoned_labels_are_rolled_back_because_earlier_bags_say_so(finished, tmp_path):
    bag = write_bag(tmp_path / "poisoned.mcap", shifted(frames(80, 200)))
    weights = finished[0].weights
    before = weights.read_bytes()
    result = finetune([bag], weights, tmp_path / "run", replace(QUICK, replay_fraction=0.0, max_steps=60))
    assert not result.accepted and result.weights is None
    assert "rolled back" in result.message and "on earlier bags" in result.message
    assert result.earlier_after.median_translation > 1.5 * result.earlier_before.median_translation
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["report.json", "run.json"]
    assert weights.read_bytes() == before


def test_a_second_run_replays_the_first_one(finished, tmp_path):
    bag = write_bag(tmp_path / "second.mcap", frames(80, 200))
    result = finetune([bag], finished[0].weights, tmp_path / "run", QUICK)
    assert result.earlier_before.frames >= 10 and not any("earlier" in loss for loss in result.losses)
    if result.accepted:
        assert len(FrameSet.load(memory_file(result.weights)).names) == 2


def test_earlier_bags_can_be_named(recorded, tmp_path):
    second = write_bag(tmp_path / "second.mcap", frames(80, 200))
    config = replace(QUICK, max_steps=10)
    weights = recorded / "untrained.safetensors"
    result = finetune([second], weights, tmp_path / "run", config, earlier_bags=[recorded / "bag.mcap"])
    assert result.earlier_before is not None and result.earlier_before.frames >= 10


def test_a_time_limit_ends_the_training_and_the_result_is_judged(recorded, tmp_path):
    config = replace(QUICK, max_steps=100_000, max_duration=0.2, checkpoint_period=1000.0)
    result = finetune([recorded / "bag.mcap"], recorded / "untrained.safetensors", tmp_path / "run", config)
    assert 0 < result.steps < 100_000 and result.after.frames == result.before.frames


def test_a_folder_of_another_run_is_refused(recorded, finished, tmp_path):
    arguments = [recorded / "bag.mcap"], recorded / "untrained.safetensors"
    with pytest.raises(ConfigurationError, match="finished run"):
        finetune(*arguments, finished[0].report.parent, QUICK)
    with pytest.raises(FinetuneCancelled):
        finetune(*arguments, tmp_path / "run", QUICK, cancelled=lambda: True)
    with pytest.raises(ConfigurationError, match="unfinished run with other config"):
        finetune(*arguments, tmp_path / "run", replace(QUICK, seed=7))
    with pytest.raises(WeightsError):
        finetune(arguments[0], recorded / "bag.mcap", tmp_path / "other", QUICK)


@contextmanager
def no_file_may_exceed(size):
    """A disk that is full after so many bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("size", [2_000, 400_000])
def test_a_full_disk_is_an_error_that_says_so_and_nothing_is_left_half_written(recorded, tmp_path, size):
    """Full while the frames are kept, and while the first checkpoint is written."""
    run = tmp_path / "run"
    arguments = [recorded / "bag.mcap"], recorded / "untrained.safetensors", run, replace(QUICK, checkpoint_period=0.0)
    with no_file_may_exceed(size), pytest.raises(OutputError, match=r"cannot be written.*free space"):
        finetune(*arguments)
    left = sorted(file.name for file in run.rglob("*"))
    assert left == (["run.json"] if size == 2_000 else ["checkpoints", "frames.npz", "reading.json", "run.json"])
    assert finetune(*arguments).accepted, "with space again, the same call goes on"


def test_the_command_line_runs_exactly_that(recorded, finished, tmp_path):
    recipe = tmp_path / "trainer.yaml"
    values = {name: value for name, value in QUICK.to_dict().items() if name != "map"}
    recipe.write_text(json.dumps({"trainer": {"ros__parameters": values}}))
    arguments = ["finetune", str(recorded / "bag.mcap"), "--weights", str(recorded / "untrained.safetensors")]
    arguments += ["-o", str(tmp_path / "run"), "--config", str(recipe)]
    ended = CliRunner().invoke(cli, [*arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["after"] == finished[0].after.to_dict()
    assert_same_weights(tmp_path / "run" / "weights.safetensors", finished[0].weights)
    bag = write_bag(tmp_path / "poisoned.mcap", shifted(frames(80, 200)))
    arguments[1], arguments[3] = str(bag), str(tmp_path / "run" / "weights.safetensors")
    arguments[5] = str(tmp_path / "other")
    ended = CliRunner().invoke(cli, arguments)
    assert ended.exit_code == 1 and "rolled back" in ended.output, ended.output
