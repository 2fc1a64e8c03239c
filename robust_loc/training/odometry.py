"""Training of the patch odometry: one optimisation step, its schedule, and the loop around it.

DPVO's recipe (Sec. 3.3) with V2V's weighted loss and balancing as options; see ``experiments/weighted_flow_loss`` for
what each option is worth.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_loc.config import Config, parameter
from robust_loc.losses.balance import GradientNormBalance
from robust_loc.odometry.network import PatchNetwork, PatchNetworkConfig
from robust_loc.training.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from robust_loc.training.odometry_data import ClipBatch, ClipSampler
from robust_loc.training.odometry_losses import LossConfig, Terms, loss_terms
from robust_loc.training.odometry_starts import StartConfig, mixed_start
from robust_loc.training.odometry_unroll import UnrollConfig, unroll

BALANCED_TENSOR = "update.gru.1.res.0.weight"  # gradients are compared at this one tensor (V2V)


@dataclass(frozen=True)
class OptimizerConfig(Config):
    steps: int = parameter(240_000, "optimisation steps of the whole schedule", minimum=1)
    learning_rate: float = parameter(8e-5, "peak of the one-cycle schedule", minimum=0)
    warm_up: float = parameter(0.01, "fraction of the steps with a rising learning rate", minimum=0, maximum=1)
    weight_decay: float = parameter(1e-6, "AdamW's", minimum=0)
    clip: float = parameter(10.0, "largest norm of the gradient", minimum=0)
    structure_only: int = parameter(1000, "first steps, with the true poses held fixed", minimum=0)
    balance: bool = parameter(False, "balance flow against pose, and rotation against translation, by gradient norms")
    balance_period: int = parameter(20, "steps between measurements of the balance", minimum=1)
    balance_clip: float = parameter(10.0, "largest change of one measurement", minimum=1)
    clips: int = parameter(1, "clips per step and process", minimum=1)
    average: float = parameter(0.0, "decay of the moving average of the weights, 0: none", minimum=0, maximum=0.99999)


@dataclass(frozen=True)
class TrainingConfig:
    """All parts of one run; written beside its checkpoints."""

    network: PatchNetworkConfig = field(default_factory=PatchNetworkConfig)
    unroll: UnrollConfig = field(default_factory=UnrollConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    start: StartConfig = field(default_factory=StartConfig)
    seed: int = 0


class OdometryTrainer:
    """One run: network, optimizer, schedule, balances and random state.

    Args:
        config: of the run.
        sampler: draws the clips.
        device: where the network lives.
        network: initial weights; drawn from the seed when absent.
    """

    def __init__(
        self,
        config: TrainingConfig,
        sampler: ClipSampler,
        device: torch.device | str = "cpu",
        network: PatchNetwork | None = None,
    ) -> None:
        self.config, self.sampler, self.device = config, sampler, torch.device(device)
        if network is None:
            torch.manual_seed(config.seed)
            network = PatchNetwork(config.network)
        self.network = network.to(self.device).train()
        # What is validated and exported: an average over the last steps is worth a falling learning rate, at any time.
        self.averaged = copy.deepcopy(self.network).eval() if config.optimizer.average else self.network
        o = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay, foreach=True
        )
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.flow_balance = GradientNormBalance(o.balance_period, o.balance_clip)
        self.rotation_balance = GradientNormBalance(o.balance_period, o.balance_clip)
        self.step = 0

    def train_step(self, batch: ClipBatch | None = None) -> dict[str, float]:
        """One optimisation step; returns the terms of its loss and other scalars by name."""
        o = self.config.optimizer
        clock = time.perf_counter()
        batch = (batch or self.sampler.batch(o.clips)).to(self.device)
        waited = time.perf_counter() - clock
        structure_only = self.step < o.structure_only
        rate = learning_rate(self.step, o)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self._forward(batch, structure_only)
        loss = self.total(terms, measure=not structure_only)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), o.clip))
        if math.isfinite(norm):  # a clip that breaks the linear solve must not break the network
            self.optimizer.step()
            self._average_weights()
        self.step += 1
        scalars = {name: float(value.detach()) for name, value in terms._asdict().items()}
        return scalars | {
            "loss": float(loss.detach()),
            "gradient": norm,
            "learning_rate": rate,
            "flow_balance": self.flow_balance.factor,
            "rotation_balance": self.rotation_balance.factor,
            "seconds": time.perf_counter() - clock,
            "seconds_data": waited,
        }

    def _forward(self, batch: ClipBatch, structure_only: bool) -> Terms:
        config = self.config
        start = None if structure_only else mixed_start(config.start)
        published = bool(config.loss.flow or config.loss.pose)
        steps = unroll(
            self.network, batch, config.unroll, self.generator,
            structure_only=structure_only, through_adjustment=published, start=start,
        )  # fmt: skip
        return loss_terms(steps, config.loss, structure_only=structure_only)

    def total(self, terms: Terms, *, measure: bool = False) -> Tensor:
        """``beta 0.1 flow + 10 (translation + ro rotation)`` and the auxiliary terms; updates the balances if due."""
        w = self.config.loss
        flow, translation, rotation = w.flow * terms.flow, w.pose * terms.translation, w.pose * terms.rotation
        if measure and self.config.optimizer.balance and self.flow_balance.due(self.step):
            tensor = dict(self.network.named_parameters())[BALANCED_TENSOR]
            self.rotation_balance.measure(translation, rotation, tensor)
            self.flow_balance.measure(translation + self.rotation_balance.factor * rotation, flow, tensor)
        published = self.flow_balance.factor * flow + translation + self.rotation_balance.factor * rotation
        return published + w.direct * terms.direct + w.confidence * terms.confidence + w.matching * terms.matching

    def _average_gradients(self) -> None:
        """Mean over the processes of a ``torchrun`` launch, as one message."""
        if not _distributed():
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.network.parameters()]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        start = 0
        for p in self.network.parameters():
            p.grad = flat[start : start + p.numel()].view_as(p).clone()
            start += p.numel()

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(self.config.optimizer.average, (self.step + 1) / (self.step + 10))  # short memory at the beginning
        if self.averaged is not self.network:
            pairs = zip(self.averaged.parameters(), self.network.parameters())
            for average, current in pairs:
                average.lerp_(current, 1 - decay)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "sampler": self.sampler.state_dict(),
            "flow_balance": self.flow_balance.state_dict(),
            "rotation_balance": self.rotation_balance.state_dict(),
            "random": random_state(),
            "config": asdict(self.config),
        }

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint of this step."""
        return save_checkpoint(folder, self.step, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint (or the newest one of a folder) as if nothing had happened."""
        self.step, state = load_checkpoint(path)
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        # The checkpoint is the first process's; every other one draws its own clips.
        self.sampler.load_state_dict({**state["sampler"], "seed": state["sampler"]["seed"] + process_rank()})
        self.flow_balance.load_state_dict(state["flow_balance"])
        self.rotation_balance.load_state_dict(state["rotation_balance"])
        restore_random_state(state["random"])


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_rank() -> int:
    """Of this process in a ``torchrun`` launch; 0 when it is alone."""
    return torch.distributed.get_rank() if _distributed() else 0


def _first_process_says(flag: bool, device: torch.device) -> bool:
    """The first process's flag, in every process: none may stop alone, the others would wait for its gradients."""
    if not _distributed():
        return flag
    said = torch.tensor([float(flag)], device=device)
    torch.distributed.broadcast(said, src=0)
    return bool(said.item())


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """One cycle: linearly up from 1/25 of the peak, then linearly down to nearly 0 (Smith 2018)."""
    rise = max(1.0, config.warm_up * config.steps)
    if step < rise:
        return config.learning_rate * (0.04 + 0.96 * step / rise)
    left = max(0.0, (config.steps - step) / max(1.0, config.steps - rise))
    return config.learning_rate * max(left, 1e-4)


def train(
    trainer: OdometryTrainer,
    folder: str | Path,
    *,
    checkpoint_every: int = 500,
    validate: Callable[[PatchNetwork], dict[str, float]] | None = None,
    validate_every: int = 500,
    seconds: float = math.inf,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train to the end of the schedule, or for ``seconds``; the folder gets checkpoints, ``log.jsonl`` and events.

    Args:
        trainer: resumed or fresh.
        folder: of the run.
        validate: called with the network in evaluation mode; its numbers are logged as ``validation/<name>``.
        report: called after every step with the step's scalars (progress bars).

    Returns:
        The last validation's numbers.
    """
    folder = Path(folder)
    main = process_rank() == 0
    log = _Log(folder) if main else None
    begin, last = time.monotonic(), {}
    window: list[dict[str, float]] = []
    while trainer.step < trainer.config.optimizer.steps:
        window.append(trainer.train_step())
        late = _first_process_says(time.monotonic() - begin > seconds, trainer.device)
        over = late or trainer.step == trainer.config.optimizer.steps
        if report is not None:
            report(trainer.step, window[-1])
        if log is not None and (len(window) == 50 or over):
            log.write(trainer.step, {name: _mean([w[name] for w in window]) for name in window[0]})
            window = []
        if validate is not None and main and (trainer.step % validate_every == 0 or over):
            last = validate(trainer.averaged.eval())
            trainer.network.train()
            if log is not None:
                log.write(trainer.step, {f"validation/{name}": value for name, value in last.items()})
        if main and (trainer.step % checkpoint_every == 0 or over):
            trainer.save(folder)
        if over:
            break
    return last


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class _Log:
    """Scalars as lines of JSON, and as TensorBoard events where tensorboard is installed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.events: Any = SummaryWriter(str(folder / "events"))
        except ImportError:
            self.events = None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self.events is not None:
            for name, value in scalars.items():
                self.events.add_scalar(name, value, step)
            self.events.flush()
