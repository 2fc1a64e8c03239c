"""The network weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

import robust_loc
from robust_loc.errors import WeightsError

FILE = "odometry.safetensors"


def default_weights() -> Path:
    """The path of the package's odometry weights; raises WeightsError where the package holds none."""
    for folder in robust_loc.__path__:  # a source checkout and an installed package can both be there
        path = Path(folder) / "weights" / FILE
        if path.is_file():
            return path
    raise WeightsError(f"the package holds no odometry weights (weights/{FILE}); name some")
