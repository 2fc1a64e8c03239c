"""The trainer of the regressor made resumable step by step: what was killed goes on as if it never had been."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robust_loc.errors import RobustLocError
from robust_loc.pose_regression import PoseNetwork
from robust_loc.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from robust_loc.training.finetune.config import STAGE_SHARES, FinetuneConfig
from robust_loc.training.regressor import FeatureBuffer, OneCycle, RegressorTrainer, StoredScene
from robust_loc.training.regressor_data import PosedImages

STAGES = tuple(STAGE_SHARES)
StepReport = Callable[[str, int, int, float, dict[str, float]], None]


class ResumableTrainer(RegressorTrainer):
    """Fine-tunes a network in place: scene points, then the two steps of the Robust-NLL paper; the encoder is frozen.

    Args:
        folder: of the checkpoints; a run found there is gone on with.
        report: called after every step with stage, steps done and to do in all stages, seconds trained, and the loss's
            numbers; may raise to stop.
    """

    def __init__(self, network: PoseNetwork, config: FinetuneConfig, folder: Path, report: StepReport) -> None:
        super().__init__(network, config.training(), config.device, self._keep_numbers)
        self.asked = config
        self.folder = folder
        self.report = report
        self.steps = sum(getattr(self.config, f"{stage}_steps") for stage in STAGES)
        self.done = 0
        self.seconds = 0.0  # of training, in all processes
        self._numbers: dict[str, float] = {}
        self._resumed: dict[str, Any] | None = None
        self._saved = time.monotonic()

    def train(self, images: PosedImages) -> None:
        """All stages, or those that remain."""
        first = self._restore()
        buffer = self.fill_buffer(images)
        stored: StoredScene | None = None
        self._restore_randomness()
        for stage in STAGES[first:]:
            if stage == "map":
                self.train_map(buffer, images.world_T_cam)
                continue
            stored = stored or self.store(buffer)
            train = {"uncertainty": self.train_uncertainty, "joint": self.train_joint}[stage]
            train(stored, images.world_T_cam)
        self.network.eval()

    def fill_buffer(self, images: PosedImages) -> FeatureBuffer:
        """The same buffer in every process: its augmentations have random numbers of their own."""
        self.random = np.random.default_rng([self.asked.seed, 1])
        return super().fill_buffer(images)

    def out_of_time(self, stage: str) -> bool:
        """Whether the stages up to this one have used their shares of the time that was given."""
        share = sum(STAGE_SHARES[name] for name in STAGES[: STAGES.index(stage) + 1])
        return 0.0 < share * self.asked.max_duration <= self.seconds

    def _steps(
        self, stage: str, parameters: list[nn.Parameter], steps: int, rate: float
    ) -> Iterator[tuple[int, OneCycle]]:
        optimizer = OneCycle(parameters, rate, steps)
        first = 0
        if self._resumed is not None:
            first = self._resumed["step"]
            if self._resumed["optimizer"] is not None:
                optimizer.load_state_dict(self._resumed["optimizer"])
            if self._resumed["likelihood"] is not None and self.likelihood is not None:
                self.likelihood.consistent.load_state_dict(self._resumed["likelihood"])
            self._resumed = None
        for step in range(first, steps):
            if self.out_of_time(stage):
                break
            began = time.monotonic()
            yield step, optimizer
            self.seconds += time.monotonic() - began
            self.done += 1
            last = step + 1 == steps
            due = last or time.monotonic() - self._saved >= self.asked.checkpoint_period
            if due:
                self.save(stage, step + 1, None if last else optimizer)
            try:
                self.report(stage, self.done, self.steps, self.seconds, self._numbers)
            except RobustLocError:  # asked to stop: nothing done so far is lost
                if not due:
                    self.save(stage, step + 1, optimizer)
                raise

    def _keep_numbers(self, stage: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        self._numbers = numbers

    def save(self, stage: str, step: int, optimizer: OneCycle | None) -> None:
        """Write a checkpoint; OutputError when that is not possible."""
        likelihood = self.likelihood.consistent.state_dict() if self.likelihood is not None else None
        state = {
            "stage": stage,
            "step": step,
            "done": self.done,
            "seconds": self.seconds,
            "network": dict(self.network.state_dict()),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "likelihood": None if likelihood is None else dict(likelihood),
            "random": random_state(),
            "own_random": self.random.bit_generator.state,
        }
        save_checkpoint(self.folder, self.done, state, keep=1)
        self._saved = time.monotonic()

    def _restore(self) -> int:
        """Take up the newest checkpoint; returns the index of the stage to go on with."""
        if not checkpoints(self.folder):
            return 0
        _, state = load_checkpoint(self.folder)
        self.network.load_state_dict(state["network"])
        self.done, self.seconds = state["done"], state["seconds"]
        self._resumed = state
        stage = STAGES.index(state["stage"])
        if state["step"] >= getattr(self.config, f"{state['stage']}_steps"):  # that stage was over
            self._resumed = {"step": 0, "optimizer": None, "likelihood": None}
            stage += 1
        self._randomness = state
        return stage

    def _restore_randomness(self) -> None:
        """After the buffer is filled, which draws random numbers of its own."""
        state = getattr(self, "_randomness", None)
        if state is None:
            self.random = np.random.default_rng(self.asked.seed)
            torch.manual_seed(self.asked.seed)
            return
        restore_random_state(state["random"])
        self.random = np.random.default_rng()
        self.random.bit_generator.state = state["own_random"]
