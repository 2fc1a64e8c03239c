"""Floor 2: dense descriptors of stride 16 and 2, hand-made and learned, shared by relocalizer and regressor."""

from __future__ import annotations

from pathlib import Path

from robust_loc.errors import WeightsError
from robust_loc.features.dense import COARSE_STRIDE, FINE_STRIDE, DenseFeatures, FeatureMaps, sample
from robust_loc.features.handmade import HandmadeConfig, HandmadeFeatures

__all__ = [
    "COARSE_STRIDE",
    "FINE_STRIDE",
    "DenseFeatures",
    "FeatureMaps",
    "HandmadeConfig",
    "HandmadeFeatures",
    "load_features",
    "sample",
]


def load_features(name: str = "handmade", device: str = "cpu") -> DenseFeatures:
    """The descriptors called ``name``.

    Args:
        name: ``handmade``; ``compact``, the package's trained network; a safetensors file of that network, or one that
            ``robust-loc export features`` made of it (.onnx, .pt2); or the official pair ``COARSE.ckpt,FINE.ckpt``.

    Raises:
        WeightsError: when ``name`` is none of these or the file does not fit.
    """
    if name == "handmade":
        return HandmadeFeatures()
    from robust_loc.features.network import CompactFeatures, ExportedFeatures, InceptionFeatures

    if "," in name:
        coarse, fine = name.split(",", 1)
        return InceptionFeatures.from_checkpoints(coarse, fine, device)
    path = default_weights() if name == "compact" else Path(name)
    if not path.is_file():
        expected = "'handmade', 'compact', a weights file or 'COARSE.ckpt,FINE.ckpt'"
        raise WeightsError(f"features {name!r}: expected {expected}")
    if path.suffix in (".onnx", ".pt2"):
        return ExportedFeatures(name, device)
    return CompactFeatures.from_file(path, device)


def default_weights() -> Path:
    """The path of the package's compact network; raises WeightsError where the package holds none."""
    import robust_loc

    for folder in robust_loc.__path__:  # a source checkout and an installed package can both be there
        path = Path(folder) / "weights" / "features.safetensors"
        if path.is_file():
            return path
    raise WeightsError("the package holds no trained descriptors (weights/features.safetensors); name a file")
