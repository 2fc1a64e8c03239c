"""A rendered room, and a map of it."""

from itertools import islice

import pytest

from robust_loc.data.synthetic import demo_sequence
from robust_loc.mapping import MapBuilder, MappingConfig


@pytest.fixture(scope="session")
def room():
    """48 frames over two fifths of a turn, with exact depth and poses."""
    return list(islice(demo_sequence(120), 48))


@pytest.fixture(scope="session")
def room_map(room):
    """A map of every fourth frame."""
    builder = MapBuilder(config=MappingConfig(keyframe_distance=0.0, keyframe_angle=0.0, points_per_keyframe=250))
    for frame in room[::4]:
        builder.add(frame, frame.world_T_cam)
    return builder.finish({"recording": "room"})
