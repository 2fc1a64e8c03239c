"""The odometry's encoders as an exported network: the part of a frame that another runtime can take over."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from robust_loc.errors import WeightsError
from robust_loc.features.exported import Description, ExportedNetwork, export
from robust_loc.odometry.network import PatchNetwork

KIND = "odometry encoders"


class _Convolutions(nn.Module):
    def __init__(self, network: PatchNetwork) -> None:
        super().__init__()
        self.fnet, self.inet = network.patchify.fnet, network.patchify.inet

    def forward(self, normalized: Tensor) -> tuple[Tensor, Tensor]:
        return self.fnet(normalized), self.inet.trunk(normalized)


def export_encoders(network: PatchNetwork, height: int, width: int, path: str | Path) -> None:
    """Write both encoders for working images of this size (multiples of 16) to ``path`` (.onnx or .pt2)."""
    if height % 16 or width % 16:
        raise WeightsError(f"{path}: the size is {width}x{height}; both must be multiples of 16")
    export(_Convolutions(network), Description(KIND, (1, 3, height, width), _facts(network)), path)


def use_exported(network: PatchNetwork, path: str | Path, device: str | torch.device = "cpu", threads: int = 1) -> None:
    """Let the exported encoders at ``path`` do the convolutions of ``network``.

    Raises:
        WeightsError: the file is no such export, its runtime is missing, or it was made from other weights.
    """
    exported = ExportedNetwork(path, KIND, device, threads)
    if exported.description.facts != _facts(network):
        raise WeightsError(f"{path}: exported from other weights than those loaded: export them again")
    network.patchify.exported = exported


def _facts(network: PatchNetwork) -> dict[str, str]:
    from robust_loc.features.network import fingerprint

    return {"weights": fingerprint(network.patchify)}
