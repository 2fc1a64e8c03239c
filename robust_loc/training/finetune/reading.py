"""Bags to labelled frames: everything usable is used, what was lost is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robust_loc.data import Bag, open_bag
from robust_loc.errors import BagError, RobustLocError
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.frames import FrameSet, Role, join
from robust_loc.training.finetune.labels import Localizer, believable, label_source
from robust_loc.training.finetune.roles import roles_over_time
from robust_loc.training.regressor_data import PosedImages
from robust_loc.types import Frame

LEAST = {Role.TRAIN: 30, Role.CALIBRATE: 10, Role.JUDGE: 10}  # frames
_FIXES = 60  # frames of a bag that the localizer is asked about to place odometry

Reading = Callable[[int, int], None]  # frames read, of about so many


def read_bags(
    bags: Sequence[str | Path],
    config: FinetuneConfig,
    height: int,
    localizer: Localizer | None = None,
    progress: Reading = lambda done, count: None,
) -> tuple[FrameSet, list[str]]:
    """Labelled frames of all bags that can be read, with their roles, and a sentence about everything that was lost.

    Raises:
        BagError: no bag gives labelled frames, or too few to train on and to judge by.
    """
    losses: list[str] = []
    opened: list[Bag] = []
    for path in bags:
        try:
            bag = open_bag(path, config.image_topic or None)
            len(bag)  # finds the camera
            opened.append(bag)
        except RobustLocError as error:
            losses.append(str(error))
    total = sum(map(len, opened))
    every = max(1, -(-total // config.maximum_frames))
    parts: list[FrameSet] = []
    done = 0
    for bag in opened:
        before = done

        def count(index: int, before: int = before) -> None:
            progress(before + index, total)

        try:
            part = _read(bag, config, height, every, localizer, count, losses)
            if parts and part.size != parts[0].size:
                raise BagError(f"{bag.path}: its images are {part.size}, not {parts[0].size} (height, width); left out")
            parts.append(part)
        except RobustLocError as error:
            losses.append(str(error))
        losses += [f"{bag.path}: {loss}" for loss in bag.losses]
        done += len(bag)
    said = "; ".join(losses)
    if not parts:
        raise BagError(f"none of the {len(bags)} bags gives labelled frames: {said}")
    frames = join(parts)
    for role, least in LEAST.items():
        if frames.count(role) < least:
            raise BagError(
                f"{len(frames)} labelled frames leave {frames.count(role)} to {role.name.lower()}; fine-tuning takes "
                f"{least}: give longer bags or hold out another share" + (f" ({said})" if said else "")
            )
    return frames, losses


def _read(
    bag: Bag,
    config: FinetuneConfig,
    height: int,
    every: int,
    localizer: Localizer | None,
    progress: Callable[[int], None],
    losses: list[str],
) -> FrameSet:
    some = max(1, len(bag) // _FIXES)
    label = label_source(bag, config, localizer, (frame for i, frame in enumerate(bag) if i % some == 0))
    seen = 0

    def labelled() -> Iterator[Frame]:
        nonlocal seen
        for index, frame in enumerate(bag):
            progress(index)
            if index % every == 0:
                seen += 1
                yield replace(frame, world_T_cam=label(frame))

    try:
        images = PosedImages.from_frames(labelled(), height)
    except BagError as error:
        raise BagError(f"{bag.path}: {error}") from error
    if missing := seen - len(images):
        losses.append(f"{bag.path}: {missing} of {seen} images have no label and are not used")
    order = np.argsort(images.stamps, kind="stable")
    images = images.subset(order)
    good = believable(images.stamps, images.world_T_cam[:, :3, 3].double().numpy(), config.maximum_speed)
    if not good.all():
        losses.append(
            f"{bag.path}: {int((~good).sum())} labels jump faster than {config.maximum_speed:g} m/s and are not used"
        )
        if not good.any():
            raise BagError(f"{bag.path}: no label is left; is maximum_speed too low?")
        images = images.subset(np.flatnonzero(good))
    role = roles_over_time(images.stamps, config.stretch, config.holdout_fraction)
    name = f"{bag.path.name} of {images.stamps[0] / 1e9:.3f} s"
    return FrameSet(images, role, np.zeros(len(images), np.int32), (name,))
