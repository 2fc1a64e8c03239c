"""What several folders' tests share: a rendered room and a map of it, made once per session."""

from itertools import islice

import pytest


@pytest.fixture(scope="session")
def room():
    """48 frames over two fifths of a turn, with exact depth and poses."""
    from robust_loc.data.synthetic import demo_sequence

    return list(islice(demo_sequence(120), 48))


@pytest.fixture(scope="session")
def room_map(room):
    """A map of every fourth frame."""
    from robust_loc.mapping import MapBuilder, MappingConfig

    builder = MapBuilder(config=MappingConfig(keyframe_distance=0.0, keyframe_angle=0.0, points_per_keyframe=250))
    for frame in room[::4]:
        builder.add(frame, frame.world_T_cam)
    return builder.finish({"recording": "room"})
