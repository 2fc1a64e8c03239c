"""The descriptor interface: grids aligned with the image, sampling, scores."""

import cv2
import numpy as np
import pytest
import torch

from robust_loc.errors import WeightsError
from robust_loc.features import HandmadeFeatures, load_features, sample
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.network import CompactFeatures


def picture(height=240, width=320, seed=0):
    rng = np.random.default_rng(seed)
    blobs = sum(cv2.GaussianBlur(rng.normal(0, s * 40, (height, width, 3)), (0, 0), s) for s in (1.5, 4, 12))
    return np.clip(128 + blobs, 0, 255).astype(np.uint8)


@pytest.fixture(params=["handmade", "compact"])
def features(request):
    torch.manual_seed(0)
    return HandmadeFeatures() if request.param == "handmade" else CompactFeatures(CompactNetwork())


@pytest.mark.parametrize("size", [(240, 320), (97, 161), (101, 150)])
def test_grids_have_strides_16_and_2(features, size):
    maps = features.extract(picture(*size))
    assert maps.coarse.shape == (-(-size[0] // 16), -(-size[1] // 16), features.coarse_channels)
    assert maps.fine.shape == (-(-size[0] // 2), -(-size[1] // 2), features.fine_channels)
    assert maps.coarse.dtype == maps.fine.dtype == torch.float32


def test_descriptors_move_with_the_image_by_whole_strides(features):
    """Cell i is centred on pixel stride * i: an image shifted by one stride has the same cells, one over."""
    image = picture(320, 320)
    moved = features.extract(np.ascontiguousarray(image[32:, 16:]))
    whole = features.extract(image)
    coarse = (whole.coarse[9:-7, 8:-7] - moved.coarse[7:-7, 7:-7]).norm(dim=-1) / whole.coarse.norm(dim=-1).mean()
    fine = (whole.fine[56:-40, 48:-40] - moved.fine[40:-40, 40:-40]).norm(dim=-1) / whole.fine.norm(dim=-1).mean()
    # The compact network standardises the image, which the crop changes a little; one cell off would give about 1.
    assert coarse.median() < 0.05 and fine.median() < 0.05


def test_sampling_is_bilinear_and_zero_outside():
    grid = torch.arange(12.0).reshape(3, 4, 1)
    values = sample(grid, np.array([[8.0, 4.0], [3.0, 2.0], [-1.0, 0.0], [12.0, 0.0], [13.0, 0.0]]), 4)
    np.testing.assert_allclose(values[:, 0], [6.0, 0.75 + 2.0, 0.0, 3.0, 0.0])


def test_handmade_scores_are_highest_where_the_patch_came_from():
    features, image = HandmadeFeatures(), picture()
    view = cv2.convertScaleAbs(image, alpha=0.6, beta=30)  # another exposure
    rng = np.random.default_rng(0)
    for stride in (16, 2):
        here = getattr(features.extract(image), "coarse" if stride == 16 else "fine")
        there = getattr(features.extract(view), "coarse" if stride == 16 else "fine")
        cells = rng.integers([0, 0], [here.shape[1], here.shape[0]], (40, 2))
        scores = sample(here, cells * stride, stride) @ there.reshape(-1, there.shape[-1]).T
        found = scores.argmax(1).numpy()
        assert np.mean(found == cells[:, 1] * here.shape[1] + cells[:, 0]) > 0.95


def test_a_textureless_image_has_weak_handmade_descriptors():
    maps = HandmadeFeatures().extract(np.full((96, 128, 3), 90, np.uint8))
    assert maps.coarse.abs().max() == 0 and maps.fine.abs().max() == 0


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(WeightsError, match="handmade"):
        load_features("nothing.safetensors")
