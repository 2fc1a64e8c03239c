"""``robust-loc train odometry`` from rendered clips on disk: trains, validates, resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from robust_loc.cli import cli
from robust_loc.data.synthetic.cache import write_clip
from robust_loc.errors import ConfigurationError, DatasetError
from robust_loc.odometry.network import PatchNetwork
from robust_loc.types import Camera, Frame


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with one clip: a camera that circles before a wall of noise two metres away."""
    folder = tmp_path_factory.mktemp("clips")
    g = np.random.default_rng(0)
    texture = g.integers(0, 255, (60, 80, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    camera = Camera(160, 120, 120.0, 120.0, 79.5, 59.5)
    frames = []
    for k in range(12):
        pose = np.eye(4)
        pose[:2, 3] = 0.5 * np.cos(0.2 * k), 0.5 * np.sin(0.2 * k)
        x, y = (60 * pose[:2, 3] + 60).round().astype(int)  # 120 px / 2 m
        frames.append(
            Frame(
                texture[y : y + 120, x : x + 160].copy(), camera, k * 10**8, np.full((120, 160), 2.0, np.float32), pose
            )
        )
    write_clip(folder / "clip_000000.npz", frames, "wall")
    return folder


def _train(*arguments):
    return CliRunner().invoke(cli, ["train", "odometry", "--preset", "tiny", "--json", *map(str, arguments)])


def test_run_writes_weights_and_resumes(clips, tmp_path):
    data = ["--data", f"rendered:{clips}", "--validation", f"rendered:{clips}", "--validation-clips", 1, "-o", tmp_path]
    result = _train(*data, "--steps", 2, "--seconds", 0)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output.splitlines()[-1])
    assert summary["step"] == 1 and set(summary["after"]) == {"ate", "ate_median", "flow"}
    result = _train(*data, "--steps", 2, "--resume")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["step"] == 2
    assert PatchNetwork.from_checkpoint(tmp_path / "weights.safetensors").config.hidden == 96
    assert (tmp_path / "config.json").is_file() and (tmp_path / "log.jsonl").is_file()


def test_bad_input_is_named(tmp_path):
    assert isinstance(_train("--data", "nowhere", "-o", tmp_path).exception, DatasetError)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    both = _train("--initial", weights, "--resume", "-o", tmp_path).exception
    assert isinstance(both, ConfigurationError) and "exclude" in str(both)
