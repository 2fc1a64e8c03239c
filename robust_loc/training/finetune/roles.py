"""Which frames are held out: stretches of time, since neighbouring frames are almost the same image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robust_loc.training.finetune.frames import Role

_SECOND = 1_000_000_000


def roles_over_time(stamps: NDArray[np.int64], stretch: float, held_out: float) -> NDArray[np.int8]:
    """The role of each frame of one recording.

    The recording is cut into stretches of about ``stretch`` seconds, at least two. The end of each, a share of
    ``held_out`` of its time, is held out: in turns to calibrate and to judge.

    Args:
        stamps: (n,) nanoseconds.
    """
    role = np.full(len(stamps), Role.TRAIN, np.int8)
    if len(stamps) < 2:
        return role
    first, last = int(stamps.min()), int(stamps.max())
    count = max(2, 2 * round((last - first) / (2 * stretch * _SECOND)))  # even: as much to judge as to calibrate
    position = (stamps - first) / max(last - first, 1) * count
    index = np.minimum(position.astype(np.int64), count - 1)
    end = position - index >= 1.0 - held_out
    role[end & (index % 2 == 0)] = Role.CALIBRATE
    role[end & (index % 2 == 1)] = Role.JUDGE
    return role
