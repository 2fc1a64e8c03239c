"""The network has the official names and shapes, and computes what a plain reading of the paper computes."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from robust_loc.errors import WeightsError
from robust_loc.odometry import PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.lanes import in_lanes
from robust_loc.odometry.operator import complete_frames
from robust_loc.odometry.patches import gradient_centres, random_centres, windows
from robust_loc.odometry.update import EdgeGroups, GradientClip, Revision, SoftAggregation
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors

SMALL = PatchNetworkConfig(hidden=8, features=8, width=4)


def official_names_and_shapes() -> dict[str, tuple[int, ...]]:
    """The state dict of the published network, written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    for encoder, channels in (("fnet", 128), ("inet", 384)):
        root = f"patchify.{encoder}"
        layer(f"{root}.conv1", 32, 3, 7, 7)
        for block in (0, 1):
            for conv in (1, 2):
                layer(f"{root}.layer1.{block}.conv{conv}", 32, 32, 3, 3)
        layer(f"{root}.layer2.0.conv1", 64, 32, 3, 3)
        layer(f"{root}.layer2.0.conv2", 64, 64, 3, 3)
        layer(f"{root}.layer2.0.downsample.0", 64, 32, 1, 1)
        layer(f"{root}.layer2.1.conv1", 64, 64, 3, 3)
        layer(f"{root}.layer2.1.conv2", 64, 64, 3, 3)
        layer(f"{root}.conv2", channels, 64, 1, 1)
    for name in ["c1.0", "c1.2", "c2.0", "c2.2", "corr.2", "corr.5"]:
        layer(f"update.{name}", 384, 384)
    for name in ["agg_kk.f", "agg_kk.g", "agg_kk.h", "agg_ij.f", "agg_ij.g", "agg_ij.h"]:
        layer(f"update.{name}", 384, 384)
    for name in ["gru.1.gate.0", "gru.1.res.0", "gru.1.res.2", "gru.3.gate.0", "gru.3.res.0", "gru.3.res.2"]:
        layer(f"update.{name}", 384, 384)
    for name in ["norm", "gru.0", "gru.2", "corr.3"]:
        layer(f"update.{name}", 384)
    layer("update.corr.0", 384, 882)
    layer("update.d.1", 2, 384)
    layer("update.w.1", 2, 384)
    return shapes


def official_state() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: 0.05 * torch.randn(s, generator=g) for k, s in official_names_and_shapes().items()}


def test_full_network_has_the_official_tensors() -> None:
    network = PatchNetwork()
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == official_names_and_shapes()
    assert len(network.state_dict()) == 94
    assert sum(p.numel() for p in network.parameters()) == 3_384_324


def test_official_checkpoint_loads_with_nothing_missing(tmp_path) -> None:
    state = official_state()
    file = {f"module.{k}": v for k, v in state.items()} | {"module.update.lmbda.0.weight": torch.zeros(3)}
    torch.save(file, tmp_path / "dpvo.pth")
    loaded = PatchNetwork.from_checkpoint(tmp_path / "dpvo.pth").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_saved_weights_come_back_with_their_architecture(tmp_path) -> None:
    network = PatchNetwork(SMALL)
    network.save(tmp_path / "w.safetensors", {"trained_on": "nothing"})
    loaded = PatchNetwork.from_checkpoint(tmp_path / "w.safetensors")
    assert loaded.config == SMALL and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values()))
    assert not (tmp_path / "w.safetensors.part").exists()


def test_loading_leaves_the_random_state_alone(tmp_path) -> None:
    PatchNetwork(SMALL).save(tmp_path / "w.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    PatchNetwork.from_checkpoint(tmp_path / "w.safetensors")
    assert torch.equal(torch.rand(1), expected)


def bad_files(tmp_path):
    state = official_state()
    torch.save({k: v for k, v in state.items() if not k.startswith("update.d")}, tmp_path / "missing.pth")
    torch.save(state | {"update.d.1.weight": torch.zeros(2, 100)}, tmp_path / "shape.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x93" * 400)
    (tmp_path / "noise.safetensors").write_bytes(b"\x93" * 400)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, str(tmp_path / "stranger.safetensors"))
    header = {"architecture": "robust_loc.odometry.PatchNetwork", "config": json.dumps({"depth": 3})}
    save_file({"a": torch.zeros(1)}, str(tmp_path / "config.safetensors"), metadata=header)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.pth", "2 tensors missing"),
        ("shape.pth", "'update.d.1.weight' has shape"),
        ("list.pth", "state dict"),
        ("noise.pth", "not a readable torch checkpoint"),
        ("noise.safetensors", "not a readable safetensors"),
        ("empty.safetensors", "not a readable safetensors"),
        ("stranger.safetensors", "no architecture entry"),
        ("config.safetensors", "'config' or 'covariance_scale' is unusable"),
        ("absent.pth", "no such weights file"),
    ],
)
def test_unusable_weights_are_refused_with_the_reason(tmp_path, file: str, message: str) -> None:
    bad_files(tmp_path)
    with pytest.raises(WeightsError, match=message) as raised:
        PatchNetwork.from_checkpoint(tmp_path / file)
    assert file in str(raised.value)


def test_encoder_agrees_with_a_functional_reading() -> None:
    """Convolutions, per-image normalisation, ReLU and skips written out with functional calls, in float64."""
    from torch.nn import functional as F

    torch.manual_seed(0)
    network = PatchNetwork(SMALL).double()
    state = network.state_dict()
    image = torch.rand(2, 3, 32, 48, dtype=torch.float64) * 255

    def encoder(root: str, normalized: bool) -> torch.Tensor:
        def norm(x):
            if not normalized:
                return x
            mean = x.mean((2, 3), keepdim=True)
            return (x - mean) / (((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()

        def conv(x, name, stride=1, padding=1):
            return F.conv2d(x, state[f"{root}.{name}.weight"], state[f"{root}.{name}.bias"], stride, padding)

        def residual(x, name, stride=1):
            y = F.relu(norm(conv(x, f"{name}.conv1", stride)))
            y = F.relu(norm(conv(y, f"{name}.conv2")))
            return F.relu((x if stride == 1 else norm(conv(x, f"{name}.downsample.0", stride, 0))) + y)

        bgr = image[:, [2, 1, 0]]
        x = F.relu(norm(conv(2 * (bgr / 255.0) - 0.5, "conv1", 2, 3)))
        x = residual(residual(x, "layer1.0"), "layer1.1")
        x = residual(residual(x, "layer2.0", 2), "layer2.1")
        return conv(x, "conv2", 1, 0) / 4

    fmap, imap = encoder("patchify.fnet", True), encoder("patchify.inet", False)
    features = network.extract(image, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(features.pyramid[0].permute(0, 3, 1, 2), fmap)
    torch.testing.assert_close(features.pyramid[1].permute(0, 3, 1, 2), F.avg_pool2d(fmap, 4))
    for k in range(10):
        x, y = features.centres[k // 5, k % 5].long().tolist()
        torch.testing.assert_close(features.gmap[k].permute(2, 0, 1), fmap[k // 5][:, y - 1 : y + 2, x - 1 : x + 2])
        torch.testing.assert_close(features.context[k], imap[k // 5][:, y, x])


def test_update_operator_agrees_with_a_loop_over_edges() -> None:
    """Section by section over single edges, in float64, on a graph with gaps and a shuffled order."""
    torch.manual_seed(1)
    network = PatchNetwork(SMALL).double().update
    kk = torch.tensor([0, 0, 0, 1, 1, 4, 5, 5])
    ii, jj = kk // 3, torch.tensor([3, 0, 1, 2, 0, 1, 3, 0])
    order = torch.randperm(8)
    ii, jj, kk = ii[order], jj[order], kk[order]
    hidden, context = torch.randn(2, 8, 8, dtype=torch.float64)
    volume = torch.randn(8, 882, dtype=torch.float64)
    result = network(hidden, context, volume, EdgeGroups.of(ii, jj, kk))

    def soft_aggregate(layer: SoftAggregation, x, keys):
        out = []
        for key in keys:
            members = [e for e in range(8) if keys[e] == key]
            weight = torch.softmax(torch.stack([layer.g(x[e]) for e in members]), 0)
            out.append(layer.h((weight * torch.stack([layer.f(x[e]) for e in members])).sum(0)))
        return torch.stack(out)

    def neighbour(x, e, step):
        same = sorted((j, n) for n, (k, j) in enumerate(zip(kk.tolist(), jj.tolist())) if k == kk[e])
        place = [n for _, n in same].index(e) + step
        return x[same[place][1]] if 0 <= place < len(same) else torch.zeros_like(x[e])

    x = network.norm(hidden + context + network.corr(volume))
    x = x + torch.stack([network.c1(neighbour(x, e, -1)) for e in range(8)])
    x = x + torch.stack([network.c2(neighbour(x, e, +1)) for e in range(8)])
    x = x + soft_aggregate(network.agg_kk, x, kk.tolist())
    x = x + soft_aggregate(network.agg_ij, x, list(zip(ii.tolist(), jj.tolist())))
    x = network.gru(x)
    torch.testing.assert_close(result.hidden, x)
    torch.testing.assert_close(result.delta, torch.relu(x) @ network.d[1].weight.T + network.d[1].bias)
    torch.testing.assert_close(result.weight, torch.sigmoid(torch.relu(x) @ network.w[1].weight.T + network.w[1].bias))


def test_the_edges_of_one_source_frame_are_a_grid_of_their_own() -> None:
    """Frame by frame, as the tracker runs on a CPU, the step is the step over all edges at once; in lanes as well."""
    torch.manual_seed(5)
    network = PatchNetwork(SMALL).double().update
    M, targets = 3, [[0, 1, 2], [1], [0, 2, 3, 4]]
    ii = torch.tensor([i for i, row in enumerate(targets) for _ in row for _ in range(M)])
    jj = torch.tensor([j for row in targets for j in row for _ in range(M)])
    kk = ii * M + torch.arange(M).repeat(8)
    hidden = torch.randn(24, 8, dtype=torch.float64)
    context, volume = torch.randn(9, 8, dtype=torch.float64), torch.randn(24, 882, dtype=torch.float64)
    expected = network(hidden, context[kk], volume, EdgeGroups.of(ii, jj, kk))
    frames = complete_frames(ii, jj, kk, M)
    assert frames == [slice(0, 9), slice(9, 12), slice(12, 24)]

    def step(edges: slice, source: int) -> Revision:
        own = context[source * M : (source + 1) * M]
        grid = (x[edges].unflatten(0, (-1, M)) for x in (hidden, volume))
        return network.forward_of_frame(next(grid), own, next(grid))

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        parts = in_lanes([partial(step, edges, source) for source, edges in enumerate(frames)])
    finally:
        torch.set_num_threads(threads)
    for name in Revision._fields:
        found = torch.cat([getattr(part, name).flatten(0, 1) for part in parts])
        torch.testing.assert_close(found, getattr(expected, name))


def test_incomplete_or_unordered_edges_are_told_apart() -> None:
    kk = torch.arange(6).repeat_interleave(2)
    assert complete_frames(kk // 3, torch.tensor([0, 1]).repeat(6), kk, 3) is None  # patch by patch
    ordered = torch.arange(6).reshape(2, 3).repeat_interleave(2, 0).flatten()
    jj = torch.tensor([0, 1]).repeat_interleave(3).repeat(2)
    assert complete_frames(ordered // 3, jj, ordered, 3) == [slice(0, 6), slice(6, 12)]
    assert complete_frames(ordered[:-1] // 3, jj[:-1], ordered[:-1], 3) is None
    assert complete_frames(ordered.flip(0) // 3, jj, ordered.flip(0), 3) is None
    assert complete_frames(ordered[:0], jj[:0], ordered[:0], 3) is None


def test_update_operator_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(2)
    network = PatchNetwork(PatchNetworkConfig(hidden=8, features=8, width=4)).double().update
    kk, jj = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 1, 0])
    groups = EdgeGroups.of(kk // 2, jj, kk)
    hidden, context = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    volume = torch.randn(4, 882, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, c: network(h, c, volume, groups).hidden, (hidden, context))


def test_gradient_clip_replaces_nan_and_clamps() -> None:
    x = torch.zeros(4, requires_grad=True)
    GradientClip()(x).backward(torch.tensor([float("nan"), 5.0, -5.0, 0.003]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.01, -0.01, 0.003]))


def test_windows_interpolate_and_are_zero_outside() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([x, y, torch.ones_like(x)])[None]
    window = windows(plane, torch.tensor([[[3.25, 2.5], [0.0, 0.0]]]), radius=1)
    torch.testing.assert_close(window[0, 0, 0, 1], torch.tensor([2.25, 3.25, 4.25]))
    torch.testing.assert_close(window[0, 0, 1, :, 1], torch.tensor([1.5, 2.5, 3.5]))
    torch.testing.assert_close(window[0, 1, 2], torch.tensor([[0.0, 0, 0], [0, 1, 1], [0, 1, 1]]))


def test_centres_are_seeded_and_keep_the_patch_inside() -> None:
    a = random_centres(3, 400, 10, 12, torch.Generator().manual_seed(5))
    assert torch.equal(a, random_centres(3, 400, 10, 12, torch.Generator().manual_seed(5)))
    assert a[..., 0].min() == 1 and a[..., 0].max() == 10 and a[..., 1].min() == 1 and a[..., 1].max() == 8


def test_gradient_centres_prefer_texture() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 255
    centres = gradient_centres(image, 40, torch.Generator().manual_seed(1))
    assert (centres[..., 0] >= 7).float().mean() > 0.9


def test_image_size_must_be_a_multiple_of_sixteen() -> None:
    with pytest.raises(ValueError, match="100x64"):
        PatchNetwork(SMALL).extract(torch.zeros(1, 3, 64, 100), 4)


def test_the_factor_on_covariances_travels_with_the_weights(tmp_path):
    network = PatchNetwork(PatchNetworkConfig.compact())
    assert network.covariance_scale == 1.0
    network.covariance_scale = 37.5
    network.save(tmp_path / "w.safetensors")
    assert PatchNetwork.from_checkpoint(tmp_path / "w.safetensors").covariance_scale == 37.5
    network.covariance_scale = float("nan")
    network.save(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="covariance_scale"):
        PatchNetwork.from_checkpoint(tmp_path / "w.safetensors")


def test_factors_stored_beside_the_weights_are_loaded_with_them(tmp_path):
    weights = tmp_path / "w.safetensors"
    PatchNetwork(PatchNetworkConfig.compact()).save(weights)
    assert PatchNetwork.from_checkpoint(weights).covariance_factors == CovarianceFactors()
    CovarianceCalibration({"odometry": CovarianceFactors(2.0, 3.0, 40)}).save_beside(weights)
    assert PatchNetwork.from_checkpoint(weights).covariance_factors == CovarianceFactors(2.0, 3.0, 40)
