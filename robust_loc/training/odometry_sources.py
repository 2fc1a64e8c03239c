"""Where training sequences come from: rendered clips, TartanAir, recordings in the package's folder layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.datasets import READERS, Recording
from robust_loc.data.synthetic.cache import list_clips
from robust_loc.errors import DatasetError
from robust_loc.training.covisibility import covisibility
from robust_loc.training.odometry_data import RenderedSequence, TrainingSequence

KINDS = ("rendered", "tartanair", "folder")


class RecordingSequence:
    """The frames of a dataset recording that have depth and a pose, read from disk as they are needed."""

    def __init__(self, recording: Recording) -> None:
        truth = recording.ground_truth
        if truth is None or recording.read_depth is None:
            raise DatasetError(f"{recording.name}: has no ground truth or no depth; training needs both")
        poses = [None if item.depth is None else truth.at(item.stamp) for item in recording.images]
        self._index = [i for i, pose in enumerate(poses) if pose is not None]
        if len(self._index) < 2:
            raise DatasetError(f"{recording.name}: fewer than two frames have depth and a pose")
        self._recording = recording
        self.world_T_cam = np.stack([pose for pose in poses if pose is not None])
        self.camera = next(recording.frames(self._index[0], self._index[0] + 1)).camera

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        return covisibility(self.read(range(len(self)))[1], self.world_T_cam, self.camera)

    def read(self, index: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        frames = [next(self._recording.frames(self._index[i], self._index[i] + 1)) for i in index]
        return np.stack([f.image for f in frames]), np.stack([f.depth for f in frames if f.depth is not None])


class Mixture(NamedTuple):
    """Sequences and the weight with which each is drawn."""

    sequences: list[TrainingSequence]
    weights: list[float]


def open_sources(sources: Sequence[str]) -> Mixture:
    """Open sources written ``KIND:PATH`` or ``KIND:PATH:WEIGHT``.

    ``rendered``: a folder of rendered clips; ``tartanair``: a folder of a trajectory, or above several; ``folder``: a
    recording in the package's folder layout, with depth for the frames to train on. Each source is drawn in
    proportion to its weight (default 1), its sequences in proportion to their lengths.

    Raises:
        DatasetError: on an unknown kind, a weight that is no number, or a source without a usable sequence.
    """
    mixture = Mixture([], [])
    for source in sources:
        kind, path, weight = _parse(source)
        sequences = _open(kind, path)
        if not sequences:
            raise DatasetError(f"{path}: no sequence of kind {kind!r} found there")
        total = sum(len(s) for s in sequences)
        mixture.sequences.extend(sequences)
        mixture.weights.extend(weight * len(s) / total for s in sequences)
    return mixture


def _parse(source: str) -> tuple[str, Path, float]:
    kind, separator, rest = source.partition(":")
    if not separator or kind not in KINDS:
        raise DatasetError(f"source {source!r}: expected KIND:PATH[:WEIGHT] with KIND one of {', '.join(KINDS)}")
    path, separator, weight = rest.rpartition(":")
    if not separator:
        return kind, Path(rest), 1.0
    try:
        return kind, Path(path), float(weight)
    except ValueError:
        return kind, Path(rest), 1.0  # a colon of the path


def _open(kind: str, path: Path) -> list[TrainingSequence]:
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder")
    if kind == "rendered":
        return [RenderedSequence(clip) for clip in list_clips(path)]
    folders = [path]
    if kind == "tartanair":
        folders = sorted(p.parent for p in path.rglob("pose_left.txt"))
    return [RecordingSequence(READERS[kind](folder)) for folder in folders]
