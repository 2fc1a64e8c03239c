"""Training of the compact descriptors: pairs that correspond, the loss of eq. 10, a run that learns and resumes."""

from itertools import islice

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.data.synthetic import demo_sequence, write_clip
from robust_loc.errors import DatasetError
from robust_loc.features import load_features
from robust_loc.training.checkpoint import load_checkpoint
from robust_loc.training.feature_pairs import PairSampler, similarity
from robust_loc.training.features import FeatureTrainingConfig, nre_loss, train_features


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two short clips of the demo room at 160 x 120."""
    folder = tmp_path_factory.mktemp("clips")
    frames = list(islice(demo_sequence(60, 160, 120), 24))
    write_clip(folder / "clip_000000.npz", frames[:12])
    write_clip(folder / "clip_000001.npz", frames[12:])
    return folder


SMALL = {"coarse_channels": 16, "fine_channels": 8, "pairs": 1, "points": 32}


def test_the_loss_is_the_interpolated_negative_log_probability():
    torch.manual_seed(0)
    source, target = torch.randn(6, 5, 7), torch.randn(6, 5, 7)
    here, there = torch.tensor([[8.0, 4.0]]), torch.tensor([[9.0, 5.0]])  # stride 4: cells (2, 1) and (2.25, 1.25)
    log_map = torch.log_softmax((source[:, 1, 2] @ target.reshape(6, -1)), 0).view(5, 7)
    a = b = 0.25
    expected = -(
        (1 - a) * (1 - b) * log_map[1, 2]
        + a * (1 - b) * log_map[1, 3]
        + (1 - a) * b * log_map[2, 2]
        + a * b * log_map[2, 3]
    )
    torch.testing.assert_close(nre_loss(source, target, here, there, 4), expected)


def test_uninformative_descriptors_cost_the_logarithm_of_the_grid():
    flat = torch.zeros(4, 6, 8)
    pixels = torch.tensor([[5.0, 7.0], [16.0, 12.0]])
    assert nre_loss(flat, flat, pixels, pixels, 4).item() == pytest.approx(np.log(48), abs=1e-5)


def test_pairs_correspond(clips):
    """The two patches around a correspondence look alike, far more than around shuffled ones."""
    sampler = PairSampler(sorted(clips.glob("*.npz")), 48, augment=False)
    same, other = [], []
    for seed in range(4):
        pair = sampler.draw(np.random.default_rng(seed))
        assert len(pair.source_pixels) == len(pair.target_pixels) >= PairSampler.MIN_POINTS

        def colours(image, pixels):
            at = np.rint(pixels).astype(int)
            return image[at[:, 1], at[:, 0]].astype(float)

        a, b = colours(pair.source, pair.source_pixels), colours(pair.target, pair.target_pixels)
        same.append(np.median(np.abs(a - b)))
        other.append(np.median(np.abs(a - np.roll(b, 7, axis=0))))
    assert np.mean(same) < 0.5 * np.mean(other)


def test_a_turned_image_carries_its_pixels_along():
    image = np.zeros((80, 100, 3), np.uint8)
    image[30:33, 60:63] = 255
    for seed in range(5):
        turned, moved = similarity(image, np.array([[61.0, 31.0]]), np.random.default_rng(seed))
        weights = turned[..., 0].astype(float)
        rows, columns = np.mgrid[:80, :100]
        centre = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
        np.testing.assert_allclose(moved[0], centre, atol=0.5)


def test_training_lowers_the_loss_and_gives_weights_that_load(clips, tmp_path):
    config = FeatureTrainingConfig(steps=60, save_every=60, learning_rate=5e-3, **SMALL)
    lines = []
    losses = train_features(clips, tmp_path, config, validation=clips, report=lines.append)
    assert losses["coarse"] < np.log(10 * 8) - 0.3  # better than knowing nothing
    features = load_features(str(tmp_path / "features.safetensors"))
    assert features.coarse_channels == 16 and len(lines) == 1


def test_an_interrupted_run_ends_where_the_whole_one_does(clips, tmp_path):
    def run(folder, steps, seconds=float("inf")):
        config = FeatureTrainingConfig(steps=6, save_every=steps, **SMALL)
        return train_features(clips, folder, config, validation=clips, seconds=seconds, report=lambda _: None)

    torch.use_deterministic_algorithms(True)
    try:
        run(tmp_path / "whole", 6)
        run(tmp_path / "parts", 3, seconds=0.0)  # stops after one step
        assert load_checkpoint(tmp_path / "parts")[0] == 1
        run(tmp_path / "parts", 3)
    finally:
        torch.use_deterministic_algorithms(False)
    whole, parts = (load_checkpoint(tmp_path / name)[1]["network"] for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-4, atol=1e-5, msg=name)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder of clips"):
        train_features(tmp_path, tmp_path / "run")


def test_the_command_refuses_to_overwrite_a_run(clips, tmp_path):
    options = [str(clips), "-o", str(tmp_path / "run"), "--steps", "1", "--pairs", "1"]
    assert CliRunner().invoke(cli, ["train", "features", *options]).exit_code == 0
    again = CliRunner().invoke(cli, ["train", "features", *options])
    assert again.exit_code != 0 and "--resume" in str(again.exception)
