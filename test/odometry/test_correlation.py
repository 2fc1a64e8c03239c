"""The correlation volume: compiled kernels, chunked gather and reference agree with a literal loop."""

import math

import pytest
import torch

from robust_loc.odometry import correlation
from robust_loc.odometry.correlation import correlate, correlate_reference, feature_pyramid

SHAPE = correlation._shape


def example(dtype=torch.float64, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    gmap = torch.randn(5, 3, 3, 6, generator=g, dtype=dtype)
    pyramid = feature_pyramid(torch.randn(3, 6, 12, 16, generator=g, dtype=dtype))
    # inside, across each border, far outside, exactly on integers, not finite
    centres = torch.tensor([[5.3, 6.8], [-1.2, 0.4], [15.9, 11.2], [300.0, -40.0], [4.0, 4.0], [1e12, 3.0], [3.0, 3.0]])
    offset = torch.stack(torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="xy"), -1)
    coords = centres[:, None, None].to(dtype) + 1.1 * offset.to(dtype)
    coords[6, 0, 0] = math.nan
    return gmap, pyramid, coords, torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 3, 4, 0, 1])


def literal(gmap, pyramid, coords, jj, kk):
    """The definition, one number at a time."""
    out = torch.zeros(SHAPE(len(jj)), dtype=gmap.dtype)
    for e, (j, k) in enumerate(zip(jj.tolist(), kk.tolist())):
        for level, (fmap, scale) in enumerate(zip(pyramid, (1.0, 0.25))):
            h, w = fmap.shape[1:3]
            for a in range(3):
                for b in range(3):
                    x, y = (coords[e, a, b] * scale).tolist()
                    if not (abs(x) < 1e6 and abs(y) < 1e6):
                        continue
                    for dx in range(-3, 4):
                        for dy in range(-3, 4):
                            total = 0.0
                            for cx in (math.floor(x), math.floor(x) + 1):
                                for cy in (math.floor(y), math.floor(y) + 1):
                                    weight = (1 - abs(x - cx)) * (1 - abs(y - cy))
                                    if 0 <= cx + dx < w and 0 <= cy + dy < h:
                                        total += weight * float(gmap[k, a, b] @ fmap[j, cy + dy, cx + dx])
                            out[e, dx + 3, dy + 3, a, b, level] = total
    return out.flatten(1)


def chunked(gmap, pyramid, coords, jj, kk):
    return correlation._forward_chunked(gmap, pyramid, coords, jj, kk).flatten(1)


def bordered(gmap, pyramid, coords, jj, kk):
    rooms = correlation.bordered(len(pyramid[0]), pyramid)
    for frame in range(len(pyramid[0])):
        correlation.put_bordered(rooms, frame, [level[frame : frame + 1] for level in pyramid])
    return correlation.correlate_bordered(gmap.float(), rooms, coords, jj, kk)


@pytest.mark.parametrize("channels", [6, 16, 40])
def test_bordered_maps_give_the_same_volume(channels: int) -> None:
    """In single precision; windows across every border and beyond, and any number of channels."""
    _, _, coords, jj, kk = example()
    g = torch.Generator().manual_seed(4)
    gmap = torch.randn(5, 3, 3, channels, generator=g, dtype=torch.float64)
    pyramid = feature_pyramid(torch.randn(3, channels, 12, 16, generator=g, dtype=torch.float64))
    coords = torch.cat([coords + shift for shift in torch.linspace(-30, 30, 23)])
    jj, kk = jj.repeat(23), kk.repeat(23)
    expected = correlate_reference(gmap, pyramid, coords.nan_to_num(1e12), jj, kk)
    torch.testing.assert_close(bordered(gmap, pyramid, coords, jj, kk), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", [correlate, correlate_reference, chunked])
def test_volume_agrees_with_the_definition(implementation) -> None:
    arguments = example()
    torch.testing.assert_close(implementation(*arguments), literal(*arguments), rtol=1e-10, atol=1e-10)


def test_layout_has_the_x_offset_slowest_and_the_level_fastest() -> None:
    gmap = torch.ones(1, 3, 3, 1)
    fmap = torch.zeros(1, 1, 16, 16)
    fmap[0, 0, 8, 10] = 1.0  # two to the right of the centre (8, 8)
    coords = torch.full((1, 3, 3, 2), 8.0)
    index = torch.zeros(1, dtype=torch.long)
    volume = correlate(gmap, feature_pyramid(fmap), coords, index, index)
    assert volume.shape == (1, 882)
    fine = volume[0].reshape(7, 7, 3, 3, 2)[..., 0]
    assert (fine[5, 3] == 1).all() and fine.sum() == 9


def test_threads_do_not_change_the_result() -> None:
    arguments = example(torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = correlate(*arguments)
        torch.set_num_threads(3)
        assert torch.equal(correlate(*arguments), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backward", [correlation._backward_cpu, correlation._backward_chunked])
def test_gradients_agree_with_the_reference(backward) -> None:
    gmap, pyramid, *rest = example()
    leaves = [t.requires_grad_() for t in (gmap, *pyramid)]
    seed = torch.randn(7, 882, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((correlate_reference(gmap, pyramid, *rest) * seed).sum(), leaves)
    with torch.no_grad():
        grad_gmap, grad_maps = backward(gmap, pyramid, *rest, seed.reshape(SHAPE(7)))
    for found, reference in zip([grad_gmap, *grad_maps], expected):
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-10)


def test_gradients_agree_with_finite_differences() -> None:
    g = torch.Generator().manual_seed(2)
    gmap = torch.randn(2, 3, 3, 2, generator=g, dtype=torch.float64, requires_grad=True)
    features = torch.randn(2, 2, 8, 8, generator=g, dtype=torch.float64, requires_grad=True)
    coords = 3 + 2 * torch.rand(3, 3, 3, 2, generator=g, dtype=torch.float64)
    jj, kk = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(
        lambda a, f: correlate(a, feature_pyramid(f), coords, jj, kk), (gmap, features), fast_mode=True
    )


def test_edge_dropout_keeps_the_forward_value_and_thins_the_gradient() -> None:
    gmap, pyramid, coords, _, _ = example()
    gmap.requires_grad_()
    edges = 400
    coords = coords[:1].expand(edges, -1, -1, -1)
    jj, kk = torch.zeros(edges, dtype=torch.long), torch.zeros(edges, dtype=torch.long)
    full = correlate(gmap, pyramid, coords, jj, kk)
    thin = correlate(gmap, pyramid, coords, jj, kk, backward_fraction=0.2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(full, thin)
    (g_full,), (g_thin,) = torch.autograd.grad(full.sum(), [gmap]), torch.autograd.grad(thin.sum(), [gmap])
    share = (g_thin[0] / g_full[0]).median()
    assert 0.14 < share < 0.26  # 20 % of 400 edges, three standard deviations
