"""Where training pairs come from: rendered clips, bags and dataset folders with depth and poses.

A recording is copied once into clips beside the run, thinned out in time, so that pairs are read as quickly as
rendered ones and the training does not know the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from robust_loc.data import Bag, open_bag
from robust_loc.data.datasets import READERS, Recording
from robust_loc.data.synthetic.cache import list_clips, write_clip
from robust_loc.errors import DatasetError

CLIP_FRAMES = 48  # of one clip: pairs are drawn within it
MAX_FRAMES = 960  # taken of one recording, evenly


def training_clips(sources: Sequence[str | Path], folder: Path, report: Callable[[str], None] = print) -> list[Path]:
    """The clips of all sources.

    Args:
        sources: each a folder of clips, a bag, or a dataset folder written ``KIND:PATH`` (``tum``, ``7scenes``,
            ``tartanair``, ``folder``, ...). Bags and datasets need depth and ground truth.
        folder: where clips of recordings are kept; those that are there already are taken as they are.

    Raises:
        DatasetError: a source that is none of these, or one without frames that have depth and pose.
    """
    clips: list[Path] = []
    for source in sources:
        kind, separator, path = str(source).partition(":")
        if separator and kind in READERS:
            clips += _converted(READERS[kind](Path(path)), Path(path), folder, report)
        elif Path(source).is_dir() and (found := list_clips(source)):
            clips += found
        elif Path(source).is_file() or any(name for end in ("mcap", "db3") for name in Path(source).glob(f"*.{end}")):
            clips += _converted(open_bag(source), Path(source), folder, report)
        else:
            raise DatasetError(f"{source}: expected a folder of clips, a bag, or KIND:FOLDER ({', '.join(READERS)})")
    return clips


def _converted(recording: Bag | Recording, path: Path, folder: Path, report: Callable[[str], None]) -> list[Path]:
    """The clips of a recording, written unless they are there; two recordings of one name do not meet."""
    folder = folder / f"{path.stem}_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]}"
    done = folder / "complete"
    if not done.is_file():
        usable = (frame for frame in recording if frame.depth is not None and frame.world_T_cam is not None)
        thinned = islice(usable, 0, None, max(1, -(-len(recording) // MAX_FRAMES)))
        number = 0
        while piece := list(islice(thinned, CLIP_FRAMES)):
            if len(piece) > 1:
                write_clip(folder / f"clip_{number:06d}.npz", piece, source=str(path))
                number += 1
        if number == 0:
            raise DatasetError(f"{path}: no two frames have depth and a pose; training needs them")
        done.touch()
        report(f"{path}: {number} clips in {folder}")
    return list_clips(folder)
