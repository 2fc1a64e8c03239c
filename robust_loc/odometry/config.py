"""Configuration of the odometry and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robust_loc.config import Config, parameter
from robust_loc.errors import ConfigurationError

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {
        "patches_per_frame": 48,
        "removal_window": 16,
        "optimization_window": 7,
        "patch_lifetime": 11,
    },
    "cpu": {
        "image_pixels": 172800,  # 480x360
        "patches_per_frame": 32,
        "removal_window": 10,
        "optimization_window": 7,
        "patch_lifetime": 8,
        "keyframe_threshold": 7.5,
        # the compact network answers a first look at large motion with small revisions: see its model card
        "motion_threshold": 0.3,
        "motion_damping": 1.0,
    },
}


@dataclass(frozen=True)
class OdometryConfig(Config):
    """The tracker's parameters. Pixels are quarter-resolution pixels of the working image unless said otherwise."""

    image_pixels: int = parameter(
        307200, "pixels of the working image; larger images are scaled down, 0 never scales", minimum=0, maximum=2**26
    )
    patches_per_frame: int = parameter(96, "patches tracked per frame", minimum=8, maximum=1024)
    patch_lifetime: int = parameter(13, "frames into which a patch is tracked", minimum=2, maximum=64)
    removal_window: int = parameter(22, "keyframes whose patches stay in the graph", minimum=5, maximum=128)
    optimization_window: int = parameter(10, "keyframes whose poses are optimised", minimum=2, maximum=128)
    keyframe_threshold: float = parameter(15.0, "flow below which a keyframe is removed", minimum=0.0)
    keyframe_index: int = parameter(4, "age of the keyframe that may be removed", minimum=2, maximum=16)
    motion_threshold: float = parameter(2.0, "flow below which a frame is dropped before start-up", minimum=0.0)
    still_threshold: float = parameter(0.1, "flow below which the camera stands still after start-up", minimum=0.0)
    adjustments: int = parameter(4, "bundle-adjustment iterations per update", minimum=1, maximum=20)
    motion_damping: float = parameter(0.5, "share of the last motion that is extrapolated", minimum=0.0, maximum=1.0)
    initial_frames: int = parameter(8, "frames that make the first map", minimum=5, maximum=32)
    initial_updates: int = parameter(12, "updates at start-up and at the end of a recording", minimum=1, maximum=100)
    gradient_bias: bool = parameter(False, "prefer textured patches to uniformly random ones")
    minimum_contrast: float = parameter(
        2.0, "standard deviation in grey levels below which an image is not used", minimum=0.0, maximum=128.0
    )
    minimum_support: float = parameter(
        0.03, "mean weight of the edges into the newest frame below which it is unreliable", minimum=0.0, maximum=1.0
    )
    minimum_parallax: float = parameter(0.25, "flow by translation below which motion is degenerate", minimum=0.0)
    lost_after: int = parameter(10, "unreliable frames in a row after which tracking starts again", minimum=1)
    clock_jump: float = parameter(1.0, "seconds back in time that restart tracking; less is ignored", minimum=0.0)
    covariance_scale: float = parameter(
        1.0, "factor on all covariances, beside the weights' own", minimum=1e-6, maximum=1e6
    )
    keep_trajectory: bool = parameter(True, "keep every frame's pose for the refined trajectory at the end")
    device: str = parameter("auto", "torch device: auto, cpu, cuda or cuda:N")
    threads: int = parameter(0, "threads of the tracker on a CPU, 0: torch's number", minimum=0, maximum=64)
    mixed_precision: bool = parameter(False, "half precision for the network (poses stay in double precision)")
    encoders: str = parameter("", "file of 'robust-loc export odometry' that runs the encoders; empty: torch")
    seed: int = parameter(0, "seed of the patch positions and first depths", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimization_window > self.removal_window:
            raise ConfigurationError(
                f"OdometryConfig.optimization_window is {self.optimization_window}; "
                f"expected at most removal_window ({self.removal_window})"
            )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> OdometryConfig:
        """``default``, ``fast`` or ``cpu``, with single fields changed; ConfigurationError on another name."""
        if name not in PRESETS:
            raise ConfigurationError(f"unknown odometry preset {name!r}; expected one of {', '.join(PRESETS)}")
        return cls.from_mapping({**PRESETS[name], **overrides})
