"""Truncated, unindexed and damaged recordings: what is readable is read, what was lost is said."""

import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from small_recordings import make_frames, write_bag

from robust_loc.data import open_bag
from robust_loc.errors import BagError


def truncated(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def stamps_of(path: Path, **options) -> tuple[list[int], tuple[str, ...]]:
    bag = open_bag(path, **options)
    return [frame.stamp for frame in bag], bag.losses


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_truncated_mcap_gives_the_frames_before_the_cut(tmp_path, fraction):
    frames = make_frames(200)
    stamps, losses = stamps_of(truncated(write_bag(tmp_path / "bag.mcap", frames), fraction))
    assert stamps == [frame.stamp for frame in frames[: len(stamps)]]
    assert len(stamps) >= 0.8 * fraction * 200
    assert any("cut off" in loss for loss in losses)


def test_an_mcap_without_its_index_is_read_completely(tmp_path):
    frames = make_frames(20)
    path = write_bag(tmp_path / "bag.mcap", frames)
    data = path.read_bytes()
    (summary,) = struct.unpack("<Q", data[-28:-20])
    path.write_bytes(data[:summary])
    stamps, losses = stamps_of(path)
    assert stamps == [frame.stamp for frame in frames]
    assert any("without a footer" in loss for loss in losses)


def test_a_damaged_chunk_costs_its_messages_only(tmp_path):
    frames = make_frames(400)
    path = write_bag(tmp_path / "bag.mcap", frames)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    stamps, losses = stamps_of(path)
    assert losses and 0 < len(stamps) < 400
    assert set(stamps) < {frame.stamp for frame in frames} and stamps == sorted(stamps)


def test_a_folder_without_metadata_is_read_and_said(tmp_path):
    frames = make_frames(6)
    folder = write_bag(tmp_path / "folder", frames)
    (folder / "metadata.yaml").unlink()
    stamps, losses = stamps_of(folder)
    assert stamps == [frame.stamp for frame in frames]
    assert any("metadata" in loss for loss in losses)


def test_a_truncated_sqlite_bag_gives_what_its_intact_pages_hold(tmp_path):
    frames = make_frames(200)
    stamps, losses = stamps_of(truncated(write_bag(tmp_path / "bag.db3", frames), 0.6))
    assert 80 <= len(stamps) < 200 and set(stamps) < {frame.stamp for frame in frames}
    assert any("damaged" in loss for loss in losses)


def test_a_sqlite_bag_that_was_not_closed_is_read_with_its_log(tmp_path):
    frames = make_frames(10)
    path = write_bag(tmp_path / "bag.db3", frames)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("UPDATE messages SET timestamp = timestamp + 1")
    connection.commit()
    copy = tmp_path / "copy.db3"
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    connection.close()
    stamps, losses = stamps_of(copy)
    assert stamps == [frame.stamp for frame in frames]
    assert any("write-ahead log" in loss for loss in losses)


def test_a_file_cut_before_its_first_topic_is_an_error(tmp_path):
    path = truncated(write_bag(tmp_path / "bag.mcap", make_frames(3)), 0.005)
    with pytest.raises(BagError, match="nothing can be read"):
        open_bag(path)


@pytest.mark.data
def test_a_truncated_or_unindexed_ros1_bag_gives_the_same_messages_as_far_as_it_goes(real_data, tmp_path):
    original = real_data / "rosbags/t265_3frames_ros1.bag"
    whole = open_bag(original).trajectory("/camera/odom/sample")
    data = original.read_bytes()
    unindexed = tmp_path / "unindexed.bag"
    unindexed.write_bytes(
        data.replace(b"index_pos=" + data[data.index(b"index_pos=") + 10 :][:8], b"index_pos=" + bytes(8))
    )
    bag = open_bag(unindexed)
    read = bag.trajectory("/camera/odom/sample")
    np.testing.assert_array_equal(read.stamps, whole.stamps)
    np.testing.assert_array_equal(read.world_T_cam, whole.world_T_cam)
    assert any("not indexed" in loss for loss in bag.losses)
    shutil.copy(original, tmp_path / "cut.bag")
    (tmp_path / "cut.bag").chmod(0o644)
    cut = open_bag(truncated(tmp_path / "cut.bag", 0.5))
    read = cut.trajectory("/camera/odom/sample")
    assert 0 < len(read) < len(whole)
    np.testing.assert_array_equal(read.stamps, whole.stamps[: len(read)])
    assert any("cut off" in loss for loss in cut.losses)


@pytest.mark.data
def test_a_truncated_copy_of_a_real_recording_keeps_its_first_half(real_data, tmp_path):
    for name, minimum in (("redkitchen_40_mcap", 15), ("fr1_xyz_10_sqlite3", 2)):
        copy = tmp_path / name
        shutil.copytree(real_data / "rosbags" / name, copy)
        for path in [copy, *copy.iterdir()]:
            path.chmod(0o755)
        whole, _ = stamps_of(copy)
        truncated(next(path for path in copy.iterdir() if path.suffix in (".mcap", ".db3")), 0.5)
        stamps, losses = stamps_of(copy)
        assert minimum <= len(stamps) < len(whole) and set(stamps) < set(whole) and losses


@pytest.mark.parametrize("compression", ["", "lz4", "zstd", "bz2"])
def test_the_readable_part_of_a_chunk_cut_off_while_compressed_is_decompressed(compression):
    import bz2

    import lz4.frame
    from rosbags.rosbag2.storage_mcap import zstd

    from robust_loc.data.salvage import _decompressed

    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress, "bz2": bz2.compress}[compression]
    # incompressible, and longer than one block of any of the formats
    content = np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8).tobytes()
    packed = pack(content)
    assert _decompressed(packed, compression) == content
    part = _decompressed(packed[: len(packed) // 2], compression)
    assert len(part) > 300_000 and content.startswith(part)
    assert _decompressed(b"no compressed data at all", compression) in (b"", b"no compressed data at all")


def test_a_compressed_mcap_is_read_whole_and_truncated(tmp_path):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

    frames = make_frames(60)
    folder = tmp_path / "zstd"
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with Reader(write_bag(tmp_path / "plain.mcap", frames)) as reader, writer:
        connections = {
            c.topic: writer.add_connection(c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01="RIHS01_" + "0" * 64)
            for c in reader.connections
        }
        for connection, time, data in reader.messages():
            writer.write(connections[connection.topic], time, data)
    assert stamps_of(folder) == ([frame.stamp for frame in frames], ())
    truncated(next(folder.glob("*.mcap")), 0.6)
    stamps, losses = stamps_of(folder)
    assert losses and 10 < len(stamps) < 60
    assert stamps == [frame.stamp for frame in frames[: len(stamps)]]
