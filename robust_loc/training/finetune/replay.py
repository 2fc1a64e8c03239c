"""Replay: frames of earlier bags, kept beside the weights, so that learning a new place does not erase the old ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_loc.training.finetune.frames import SUFFIX, FrameSet, Role, join
from robust_loc.training.regressor_data import PosedImages

BLOCK = 5


def memory_file(weights: str | Path) -> Path:
    """Where the frames to replay with ``weights`` lie."""
    weights = Path(weights)
    return weights.with_name(f"{weights.stem}{SUFFIX}")


def load_memory(weights: str | Path) -> FrameSet | None:
    """The frames kept with ``weights``, or None; WeightsError for a damaged file."""
    path = memory_file(weights)
    return FrameSet.load(path) if path.is_file() else None


def with_replay(new: FrameSet, earlier: FrameSet, fraction: float, generator: np.random.Generator) -> FrameSet:
    """The new frames and a random sample of the earlier training frames, which are ``fraction`` of all that train.

    Earlier frames that are held out stay out: they calibrate and judge together with the new ones.
    """
    wanted = round(fraction / (1.0 - fraction) * new.count(Role.TRAIN))
    train = np.flatnonzero(earlier.role == Role.TRAIN)
    chosen = np.sort(generator.permutation(train)[:wanted])
    held_out = np.flatnonzero(earlier.role != Role.TRAIN)
    return join([new, earlier.subset(np.concatenate([chosen, held_out]))])


def remembered(frames: FrameSet, limit: int) -> FrameSet:
    """At most ``limit`` frames: the same number of every recording, evenly spaced, roles in proportion."""
    rows: list[NDArray[np.intp]] = []
    left, groups = limit, [np.flatnonzero(frames.recording == index) for index in range(len(frames.names))]
    for position, group in enumerate(sorted(groups, key=len)):  # what a short one leaves over goes to the longer
        quota = min(len(group), left // (len(groups) - position))
        left -= quota
        if not quota:
            continue
        for role in Role:
            members = group[frames.role[group] == role]
            share = round(quota * len(members) / len(group))
            if share:
                rows.append(members[np.linspace(0, len(members) - 1, share).round().astype(int)])
    return frames.subset(np.sort(np.concatenate(rows)) if rows else np.zeros(0, np.intp))


def memory_of(trained: PosedImages, held_out: PosedImages, name: str, limit: int) -> FrameSet:
    """The memory of weights that were trained from scratch; the held-out frames calibrate and judge in turns."""
    turns = np.arange(len(held_out)) // BLOCK % 2  # they come in blocks of neighbouring frames
    role = np.where(turns == 0, Role.CALIBRATE, Role.JUDGE).astype(np.int8)

    def of(images: PosedImages, role: NDArray[np.int8]) -> FrameSet:
        return FrameSet(images, role, np.zeros(len(images), np.int32), (name,))

    return remembered(join([of(trained, np.full(len(trained), Role.TRAIN, np.int8)), of(held_out, role)]), limit)
