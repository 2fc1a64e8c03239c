"""The patch network: encoders, patch extraction and the update operator, with the official checkpoint's names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_loc.config import Config, parameter
from robust_loc.errors import ConfigurationError, WeightsError
from robust_loc.odometry.correlation import DIMENSION, correlate, feature_pyramid
from robust_loc.odometry.encoder import Encoder
from robust_loc.odometry.lanes import in_lanes
from robust_loc.odometry.patches import random_centres, windows
from robust_loc.odometry.update import EdgeGroups, Revision, UpdateOperator
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors

ARCHITECTURE = "robust_loc.odometry.PatchNetwork"


@dataclass(frozen=True)
class PatchNetworkConfig(Config):
    """Widths of the network; the defaults are those of the official checkpoint."""

    hidden: int = parameter(384, "size of the hidden state and of the context features", minimum=8, maximum=2048)
    features: int = parameter(128, "channels of the matching features", minimum=8, maximum=1024)
    width: int = parameter(32, "channels of the encoders' first stage", minimum=4, maximum=512)

    @classmethod
    def compact(cls) -> PatchNetworkConfig:
        """A network of the same family that a CPU runs at camera rate."""
        return cls(hidden=128, features=64, width=16)


class FrameFeatures(NamedTuple):
    """What the network extracts from ``n`` frames with ``M`` patches each; patches form one flat list of ``K = n M``.

    Attributes:
        centres: [n, M, 2] patch centres (x, y), integer quarter-resolution pixels.
        gmap: [K, 3, 3, C] matching features of each patch.
        context: [K, D] context features of each patch.
        pyramid: channels-last matching features [n, h, w, C] and [n, h // 4, w // 4, C].
    """

    centres: Tensor
    gmap: Tensor
    context: Tensor
    pyramid: tuple[Tensor, Tensor]


class Patchifier(nn.Module):
    """The two encoders: ``fnet`` for matching (instance-normalised), ``inet`` for context.

    Attributes:
        exported: stands in for the encoders' convolutions, where set: normalised images -> the outputs of
            :meth:`convolutions`.
    """

    def __init__(self, config: PatchNetworkConfig) -> None:
        super().__init__()
        self.exported: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        self.fnet = Encoder(config.features, width=config.width, normalized=True)
        self.inet = Encoder(config.hidden, width=config.width, normalized=False)

    def forward(self, images: Tensor, centres: Tensor) -> FrameFeatures:
        """images: [n, 3, H, W] RGB 0..255, H and W multiples of 16; centres: [n, M, 2]."""
        normalized = normalize(images, self.fnet.conv1.weight.dtype)
        # The last convolution of the context is pointwise, so it is needed at the patches alone.
        features, trunk = (self.exported or self.convolutions)(normalized)
        gmap = windows(features, centres, radius=1).permute(0, 1, 3, 4, 2).flatten(0, 1)
        trunk = windows(trunk, centres, radius=0)
        context = self.inet.head(trunk.flatten(2).flatten(0, 1))
        return FrameFeatures(centres, gmap, context, feature_pyramid(features))

    def convolutions(self, normalized: Tensor) -> tuple[Tensor, ...]:
        """Matching features [n, C, H/4, W/4], and the context encoder's trunk [n, 2 width, H/4, W/4]."""
        encoders = (partial(self.fnet, normalized), partial(self.inet.trunk, normalized))
        on_cpu = normalized.device.type == "cpu" and not torch.is_grad_enabled()
        return tuple(in_lanes(encoders) if on_cpu else [encoder() for encoder in encoders])


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """RGB images [n, 3, H, W] in 0..255 -> the network's input: BGR in -0.5..1.5."""
    if images.shape[-2] % 16 or images.shape[-1] % 16:
        raise ValueError(f"image size is {images.shape[-1]}x{images.shape[-2]}; both must be multiples of 16")
    return (2 * (images.flip(1).to(dtype) / 255) - 0.5).contiguous(memory_format=torch.channels_last)


class PatchNetwork(nn.Module):
    """DPVO's network. State-dict names and shapes at full width are those of the official ``dpvo.pth``.

    Use :meth:`extract` once per frame, then :meth:`revise` once per step over all edges.

    Attributes:
        covariance_scale: factor on the tracker's covariances that held-out data asked for; travels with the weights.
        covariance_factors: those stored beside the weights by ``robust-loc calibrate-covariance``, on top of it.
    """

    def __init__(self, config: PatchNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or PatchNetworkConfig()
        self.covariance_scale = 1.0
        self.covariance_factors = CovarianceFactors()
        self.patchify = Patchifier(self.config)
        self.update = UpdateOperator(self.config.hidden, DIMENSION)

    def extract(
        self,
        images: Tensor,
        patches_per_frame: int = 80,
        *,
        centres: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FrameFeatures:
        """Features and patches of RGB images [n, 3, H, W] (0..255); centres are drawn at random unless given."""
        if centres is None:
            height, width = images.shape[-2] // 4, images.shape[-1] // 4
            centres = random_centres(len(images), patches_per_frame, height, width, generator)
        return self.patchify(images, centres.to(images.device))

    def revise(
        self,
        hidden: Tensor,
        features: FrameFeatures,
        coords: Tensor,
        ii: Tensor,
        jj: Tensor,
        kk: Tensor,
        *,
        groups: EdgeGroups | None = None,
        backward_fraction: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Revision:
        """One step of the update operator.

        Args:
            hidden: [E, D], zeros for new edges.
            features: of all frames and patches the edges name.
            coords: [E, 3, 3, 2] current reprojections.
            ii, jj, kk: [E] source frame, target frame, patch.
            groups: of these edges, when the caller keeps them between steps.
            backward_fraction: see :func:`robust_loc.odometry.correlation.correlate`.
        """
        volume = correlate(
            features.gmap, features.pyramid, coords, jj, kk, backward_fraction=backward_fraction, generator=generator
        )
        groups = EdgeGroups.of(ii, jj, kk) if groups is None else groups
        return self.update(hidden, features.context[kk], volume, groups)

    # --- weights ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | torch.device = "cpu") -> PatchNetwork:
        """Load our ``.safetensors`` (its header names the architecture) or the official ``dpvo.pth``.

        Raises:
            WeightsError: if the file is missing, unreadable, or of another architecture.
            ConfigurationError: if the covariance factors stored beside it cannot be read.
        """
        path = Path(path)
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file")
        ours = path.suffix == ".safetensors"
        state, config, covariance_scale = _read_safetensors(path) if ours else (*_read_official(path), 1.0)
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then overwritten
            network = cls(config)
        _check_architecture(path, state, network.state_dict())
        network.load_state_dict(state)
        network.covariance_scale = covariance_scale
        network.covariance_factors = CovarianceCalibration.load_beside(path).of("odometry")
        return network.to(device).eval()

    def save(self, path: str | Path, extra: Mapping[str, str] | None = None) -> None:
        """Write a ``.safetensors`` whose header holds the architecture, the widths, the factor on covariances and
        ``extra`` entries."""
        from safetensors.torch import save_file

        path = Path(path)
        metadata = {
            "architecture": ARCHITECTURE,
            "config": json.dumps(asdict(self.config)),
            "covariance_scale": repr(self.covariance_scale),
            **(extra or {}),
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        partial = path.with_name(path.name + ".part")
        save_file(state, str(partial), metadata=metadata)
        partial.replace(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], PatchNetworkConfig, float]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    if metadata.get("architecture") != ARCHITECTURE:
        found = metadata.get("architecture", "no architecture entry")
        raise WeightsError(f"{path}: expected weights of {ARCHITECTURE}; its header has {found!r}")
    try:
        config = PatchNetworkConfig.from_mapping(json.loads(metadata["config"]))
        scale = float(metadata.get("covariance_scale", "1"))
    except (KeyError, ValueError, TypeError, ConfigurationError) as error:
        raise WeightsError(f"{path}: the header's 'config' or 'covariance_scale' is unusable: {error}") from error
    if not 0 < scale < float("inf"):
        raise WeightsError(f"{path}: the header's 'covariance_scale' is {scale}; expected a positive number")
    return state, config, scale


def _read_official(path: Path) -> tuple[dict[str, Tensor], PatchNetworkConfig]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on corrupt or unsafe files
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a readable torch checkpoint: {cause}") from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: expected a dictionary of tensors (a state dict)")
    state = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return {name: tensor for name, tensor in state.items() if "update.lmbda" not in name}, PatchNetworkConfig()


def _check_architecture(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        example = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
        raise WeightsError(
            f"{path}: weights of another architecture: {len(missing)} tensors missing, "
            f"{len(unknown)} unknown ({example})"
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: weights of another architecture: {name!r} has shape {tuple(found[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
