"""The folder of one run: what was asked, the frames it learns from, and whether it is to be gone on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from robust_loc import __version__
from robust_loc.data.files import write_atomically, writing
from robust_loc.errors import ConfigurationError, WeightsError
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.frames import FrameSet


class RunFolder:
    """Paths and bookkeeping of the run in ``path``.

    Raises:
        ConfigurationError: the folder holds a finished run, or an unfinished one that was asked something else.
    """

    def __init__(
        self,
        path: Path,
        bags: Sequence[str | Path],
        earlier_bags: Sequence[str | Path],
        weights: Path,
        config: FinetuneConfig,
    ) -> None:
        self.path = path
        self.weights = path / "weights.safetensors"
        self.report = path / "report.json"
        self.checkpoints = path / "checkpoints"
        self._frames = path / "frames.npz"
        self._earlier = path / "earlier.npz"
        self._said = path / "reading.json"
        run = path / "run.json"
        asked = {
            "bags": [str(Path(bag).resolve()) for bag in bags],
            "earlier_bags": [str(Path(bag).resolve()) for bag in earlier_bags],
            "weights": str(weights.resolve()),
            "digest": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "config": json.loads(json.dumps(config.to_dict(), default=str)),
        }
        if self.report.exists():
            raise ConfigurationError(f"{path}: holds a finished run; choose another folder")
        if run.exists():
            try:
                known = json.loads(run.read_text())
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"{run}: cannot be read ({error}); choose another folder") from error
            changed = [name for name in asked if known.get(name) != asked[name]]
            if changed:
                raise ConfigurationError(
                    f"{path}: holds an unfinished run with other {', '.join(changed)}; "
                    "choose another folder or remove it"
                )
        else:
            with writing(path):
                write_atomically(run, json.dumps({**asked, "version": __version__}, indent=1) + "\n")

    def prepared(self) -> tuple[FrameSet, FrameSet | None, list[str]] | None:
        """The frames that an interrupted run had read: new ones, earlier ones, what was lost; None if it had not."""
        if not self._said.exists():
            return None
        try:
            document = json.loads(self._said.read_text())
        except (OSError, ValueError) as error:
            raise WeightsError(f"{self._said}: cannot be read: {error}") from error
        earlier = FrameSet.load(self._earlier) if document["earlier"] else None
        return FrameSet.load(self._frames), earlier, document["losses"]

    def keep(self, new: FrameSet, earlier: FrameSet | None, losses: list[str]) -> None:
        """Remember what was read; the bags are not needed again (one that is being written has grown since)."""
        new.save(self._frames)
        if earlier is not None:
            earlier.save(self._earlier)
        with writing(self.path):
            write_atomically(self._said, json.dumps({"earlier": earlier is not None, "losses": losses}))

    def clean(self) -> None:
        """Remove what only an interrupted run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for file in (self._said, self._frames, self._earlier):
            file.unlink(missing_ok=True)
