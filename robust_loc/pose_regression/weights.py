"""Scene weights on disk: one safetensors file with the network's configuration in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import robust_loc
from robust_loc.errors import ConfigurationError, WeightsError
from robust_loc.pose_regression.config import PoseNetworkConfig
from robust_loc.pose_regression.network import PoseNetwork
from robust_loc.pose_regression.transformer import PoseTransformer

FORMAT = "robust_loc pose network 2"
TRANSFORMER_FORMAT = "robust_loc pose transformer 1"


def save_network(network: PoseNetwork, path: str | Path, details: Mapping[str, Any] | None = None) -> None:
    """Write the network, its configuration and free-form ``details`` (JSON) under a temporary name, then rename."""
    _save(network, network.config, path, FORMAT, details)


def save_transformer(
    transformer: PoseTransformer,
    config: PoseNetworkConfig,
    path: str | Path,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a pre-trained transformer and the configuration of the networks it fits."""
    _save(transformer, config, path, TRANSFORMER_FORMAT, details)


def _save(
    module: nn.Module, config: PoseNetworkConfig, path: str | Path, kind: str, details: Mapping[str, Any] | None
) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": kind, "config": json.dumps(config.to_dict()), "details": json.dumps(dict(details or {}))}
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, header)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, kind: str, device: str = "cpu") -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt", device=device) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
    if header.get("format") != kind:
        raise WeightsError(f"{path}: expected weights of the kind {kind!r}, found {header.get('format')!r}")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise WeightsError(f"{path}: holds values that are not finite")
    return header, tensors


def load_network(path: str | Path, device: str = "cpu") -> PoseNetwork:
    """Read what :func:`save_network` wrote, in evaluation mode.

    Raises:
        WeightsError: if the file is missing, corrupt, of another kind, or does not fit its configuration.
    """
    path = Path(path)
    header, tensors = _read(path, FORMAT, device)
    try:
        network = PoseNetwork(PoseNetworkConfig.from_mapping(json.loads(header["config"])))
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError, ConfigurationError) as error:
        raise WeightsError(f"{path}: does not fit its own configuration: {error}") from error
    return network.to(device).eval()


def load_transformer(network: PoseNetwork, path: str | Path) -> None:
    """Put a pre-trained transformer into ``network``; WeightsError if it is of another shape or kind."""
    path = Path(path)
    _, tensors = _read(path, TRANSFORMER_FORMAT)
    try:
        network.transformer.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit this network: {error}") from error


def default_transformer() -> Path:
    """The pre-trained transformer that ships with the package, for the compact network; WeightsError if it is gone."""
    for folder in robust_loc.__path__:  # a source checkout and an installed package can both be there
        path = Path(folder) / "weights" / "pose_transformer.safetensors"
        if path.is_file():
            return path
    raise WeightsError("the package holds no pre-trained pose transformer (weights/pose_transformer.safetensors)")


def load_details(path: str | Path) -> dict[str, Any]:
    """The ``details`` that were saved with the weights."""
    with safe_open(Path(path), "pt") as file:
        return json.loads((file.metadata() or {}).get("details", "{}"))


def load_published(network: PoseNetwork, encoder: str | Path | None = None, head: str | Path | None = None) -> None:
    """Load a published ACE encoder and map file into a network of ``PoseNetworkConfig.published()``.

    Both are plain state dictionaries, read with ``weights_only=True``; half precision is converted.

    Raises:
        WeightsError: if a file cannot be read, or its names or shapes are not the published ones.
    """
    parts: list[tuple[torch.nn.Module, str | Path | None]] = [(network.encoder, encoder), (network.scene, head)]
    for module, path in parts:
        if path is None:
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict({name: value.float() for name, value in state.items()})
        except Exception as error:  # torch.load raises what its unpickler raises
            raise WeightsError(f"{path}: not a published {type(module).__name__} file: {error}") from error
