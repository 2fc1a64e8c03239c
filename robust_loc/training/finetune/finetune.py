"""Fine-tune a scene's weights on recorded bags; the result is taken only if it is better on held-out frames.

read      the bags' labelled frames; hold out stretches of time; add frames of earlier bags
train     scene points; the uncertainty head on the NLL, the mean frozen; both on Robust-NLL
calibrate covariance factors and the limits of the scene gate on held-out frames
judge     before and after on other held-out frames, of the new and of the earlier bags
accept    write the new weights, or roll back: the old ones stay and nothing is written but the report
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robust_loc.data.files import write_atomically, writing
from robust_loc.errors import RobustLocError
from robust_loc.pose_regression import PoseNetwork, load_network, save_network
from robust_loc.pose_regression.weights import load_details
from robust_loc.training.finetune.acceptance import Metrics, Verdict, measure, verdict
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.frames import FrameSet, Role, join
from robust_loc.training.finetune.labels import Localizer
from robust_loc.training.finetune.localizers import make_localizer
from robust_loc.training.finetune.reading import LEAST, read_bags
from robust_loc.training.finetune.replay import load_memory, memory_file, remembered, with_replay
from robust_loc.training.finetune.run_folder import RunFolder
from robust_loc.training.finetune.training import ResumableTrainer
from robust_loc.training.regressor_validation import calibrate
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors


class FinetuneCancelled(RobustLocError):
    """The run was asked to stop: the weights are as they were, and the same call goes on where it stopped."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "reading", "training" or "validating".
        step, max_steps: of the stage.
        phase: of the training: "map", "uncertainty" or "joint".
        loss: of the last step, pixels in the phase "map" and nats after it; NaN while there is none.
        temperature: of the robust loss; NaN before it is used.
        effective_sample_size: samples that carry the weight of the robust loss, out of a batch; NaN likewise.
        eta: seconds of training left, negative while unknown.
    """

    stage: str
    step: int
    max_steps: int
    phase: str = ""
    loss: float = math.nan
    temperature: float = math.nan
    effective_sample_size: float = math.nan
    eta: float = -1.0


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        accepted: whether the new weights are better.
        message: what changed, or why the run was rolled back.
        weights: file with the accepted weights, or None.
        report: file with everything here.
        steps: trained.
        before, after: on held-out frames of the new bags.
        earlier_before, earlier_after: on held-out frames of earlier bags, where such are kept.
        losses: what of the bags could not be used, one sentence each.
    """

    accepted: bool
    message: str
    weights: Path | None
    report: Path
    steps: int
    before: Metrics
    after: Metrics
    earlier_before: Metrics | None = None
    earlier_after: Metrics | None = None
    losses: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "weights": str(self.weights or ""), "report": str(self.report)}


def finetune(
    bags: Sequence[str | Path],
    weights: str | Path,
    output: str | Path,
    config: FinetuneConfig | None = None,
    *,
    earlier_bags: Sequence[str | Path] = (),
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    localizer: Localizer | None = None,
) -> Result:
    """Fine-tune ``weights`` on ``bags``; see the module's description.

    Args:
        output: folder of the run. Called again after an interruption, it goes on there.
        earlier_bags: recordings to replay besides the frames that the weights carry.
        progress: called often.
        cancelled: asked often.
        localizer: for pseudo-labels; default: made as ``config`` says.

    Raises:
        FinetuneCancelled: ``cancelled()`` was true.
        BagError, WeightsError, ConfigurationError: bad input.
        OutputError: the disk is full or not writable.
    """
    config = config or FinetuneConfig()
    weights, output = Path(weights), Path(output)
    torch.set_num_threads(config.threads)

    def tell(said: Progress) -> None:
        progress(said)
        if cancelled():
            raise FinetuneCancelled(f"cancelled while {said.stage}: {weights} stays, {output} can be gone on with")

    old = load_network(weights, config.device)
    old_factors = CovarianceCalibration.load_beside(weights).of("regressor")
    run = RunFolder(output, bags, earlier_bags, weights, config)

    tell(Progress("reading", 0, 0))
    localizer = localizer or make_localizer(config, old, old_factors)
    new, earlier, losses = run.prepared() or _read(run, bags, earlier_bags, weights, config, old, localizer, tell)
    learned = new if earlier is None else _with_replay(new, earlier, config)
    training, calibration = learned.of(Role.TRAIN), learned.of(Role.CALIBRATE)

    network = copy.deepcopy(old)
    trainer = ResumableTrainer(network, config, run.checkpoints, _reporter(tell, config))
    trainer.train(training)

    tell(Progress("validating", 0, 2))
    trainer.set_gate(training, calibration)
    factors = calibrate(network, calibration, config.device)
    tell(Progress("validating", 1, 2))
    decision = _judge((old, old_factors), (network, factors), new, earlier, config)
    tell(Progress("validating", 2, 2))

    accepted_weights = run.weights if decision.accepted else None
    result = Result(weights=accepted_weights, report=run.report, steps=trainer.done, losses=losses, **vars(decision))
    with writing(output):
        if decision.accepted:
            _keep(network, factors, learned, weights, result, config)
        write_atomically(run.report, json.dumps(result.to_dict(), indent=1) + "\n")
    run.clean()
    return result


def _read(
    run: RunFolder,
    bags: Sequence[str | Path],
    earlier_bags: Sequence[str | Path],
    weights: Path,
    config: FinetuneConfig,
    network: PoseNetwork,
    localizer: Localizer | None,
    tell: Callable[[Progress], None],
) -> tuple[FrameSet, FrameSet | None, list[str]]:
    """New frames, frames of earlier bags (kept with the weights, or read now), and what was lost."""

    def reading(done: int, count: int) -> None:
        tell(Progress("reading", done, count))

    height = network.config.image_height
    new, losses = read_bags(bags, config, height, localizer, reading)
    memory = load_memory(weights)
    if memory is not None:  # a bag that is given again was read anew
        memory = memory.subset(np.flatnonzero([memory.names[i] not in new.names for i in memory.recording]))
    sets = [] if memory is None or not len(memory) else [memory]
    if earlier_bags:
        read, lost = read_bags(earlier_bags, config, height, localizer, reading)
        sets.append(read)
        losses = losses + lost
    usable = [part for part in sets if part.size == new.size]
    if len(usable) < len(sets):
        losses = [*losses, f"earlier frames of another image size than {new.size} are not replayed"]
    earlier = join(usable) if usable else None
    if earlier is None:
        losses = [*losses, "there are no earlier frames to replay: old places may be forgotten"]
    run.keep(new, earlier, losses)
    prepared = run.prepared()  # as an interrupted run will find them
    assert prepared is not None
    return prepared


def _with_replay(new: FrameSet, earlier: FrameSet, config: FinetuneConfig) -> FrameSet:
    return with_replay(new, earlier, config.replay_fraction, np.random.default_rng([config.seed, 2]))


def _reporter(
    tell: Callable[[Progress], None], config: FinetuneConfig
) -> Callable[[str, int, int, float, dict[str, float]], None]:
    """Tells the trainer's numbers by the names of ``Progress``."""

    def report(phase: str, done: int, steps: int, seconds: float, numbers: dict[str, float]) -> None:
        loss = next((numbers[name] for name in ("loss", "nll", "pixels") if name in numbers), math.nan)
        temperature = numbers.get("temperature", math.nan)
        effective = numbers.get("effective", math.nan) * config.pose_batch
        eta = (steps - done) * seconds / done
        if config.max_duration > 0:
            eta = min(eta, max(0.0, config.max_duration - seconds))
        tell(Progress("training", done, steps, phase, loss, temperature, effective, eta))

    return report


def _judge(
    old: tuple[PoseNetwork, CovarianceFactors],
    new: tuple[PoseNetwork, CovarianceFactors],
    frames: FrameSet,
    earlier: FrameSet | None,
    config: FinetuneConfig,
) -> Verdict:
    """Compare weights on the frames of the new bags, and of the earlier ones where enough are kept."""
    sets = {"new": frames.of(Role.JUDGE)}
    if earlier is not None and earlier.count(Role.JUDGE) >= LEAST[Role.JUDGE]:
        sets["earlier"] = earlier.of(Role.JUDGE)
    pairs = {
        name: (measure(*old, images, config.trim, config.device), measure(*new, images, config.trim, config.device))
        for name, images in sets.items()
    }
    return verdict(pairs, config)


def _keep(
    network: PoseNetwork,
    factors: CovarianceFactors,
    frames: FrameSet,
    initial: Path,
    result: Result,
    config: FinetuneConfig,
) -> None:
    """Write the accepted weights with what belongs to them; the weights last, so that they never stand alone."""
    assert result.weights is not None
    CovarianceCalibration({"regressor": factors}, {"frames": frames.count(Role.CALIBRATE)}).save_beside(result.weights)
    remembered(frames, config.memory).save(memory_file(result.weights))
    history = {"initial": initial.name, "recordings": list(frames.names), "report": result.to_dict()}
    details = {**load_details(initial), "finetuned": history}
    save_network(network, result.weights, details)
