"""Exported encoders give what the modules give that they were made from, in every runtime that is here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_loc.cli.export import command
from robust_loc.errors import WeightsError
from robust_loc.features import load_features
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.exported import Description, ExportedNetwork, export
from robust_loc.features.network import CompactFeatures, ExportedFeatures, save_compact
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.export import use_exported
from robust_loc.pose_regression.encoders import CompactEncoder, ExportedEncoder, HandmadeEncoder
from robust_loc.types import Camera, Frame


@pytest.fixture(params=[".pt2", ".onnx"])
def suffix(request) -> str:
    if request.param == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    return request.param


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 112, 3), dtype=np.uint8)


def test_the_odometry_runs_on_exported_encoders(tmp_path, suffix: str) -> None:
    """Written by the command line, read by the tracker's parameter: the same estimates."""
    torch.manual_seed(0)
    network = PatchNetwork(PatchNetworkConfig(hidden=8, features=8, width=4))
    network.save(tmp_path / "w.safetensors")
    file = tmp_path / f"encoders{suffix}"
    arguments = ["odometry", "-o", str(file), "--size", "112", "80", "--weights", str(tmp_path / "w.safetensors")]
    command.main(arguments, standalone_mode=False)
    camera = Camera(112, 80, 100.0, 100.0, 55.5, 39.5)
    trajectories = []
    for encoders in ("", str(file)):
        config = OdometryConfig(patches_per_frame=8, device="cpu", encoders=encoders, motion_threshold=0.0)
        odometry = Odometry(config, PatchNetwork.from_checkpoint(tmp_path / "w.safetensors"))
        odometry.update(Frame(image(), camera, 0))
        trajectories.append(odometry._map._operator._maps[0].clone())
    assert trajectories[0].abs().max() > 0.1
    torch.testing.assert_close(trajectories[0], trajectories[1], rtol=1e-4, atol=1e-4)


def test_exported_descriptors_are_the_networks(tmp_path, suffix: str) -> None:
    torch.manual_seed(1)
    save_compact(tmp_path / "w.safetensors", CompactNetwork(16, 12).eval())
    features = CompactFeatures.from_file(tmp_path / "w.safetensors")
    file = tmp_path / f"features{suffix}"
    arguments = ["features", "-o", str(file), "--size", "112", "80", "--weights", str(tmp_path / "w.safetensors")]
    command.main(arguments, standalone_mode=False)
    exported = load_features(str(file))
    assert isinstance(exported, ExportedFeatures)
    assert exported.identity == features.identity  # maps made with either fit both
    expected, found = features.extract(image()), exported.extract(image())
    torch.testing.assert_close(found.coarse, expected.coarse, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.fine, expected.fine, rtol=1e-4, atol=1e-4)


def test_an_exported_regressor_encoder_takes_its_place(tmp_path, suffix: str) -> None:
    torch.manual_seed(2)
    encoder = CompactEncoder().eval()
    file = tmp_path / f"encoder{suffix}"
    ExportedEncoder.export(encoder, 80, 112, file)
    exported = ExportedEncoder(file, encoder)
    x = torch.from_numpy(image()).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), encoder(x), rtol=1e-4, atol=1e-4)
    assert (exported.stride, exported.channels, exported.cell_offset) == (16, 128, 0.0)
    with pytest.raises(WeightsError, match="another encoder"):
        ExportedEncoder(file, CompactEncoder())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "tiny.pt2"
    export(torch.nn.Conv2d(3, 2, 3), Description("tiny", (1, 3, 8, 8), {}), file)
    return file


def test_what_does_not_fit_is_refused_with_the_reason(tiny, tmp_path) -> None:
    network = ExportedNetwork(tiny, "tiny")
    assert network(torch.zeros(1, 3, 8, 8))[0].shape == (1, 2, 6, 6)
    with pytest.raises(WeightsError, match="1x3x8x8, not 1x3x8x16"):
        network(torch.zeros(1, 3, 8, 16))
    with pytest.raises(WeightsError, match="holds 'tiny'; expected 'odometry encoders'"):
        use_exported(PatchNetwork(PatchNetworkConfig(hidden=8, features=8, width=4)), tiny)
    with pytest.raises(WeightsError, match="no such exported network"):
        ExportedNetwork(tmp_path / "absent.onnx", "tiny")
    (tmp_path / "noise.pt2").write_bytes(b"\x93" * 100)
    with pytest.raises(WeightsError, match="not a readable exported program"):
        ExportedNetwork(tmp_path / "noise.pt2", "tiny")
    with pytest.raises(WeightsError, match=".onnx or .pt2"):
        export(torch.nn.Conv2d(3, 2, 3), Description("tiny", (1, 3, 8, 8), {}), tmp_path / "tiny.bin")
    with pytest.raises(WeightsError, match="no network to export"):
        ExportedEncoder.export(HandmadeEncoder(), 80, 112, tmp_path / "hand.pt2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noise.pt2"]


def test_an_unreadable_onnx_file_is_refused(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "noise.onnx").write_bytes(b"\x93" * 100)
    with pytest.raises(WeightsError, match="not a readable ONNX model"):
        ExportedNetwork(tmp_path / "noise.onnx", "tiny")
