"""The last good pose, kept in a small file and offered at the next start."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robust_loc.errors import ConfigurationError
from robust_loc.types import FloatArray

FORMAT = 1


@dataclass(frozen=True, eq=False)
class LastPose:
    """``map_T_base`` (4, 4) with its covariance (6, 6) at ``stamp``, in the map called ``map_name``."""

    stamp: int
    map_T_base: FloatArray
    covariance: FloatArray
    map_name: str = ""

    def save(self, path: str | Path) -> None:
        """Write json under a temporary name, then rename: a crash leaves the earlier file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "format": FORMAT,
            "stamp": int(self.stamp),
            "map": self.map_name,
            "map_T_base": self.map_T_base.tolist(),
            "covariance": self.covariance.tolist(),
        }
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as stream:
            json.dump(document, stream)
        os.replace(stream.name, path)

    @classmethod
    def load(cls, path: str | Path) -> LastPose | None:
        """The saved pose, None when there is none.

        Raises:
            ConfigurationError: if the file is damaged: not json, of another format, not a pose.
        """
        path = Path(path)
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text())
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}")
            pose = np.array(document["map_T_base"], float)
            covariance = np.array(document["covariance"], float)
            if (
                pose.shape != (4, 4)
                or covariance.shape != (6, 6)
                or not np.isfinite([*pose.flat, *covariance.flat]).all()
            ):
                raise ValueError("expected a finite 4x4 pose and a 6x6 covariance")
            return cls(int(document["stamp"]), pose, covariance, str(document["map"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path}: not a saved pose ({error}); delete it to start without one") from error
