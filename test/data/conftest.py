"""Small recordings made by the tests themselves, and the real ones where they are installed."""

import os
from pathlib import Path

import pytest
from small_recordings import make_frames, write_bag

from robust_loc.types import Frame


@pytest.fixture
def frames() -> list[Frame]:
    return make_frames(12)


@pytest.fixture(params=["bag.mcap", "bag.db3", "folder"])
def bag_path(request, tmp_path, frames) -> Path:
    return write_bag(tmp_path / request.param, frames)


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("ROBUST_LOC_DATA")
    if not folder:
        pytest.skip("ROBUST_LOC_DATA is not set: the real recordings are not installed")
    return Path(folder)
