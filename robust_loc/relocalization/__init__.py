"""Floor 3: the NRE relocalizer, from a map and one image to an absolute pose with its covariance."""

from robust_loc.relocalization.covariance import pose_covariance
from robust_loc.relocalization.gnc import GncConfig, refine, sigma_schedule
from robust_loc.relocalization.localizer import Relocalizer, RelocalizerConfig
from robust_loc.relocalization.loss_maps import LossMaps, correspondence_maps, refine_maps
from robust_loc.relocalization.map import Map, MapInfo
from robust_loc.relocalization.msac import MsacConfig, msac
from robust_loc.relocalization.verdict import Verdict

__all__ = [
    "GncConfig",
    "LossMaps",
    "Map",
    "MapInfo",
    "MsacConfig",
    "Relocalizer",
    "RelocalizerConfig",
    "Verdict",
    "correspondence_maps",
    "msac",
    "pose_covariance",
    "refine",
    "refine_maps",
    "sigma_schedule",
]
