"""The tracker on rendered rooms with the true flow: little drift through removed keyframes, slow starts and gaps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_tracker import CONFIG, error_share

from robust_loc.data.synthetic import SequenceConfig, render_sequence
from robust_loc.odometry import Odometry, OracleOperator
from robust_loc.types import Frame

SEEDS = (0, 1, 2, 3)
ROOM = SequenceConfig(kind="room", frames=44, width=128, height=96, rate=(10.0, 20.0))


@pytest.fixture(scope="module")
def rooms() -> dict[int, list[Frame]]:
    return {seed: list(render_sequence(ROOM, seed)) for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [3.0, 8.0])
def test_a_rendered_room_is_tracked_within_half_a_percent_of_the_path(rooms, seed: int, threshold: float) -> None:
    """Through the removal of few and of many keyframes, with three gaps in time."""
    gaps = (*range(15, 19), 25, 26, 33)
    frames = [frame for i, frame in enumerate(rooms[seed]) if i not in gaps]
    odometry = Odometry(
        replace(CONFIG, seed=seed, keyframe_threshold=threshold), OracleOperator(CONFIG.patches_per_frame)
    )
    for frame in frames:
        odometry.update(frame)
    assert error_share(odometry, frames) < 0.005
