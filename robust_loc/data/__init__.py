"""Recordings in and out: bags, dataset folders, trajectories, synthetic worlds."""

from robust_loc.data.bag import Bag, open_bag
from robust_loc.data.results import ResultsWriter, read_source, run_description, sources_in, trajectory_of
from robust_loc.data.trajectory import Trajectory, associate, read_kitti_poses, read_tum, write_tum
from robust_loc.data.writer import BagWriter

__all__ = [
    "Bag",
    "BagWriter",
    "ResultsWriter",
    "Trajectory",
    "associate",
    "open_bag",
    "read_kitti_poses",
    "read_source",
    "read_tum",
    "run_description",
    "sources_in",
    "trajectory_of",
    "write_tum",
]
