"""Descriptor networks as :class:`DenseFeatures`, and their weights on disk.

Our weights are one safetensors file whose metadata names the architecture. The official checkpoints (Lightning:
``state_dict`` and ``hyper_parameters``) load as a pair of files.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robust_loc.errors import WeightsError
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.dense import DenseFeatures, FeatureMaps
from robust_loc.features.exported import Description, ExportedNetwork, export
from robust_loc.features.inception import InceptionCoarse, InceptionFine

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ARCHITECTURE = "robust_loc.features.compact-2"


def normalised(images: Tensor) -> Tensor:
    """uint8 RGB [..., 3, H, W] -> float32 with ImageNet's mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=images.device)[:, None, None]
    return (images.float() / 255 - mean) / std


class CompactFeatures(DenseFeatures):
    """The compact network; its fine head runs only when fine descriptors are asked for."""

    def __init__(self, network: CompactNetwork, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.coarse_channels, self.fine_channels = network.coarse_channels, network.fine_channels
        self.identity = f"compact-{fingerprint(network)}"

    @classmethod
    def from_file(cls, path: str | Path, device: str = "cpu") -> CompactFeatures:
        """Load weights written by :func:`save_compact`; WeightsError says what is wrong with the file."""
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, safetensors.SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error
        if metadata.get("architecture") != ARCHITECTURE:
            raise WeightsError(f"{path}: architecture is {metadata.get('architecture')!r}; expected {ARCHITECTURE!r}")
        network = CompactNetwork(int(metadata["coarse_channels"]), int(metadata["fine_channels"]))
        _load(network, state, path)
        return cls(network, device)

    def extract(self, image: NDArray[np.uint8]) -> FeatureMaps:
        with torch.inference_mode():
            two, four, coarse = self.network.trunk(_batch(image, self.device))

        def fine() -> Tensor:
            with torch.inference_mode():
                return _grid(self.network.fine(two, four))

        return FeatureMaps(_grid(coarse), fine)


class ExportedFeatures(DenseFeatures):
    """The compact network as an exported file; both heads run on every image."""

    KIND = "compact descriptors"

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 1) -> None:
        self._network = ExportedNetwork(path, self.KIND, device, threads)
        facts = self._network.description.facts
        self.device = torch.device(device)
        self.coarse_channels, self.fine_channels = facts["coarse_channels"], facts["fine_channels"]
        self.identity = facts["identity"]  # a map does not care what runs the network

    @classmethod
    def export(cls, features: CompactFeatures, height: int, width: int, path: str | Path) -> None:
        """Write the network of ``features`` for images of this size."""
        facts = {"identity": features.identity, "coarse_channels": features.coarse_channels}
        facts["fine_channels"] = features.fine_channels
        export(features.network, Description(cls.KIND, (1, 3, height, width), facts), path)

    def extract(self, image: NDArray[np.uint8]) -> FeatureMaps:
        coarse, fine = self._network(_batch(image, self.device))
        return FeatureMaps(_grid(coarse), lambda: _grid(fine))


class InceptionFeatures(DenseFeatures):
    """The paper's pair of networks."""

    def __init__(self, coarse: InceptionCoarse, fine: InceptionFine, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.coarse, self.fine = coarse.to(self.device).eval(), fine.to(self.device).eval()
        self.coarse_channels, self.fine_channels = coarse.channels, fine.channels
        self.identity = f"inception-{fingerprint(coarse)}-{fingerprint(fine)}"

    @classmethod
    def from_checkpoints(cls, coarse: str | Path, fine: str | Path, device: str = "cpu") -> InceptionFeatures:
        """Load the official pair of checkpoints; WeightsError names the first parameter that does not fit."""
        coarse_state, fine_state = _official_state(coarse), _official_state(fine)
        layer = "Mixed_7a" if any(name.startswith("cnn.15.branch7x7x3") for name in coarse_state) else "Mixed_6e"
        pair = InceptionCoarse(layer), InceptionFine()
        _load(pair[0], coarse_state, coarse)
        _load(pair[1], fine_state, fine)
        return cls(*pair, device)

    def extract(self, image: NDArray[np.uint8]) -> FeatureMaps:
        batch = _batch(image, self.device)

        def fine() -> Tensor:
            with torch.inference_mode():
                return _grid(self.fine(batch))

        with torch.inference_mode():
            return FeatureMaps(_grid(self.coarse(batch)), fine)


def save_compact(path: str | Path, network: CompactNetwork, half: bool = False, **metadata: str) -> None:
    """Write the weights of a compact network atomically, with its architecture and ``metadata``.

    Args:
        half: as float16, to be shipped; they are read back as float32.
    """
    path = Path(path)
    facts = {"architecture": ARCHITECTURE, "coarse_channels": str(network.coarse_channels)}
    facts |= {"fine_channels": str(network.fine_channels), **metadata}
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        safetensors.torch.save_file(state, temporary, facts)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def fingerprint(network: nn.Module) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _batch(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    return normalised(torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None])


def _grid(features: Tensor) -> Tensor:
    return features[0].permute(1, 2, 0).float().cpu().contiguous()


def _official_state(path: str | Path) -> dict[str, Any]:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: cannot be read as a checkpoint: {error}") from error
    state = document.get("state_dict", document) if isinstance(document, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: holds no 'state_dict'")
    named = {name[name.index("cnn.") :]: value for name, value in state.items() if "cnn." in name}
    if not named:
        raise WeightsError(f"{path}: holds no parameter named 'cnn.*'")
    return named


def _load(network: nn.Module, state: dict[str, Any], path: str | Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        cause = str(error).splitlines()
        first = cause[min(1, len(cause) - 1)].strip()
        raise WeightsError(f"{path}: does not fit {type(network).__name__}: {first}") from error
