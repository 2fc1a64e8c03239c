"""Readers of public dataset layouts; each turns a folder into a ``Recording``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from robust_loc.data.datasets.euroc import read_euroc
from robust_loc.data.datasets.folder import read_folder
from robust_loc.data.datasets.kitti import read_kitti
from robust_loc.data.datasets.recording import RecordedImage, Recording
from robust_loc.data.datasets.seven_scenes import read_seven_scenes
from robust_loc.data.datasets.tartanair import read_tartanair
from robust_loc.data.datasets.tum import read_tum_rgbd

READERS: dict[str, Callable[[Path], Recording]] = {
    "folder": read_folder,
    "tum": read_tum_rgbd,
    "euroc": read_euroc,
    "7scenes": read_seven_scenes,
    "tartanair": read_tartanair,
    "kitti": read_kitti,
}

__all__ = [
    "READERS",
    "RecordedImage",
    "Recording",
    "read_euroc",
    "read_folder",
    "read_kitti",
    "read_seven_scenes",
    "read_tartanair",
    "read_tum_rgbd",
]
