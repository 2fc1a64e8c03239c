"""``torchrun`` with two processes on a CPU (gloo): one training, not two. The processes run this very file."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from robust_loc.odometry.network import PatchNetworkConfig
from robust_loc.training.augmentation import AugmentationConfig
from robust_loc.training.odometry import OdometryTrainer, OptimizerConfig, TrainingConfig, train
from robust_loc.training.odometry_data import ClipBatch, ClipConfig, ClipSampler, FrameSequence
from robust_loc.training.odometry_losses import LossConfig
from robust_loc.training.odometry_unroll import UnrollConfig

HERE = Path(__file__).resolve()
STEPS = 3
CONFIG = TrainingConfig(
    PatchNetworkConfig(hidden=8, features=8, width=4),
    UnrollConfig(steps=3, first=3, patches=6, drop=0.0, backward_fraction=1.0),
    LossConfig(),
    OptimizerConfig(steps=STEPS, learning_rate=1e-3, structure_only=0, clips=1),
)


def make_trainer(rank: int, sequences: list[FrameSequence]) -> OdometryTrainer:
    clips = ClipConfig(frames=4, height=64, width=96)
    return OdometryTrainer(CONFIG, ClipSampler(sequences, clips, AugmentationConfig(), seed=1 + rank))


def one_process(folder: Path, sequences: list[FrameSequence]) -> None:
    """Train until the first process has no more time, resume to the end, and leave weights and a report."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    stopped = make_trainer(rank, sequences)
    train(stopped, folder, seconds=0.0 if rank == 0 else math.inf)
    torch.distributed.barrier()  # the checkpoint is there
    resumed = make_trainer(7, sequences)
    resumed.load(folder)
    train(resumed, folder)
    torch.save(resumed.network.state_dict(), folder / f"weights_{rank}.pt")
    report = {"stopped_at": stopped.step, "resumed_to": resumed.step, "sampler": resumed.sampler.state_dict()}
    (folder / f"report_{rank}.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    paths = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, str(HERE), str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_both_processes_stop_together_and_resume_with_clips_of_their_own(folder) -> None:
    first, second = (json.loads((folder / f"report_{rank}.json").read_text()) for rank in (0, 1))
    assert first["stopped_at"] == second["stopped_at"] == 1
    assert first["resumed_to"] == second["resumed_to"] == STEPS
    assert first["sampler"] == {"seed": 1, "drawn": STEPS} and second["sampler"] == {"seed": 2, "drawn": STEPS}


def test_the_weights_are_those_of_mean_gradients(folder, sequences) -> None:
    """Both processes end with the same weights, which one process reaches that averages both gradients itself."""
    first, second = (torch.load(folder / f"weights_{rank}.pt", weights_only=True) for rank in (0, 1))
    trainers = [make_trainer(rank, sequences) for rank in (0, 1)]
    for _ in range(STEPS):
        batches = [trainer.sampler.batch(1) for trainer in trainers]
        gradients = [_gradients(trainer, batch) for trainer, batch in zip(trainers, batches)]
        mean = [torch.stack(pair).mean(0) for pair in zip(*gradients)]
        for trainer, batch in zip(trainers, batches):
            trainer._average_gradients = partial(_set_gradients, trainer, mean)
            trainer.train_step(batch)
    for name, expected in trainers[0].network.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6)


def _gradients(trainer: OdometryTrainer, batch: ClipBatch) -> list[torch.Tensor]:
    """Of one batch; the trainer's random state stays."""
    state = trainer.generator.get_state()
    trainer.network.zero_grad(set_to_none=True)
    trainer.total(trainer._forward(batch, structure_only=False)).backward()
    trainer.generator.set_state(state)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trainer.network.parameters()]


def _set_gradients(trainer: OdometryTrainer, gradients: list[torch.Tensor]) -> None:
    for p, gradient in zip(trainer.network.parameters(), gradients):
        p.grad = gradient.clone()


if __name__ == "__main__":
    from conftest import wall_sequence  # beside this file

    one_process(Path(sys.argv[1]), [wall_sequence(seed) for seed in range(3)])
