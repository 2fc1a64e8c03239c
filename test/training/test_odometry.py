"""The odometry trainer: resumable to the same weights, and it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robust_loc.odometry.network import PatchNetworkConfig
from robust_loc.training.augmentation import AugmentationConfig
from robust_loc.training.odometry import OdometryTrainer, OptimizerConfig, TrainingConfig, learning_rate, train
from robust_loc.training.odometry_data import ClipConfig, ClipSampler
from robust_loc.training.odometry_losses import LossConfig
from robust_loc.training.odometry_presets import MIXED_STARTS, preset, presets
from robust_loc.training.odometry_unroll import UnrollConfig, unroll
from robust_loc.training.odometry_validation import Validation

SMALL = TrainingConfig(
    PatchNetworkConfig(hidden=16, features=8, width=4),
    UnrollConfig(steps=5, first=3, patches=6, drop=0.5, backward_fraction=0.5),
    LossConfig(direct=1.0, confidence=0.1, matching=0.1),
    OptimizerConfig(
        steps=6, learning_rate=1e-3, structure_only=1, balance=True, balance_period=2, clips=2, average=0.5
    ),
    MIXED_STARTS,
)
CLIPS = ClipConfig(frames=5, height=64, width=96)


def _trainer(sequences, config=SMALL, clips=CLIPS):
    return OdometryTrainer(config, ClipSampler(sequences, clips, AugmentationConfig(), seed=1))


def test_interrupted_and_resumed_run_gives_the_weights_of_an_uninterrupted_one(sequences, tmp_path):
    straight = _trainer(sequences)
    train(straight, tmp_path / "straight")
    interrupted = _trainer(sequences)
    for _ in range(3):
        interrupted.train_step()
    interrupted.save(tmp_path / "interrupted")
    torch.manual_seed(123)  # another process would have another state
    resumed = _trainer(sequences, replace(SMALL, seed=77))
    resumed.load(tmp_path / "interrupted")
    train(resumed, tmp_path / "interrupted")
    assert resumed.step == straight.step == 6
    for (name, a), b in zip(straight.averaged.state_dict().items(), resumed.averaged.state_dict().values()):
        assert torch.equal(a, b), name
    assert resumed.flow_balance.state_dict() == straight.flow_balance.state_dict()


def test_run_stops_in_time_and_leaves_a_checkpoint_and_a_log(sequences, tmp_path):
    trainer = _trainer(sequences)
    train(trainer, tmp_path, seconds=0.0)
    assert trainer.step == 1
    assert (tmp_path / "step_00000001" / "state.json").is_file() and (tmp_path / "log.jsonl").read_text()


def test_streaming_adds_frames_and_drops_some(sequences):
    trainer = _trainer(sequences)
    batch = trainer.sampler.batch(2)
    config = UnrollConfig(steps=5, first=3, patches=6, drop=1.0)
    steps = list(unroll(trainer.network, batch, config, torch.Generator().manual_seed(0)))
    assert [s.frames for s in steps] == [3, 3, 3, 4, 5]
    assert len(steps[0].ii) == 2 * 3 * 6 * 3
    # frame 0 of each clip is dropped when frame 4 enters
    assert not bool(((steps[4].ii % 5 == 0) | (steps[4].jj % 5 == 0)).any())
    complete = {(int(i), int(j)) for i, j in zip(steps[4].ii % 5, steps[4].jj % 5)}
    assert complete == {(i, j) for i in range(1, 5) for j in range(1, 5)}


def test_structure_only_leaves_the_true_poses(sequences):
    trainer = _trainer(sequences)
    batch = trainer.sampler.batch(1)
    steps = unroll(trainer.network, batch, SMALL.unroll, torch.Generator().manual_seed(0), structure_only=True)
    for step in steps:
        assert torch.equal(step.poses, batch.poses.flatten(0, 1))


def test_clips_of_a_batch_do_not_influence_each_other(sequences):
    """Two clips in one batch give each clip's own answer."""
    network = _trainer(sequences).network.eval().double()
    one, two = (ClipSampler(sequences, CLIPS, None, seed=s).batch(1) for s in (2, 3))
    both = type(one)(*(torch.cat(pair) for pair in zip(one, two)))
    config = UnrollConfig(steps=3, first=5, patches=6)

    def final(batch, clips):
        from robust_loc.odometry.patches import random_centres  # the same patches in both cases
        from robust_loc.training import odometry_unroll

        centres = random_centres(10, 6, 16, 24, torch.Generator().manual_seed(1))
        depths = torch.rand(60, generator=torch.Generator().manual_seed(2))
        start = {0: slice(0, 30), 1: slice(30, 60), 2: slice(0, 60)}[clips]
        chosen = centres[{0: slice(0, 5), 1: slice(5, 10), 2: slice(0, 10)}[clips]]
        original = odometry_unroll.random_centres
        odometry_unroll.random_centres = lambda *_, **__: chosen
        try:
            rule = lambda truth, length, g: odometry_unroll.Start(  # noqa: E731
                torch.tensor([0.0, 0, 0, 0, 0, 0, 1]).repeat(len(truth.poses), 1), depths[start]
            )
            *_, last = unroll(network.float(), batch, config, torch.Generator(), start=rule)
        finally:
            odometry_unroll.random_centres = original
        return last.poses.detach()

    separate = torch.cat([final(one, 0), final(two, 1)])
    torch.testing.assert_close(final(both, 2), separate, atol=2e-4, rtol=1e-3)


def test_schedule_rises_then_falls_to_nothing():
    config = OptimizerConfig(steps=100, learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert rates[0] == pytest.approx(0.04) and rates[-1] < 0.02
    assert all(a < b for a, b in zip(rates[:10], rates[1:11])) and all(a > b for a, b in zip(rates[10:], rates[11:]))


def test_every_preset_is_consistent():
    for name in presets():
        chosen = preset(name)
        assert chosen.clips.height % 16 == 0 and chosen.clips.width % 16 == 0
        assert chosen.training.unroll.first <= 8


def test_unknown_preset_lists_the_known_ones():
    from robust_loc.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="tiny"):
        preset("huge")


@pytest.mark.slow
def test_tiny_preset_lowers_the_validation_error(sequences):
    """A hundred short steps on two-layer walls: patches are found better in a wall never seen."""
    chosen = preset("tiny")
    config = replace(
        chosen.training,
        optimizer=replace(chosen.training.optimizer, steps=100, learning_rate=2e-3),
        unroll=replace(chosen.training.unroll, steps=4, patches=12),
    )
    clips = replace(chosen.clips, frames=4, height=64, width=96)
    colours = AugmentationConfig(zoom=0, grayscale=0, invert=0, exposure=0, noise=0, blur=0, jpeg=0)
    trainer = OdometryTrainer(config, ClipSampler(sequences[:2], clips, colours, seed=1))
    validate = Validation.of(sequences[2:], clips, count=6)
    before = validate(trainer.network.eval())
    trainer.network.train()
    while trainer.step < 100:
        trainer.train_step()
    after = validate(trainer.network.eval())
    assert after["flow"] < 0.95 * before["flow"]
