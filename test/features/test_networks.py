"""The descriptor networks: sizes, alignment of the strides, names of the parameters, weights on disk."""

import cv2
import numpy as np
import pytest
import torch

from robust_loc.errors import WeightsError
from robust_loc.features import load_features
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.inception import InceptionCoarse, InceptionFine
from robust_loc.features.network import InceptionFeatures, save_compact


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_sizes_are_those_of_the_paper():
    assert parameters(InceptionCoarse()) == 12_305_120
    assert parameters(InceptionCoarse("Mixed_6e")) == 9_557_216
    assert parameters(InceptionFine()) == 1_115_680


def test_parameters_have_the_official_names():
    coarse, fine = InceptionCoarse().state_dict(), InceptionFine().state_dict()
    for name in (
        "cnn.0.conv.weight",
        "cnn.7.branch5x5_2.bn.running_var",
        "cnn.15.branch7x7x3_4.conv.weight",
        "cnn.16.weight",
    ):
        assert name in coarse
    assert coarse["cnn.11.branch7x7dbl_5.conv.weight"].shape == (192, 128, 1, 7)
    assert fine["cnn.3.conv.weight"].shape == (80, 64, 3, 3)
    assert fine["cnn.9.running_mean"].shape == (288,)


@pytest.mark.parametrize(
    "forward, stride",
    [
        (InceptionFine, 2),
        (lambda: Part(CompactNetwork(), 0), 16),
        (lambda: Part(CompactNetwork(), 1), 2),
    ],
    ids=["fine", "compact coarse", "compact fine"],
)
def test_a_cell_is_centred_on_its_pixel(forward, stride):
    """The region of the input that moves cell i is symmetric about stride * i."""
    torch.manual_seed(0)
    network = forward().eval()
    size = 257 if stride == 16 else 129
    image = torch.randn(1, 3, size, size, requires_grad=True)
    cell = (size - 1) // 2 // stride
    network(image)[0, :, cell, cell].sum().backward()
    touched = torch.nonzero(image.grad.abs().sum((0, 1, 2)))[:, 0]
    low, high = touched.min().item(), touched.max().item()
    # Upsampling by two lets the stride-4 layer reach one cell further on neither side of an even cell.
    assert low + high == 2 * stride * cell
    if isinstance(network, InceptionFine):
        assert high - low + 1 == 43


class Part(torch.nn.Module):
    """One output of a network."""

    def __init__(self, network, index):
        super().__init__()
        self.network, self.index = network, index

    def forward(self, x):
        return self.network(x)[self.index]


def test_compact_weights_survive_the_disk(tmp_path):
    torch.manual_seed(0)
    network = CompactNetwork(64, 32)
    save_compact(tmp_path / "w.safetensors", network, steps="7")
    loaded = load_features(str(tmp_path / "w.safetensors"))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], value)
    assert (loaded.coarse_channels, loaded.fine_channels) == (64, 32)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_half_precision_weights_are_read_as_full_precision(tmp_path):
    torch.manual_seed(0)
    network = CompactNetwork(32, 16)
    save_compact(tmp_path / "w.safetensors", network, half=True)
    loaded = load_features(str(tmp_path / "w.safetensors")).network.state_dict()
    for name, value in network.state_dict().items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-4)


def test_the_packages_descriptors_find_a_view_in_another_light():
    features = load_features("compact")
    rng = np.random.default_rng(0)
    blobs = sum(cv2.GaussianBlur(rng.normal(0, 40 * s, (240, 320, 3)), (0, 0), s) for s in (2, 5, 12))
    image = np.clip(120 + blobs, 0, 255).astype(np.uint8)
    bright = np.clip(1.6 * image.astype(float), 0, 255).astype(np.uint8)
    here, there = features.extract(image).coarse, features.extract(bright).coarse
    flat = there.reshape(-1, there.shape[-1])
    found = (here.reshape(-1, here.shape[-1]) @ flat.T).argmax(1)
    assert (found == torch.arange(len(flat))).float().mean() > 0.8


def test_other_weights_have_another_identity(tmp_path):
    identities = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_compact(tmp_path / "w.safetensors", CompactNetwork(32, 16))
        identities.add(load_features(str(tmp_path / "w.safetensors")).identity)
    assert len(identities) == 2


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_bad_weights_file_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="w.safetensors"):
        load_features(str(tmp_path / "w.safetensors"))


def test_truncated_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_compact(path, CompactNetwork(32, 16))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_features(str(path))


def test_an_official_pair_of_checkpoints_loads(tmp_path):
    torch.manual_seed(0)
    coarse, fine = InceptionCoarse("Mixed_6e"), InceptionFine()
    paths = tmp_path / "c.ckpt", tmp_path / "f.ckpt"
    for path, network in zip(paths, (coarse, fine)):
        torch.save({"state_dict": network.state_dict(), "hyper_parameters": {"level": path.stem}}, path)
    loaded = load_features(f"{paths[0]},{paths[1]}")
    assert isinstance(loaded, InceptionFeatures)
    maps = loaded.extract(np.random.default_rng(0).integers(0, 255, (49, 65, 3), dtype=np.uint8))
    assert maps.coarse.shape == (4, 5, 768) and maps.fine.shape == (25, 33, 288)
    with pytest.raises(WeightsError, match="f.ckpt"):
        load_features(f"{paths[1]},{paths[1]}")
