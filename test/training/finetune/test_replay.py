"""Replay: frames survive the file, memories stay small and balanced, damaged ones are refused."""

import numpy as np
import pytest
from small_scene import frames

from robust_loc.errors import OutputError, WeightsError
from robust_loc.training.finetune.frames import FrameSet, Role, join
from robust_loc.training.finetune.replay import load_memory, memory_file, remembered, with_replay
from robust_loc.training.regressor_data import PosedImages


def frame_set(count, name="a", first=0, depth=False):
    recording = frames(count, first)
    if depth:
        recording = [
            type(f)(f.image, f.camera, f.stamp, np.full((64, 96), 1.0 + 0.01 * k, np.float32), f.world_T_cam)
            for k, f in enumerate(recording)
        ]
    role = np.full(count, Role.TRAIN, np.int8)
    role[3::5], role[4::5] = Role.CALIBRATE, Role.JUDGE
    return FrameSet(PosedImages.from_frames(recording, 64), role, np.zeros(count, np.int32), (name,))


@pytest.mark.parametrize("depth", [False, True])
def test_frames_survive_the_file(tmp_path, depth):
    stored = join([frame_set(10, "a", depth=depth), frame_set(5, "b", 50)])
    stored.save(tmp_path / "frames.npz")
    read = FrameSet.load(tmp_path / "frames.npz")
    assert read.names == ("a", "b") and len(read) == 15
    np.testing.assert_array_equal(read.role, stored.role)
    np.testing.assert_array_equal(read.recording, stored.recording)
    np.testing.assert_array_equal(read.images.world_T_cam, stored.images.world_T_cam)
    assert np.abs(read.images.rgb.astype(int) - stored.images.rgb).mean() < 3, "JPEG, in the same channel order"
    if depth:
        np.testing.assert_allclose(read.images.depth, stored.images.depth, atol=6e-4)
    else:
        assert read.images.depth is None


def test_a_damaged_file_is_refused(tmp_path):
    path = memory_file(tmp_path / "weights.safetensors")
    assert load_memory(tmp_path / "weights.safetensors") is None
    frame_set(10).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"nonsense", b""):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="replay"):
            load_memory(tmp_path / "weights.safetensors")


def test_a_memory_holds_as_much_of_every_recording_and_all_roles():
    frames_of = join([frame_set(60, "long"), frame_set(10, "short", 100), frame_set(40, "other", 200)])
    kept = remembered(frames_of, 60)
    counts = dict(zip(kept.names, np.bincount(kept.recording)))
    assert len(kept) <= 61 and counts["short"] == 10
    assert counts["long"] == pytest.approx(25, abs=1) and counts["other"] == pytest.approx(25, abs=1)
    for role in (Role.CALIBRATE, Role.JUDGE):
        assert kept.count(role) == pytest.approx(12, abs=2)
    assert len(remembered(frames_of, 1000)) == len(frames_of)
    assert len(remembered(frames_of, 0)) == 0


def test_replayed_frames_are_the_wanted_share_of_training_and_held_out_ones_stay_held_out():
    new, earlier = frame_set(50, "new"), frame_set(100, "earlier", 100)
    both = with_replay(new, earlier, 0.25, np.random.default_rng(0))
    of_earlier = both.recording == both.names.index("earlier")
    train = both.role == Role.TRAIN
    assert (of_earlier & train).sum() / train.sum() == pytest.approx(0.25, abs=0.02)
    assert (of_earlier & ~train).sum() == 40
    assert set(both.images.stamps[of_earlier & train]) <= set(earlier.of(Role.TRAIN).stamps)
    nothing = with_replay(new, earlier, 0.0, np.random.default_rng(0))
    assert nothing.count(Role.TRAIN) == new.count(Role.TRAIN)


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        frame_set(4).save(tmp_path / "file" / "frames.npz")
