"""Training pairs from bags and dataset folders: copied once into clips, refused without depth and poses."""

from itertools import islice

import numpy as np
import pytest

from robust_loc.data import BagWriter
from robust_loc.data.synthetic import demo_sequence, write_clip
from robust_loc.data.synthetic.cache import Clip
from robust_loc.errors import DatasetError
from robust_loc.geometry import CameraCalibration
from robust_loc.training import feature_sources
from robust_loc.training.feature_pairs import PairSampler
from robust_loc.training.feature_sources import training_clips
from robust_loc.types import Frame


@pytest.fixture(scope="module")
def frames():
    return list(islice(demo_sequence(60, 160, 120), 12))


def write_bag(path, frames):
    camera = frames[0].camera
    with BagWriter(path, CameraCalibration(camera.width, camera.height, *camera.intrinsics.tolist())) as writer:
        for frame in frames:
            writer.write_frame(frame)
    return path


def test_a_bag_becomes_clips_once_and_gives_pairs_that_correspond(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_sources, "CLIP_FRAMES", 8)
    bag = write_bag(tmp_path / "room.mcap", frames)
    said = []
    clips = training_clips([bag], tmp_path / "clips", said.append)
    assert [len(Clip(path)) for path in clips] == [8, 4] and len(said) == 1
    first = Clip(clips[0])
    np.testing.assert_allclose(first.world_T_cam[3], frames[3].world_T_cam, atol=1e-6)
    seen = frames[3].depth > 0
    # Bags hold millimetres, clips half precision.
    np.testing.assert_allclose(1 / first.inverse_depth(3)[seen], frames[3].depth[seen], rtol=2e-3, atol=2e-3)

    pair = PairSampler(clips, 32, size=(200, 150)).draw(np.random.default_rng(0))
    assert pair.source.shape == pair.target.shape == (150, 200, 3)
    assert len(pair.source_pixels) >= PairSampler.MIN_POINTS

    before = clips[0].stat().st_mtime_ns
    assert training_clips([str(bag)], tmp_path / "clips", said.append) == clips
    assert clips[0].stat().st_mtime_ns == before and len(said) == 1


def test_clips_bags_and_folders_are_joined(frames, tmp_path):
    write_clip(tmp_path / "rendered" / "clip_000000.npz", frames[:4])
    bag = write_bag(tmp_path / "room.mcap", frames[4:])
    clips = training_clips([tmp_path / "rendered", bag], tmp_path / "clips", lambda _: None)
    assert sorted(len(Clip(path)) for path in clips) == [4, 8]


def test_a_recording_without_depth_is_refused(frames, tmp_path):
    blind = [Frame(frame.image, frame.camera, frame.stamp, None, frame.world_T_cam) for frame in frames]
    bag = write_bag(tmp_path / "blind.mcap", blind)
    with pytest.raises(DatasetError, match="depth and a pose"):
        training_clips([bag], tmp_path / "clips", lambda _: None)


@pytest.mark.parametrize("source", ["/nowhere", "tum:/nowhere"])
def test_a_source_that_is_not_there_is_refused(source, tmp_path):
    with pytest.raises(DatasetError, match="/nowhere"):
        training_clips([source], tmp_path, lambda _: None)


def test_frames_with_nothing_in_common_end_the_search(frames, tmp_path, monkeypatch):
    from robust_loc.training import feature_pairs

    monkeypatch.setattr(feature_pairs, "MAX_DRAWS", 5)
    grey = [Frame(np.full_like(f.image, 90), f.camera, f.stamp, f.depth, f.world_T_cam) for f in frames[:3]]
    far = [f.world_T_cam.copy() for f in grey]
    for k, pose in enumerate(far):
        pose[:3, 3] += 1000.0 * k
    moved = [Frame(f.image, f.camera, f.stamp, f.depth, pose) for f, pose in zip(grey, far)]
    write_clip(tmp_path / "clip_000000.npz", moved)
    with pytest.raises(DatasetError, match="5 pairs"):
        PairSampler([tmp_path / "clip_000000.npz"]).draw(np.random.default_rng(0))
