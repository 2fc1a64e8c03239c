"""Everything readable out of a truncated, unindexed or damaged storage file, record by record.

The scanners follow the published file formats (MCAP specification, ROS bag format 2.0, rosbag2's sqlite3 schema).
A record or chunk that is cut off gives the messages before the cut; a chunk whose checksum fails is left out. Every
loss becomes one sentence in ``losses``.
"""

from __future__ import annotations

import bz2
import io
import shutil
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from robust_loc.data.storage import MessageSource, RawMessage, Topic
from robust_loc.errors import BagError

MCAP_MAGIC = b"\x89MCAP0\r\n"
ROS1_MAGIC = b"#ROSBAG V2.0\n"
MAXIMUM_RECORD = 1 << 32  # a longer record is a sign of a damaged length field


def scan(path: Path) -> MessageSource:
    """A source over whatever can be read of ``path``.

    Raises:
        BagError: not even one topic can be read.
    """
    scanners: dict[str, Callable[[Path], _ScannedSource]] = {
        ".mcap": _ScannedMcap,
        ".bag": _ScannedRos1,
        ".db3": _ScannedSqlite,
    }
    source = scanners[path.suffix](path)
    if not source.topics:
        raise BagError(f"{path}: nothing can be read ({'; '.join(source.losses) or 'no topic in it'})")
    return source


class _ScannedSource:
    """Base: one pass at construction counts the messages and collects topics and losses."""

    is_ros1 = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[str] = []
        self._definitions: dict[str, tuple[str, str]] = {}  # topic -> (type, definition)
        counts: dict[str, int] = {}
        for message in self._scan():
            counts[message.topic] = counts.get(message.topic, 0) + 1
        self.topics = {
            name: Topic(name, msgtype, counts.get(name, 0), definition)
            for name, (msgtype, definition) in self._definitions.items()
        }

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        return (message for message in self._scan() if message.topic in topics)

    def close(self) -> None:
        """Nothing stays open between passes."""

    def _scan(self) -> Iterator[RawMessage]:
        raise NotImplementedError

    def _lose(self, loss: str) -> None:
        sentence = f"{self.path.name}: {loss}"
        if sentence not in self.losses:
            self.losses.append(sentence)


class _ScannedMcap(_ScannedSource):
    def _scan(self) -> Iterator[RawMessage]:
        schemas: dict[int, tuple[str, str]] = {}
        channels: dict[int, tuple[str, str]] = {}
        with self.path.open("rb") as stream:
            if stream.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                raise BagError(f"{self.path}: not an mcap file (its first bytes are no mcap magic)")
            for opcode, offset, body, whole in _records(stream, "<BQ", self.path.stat().st_size, self._lose):
                if opcode == 0x06:
                    yield from sorted(
                        self._chunk(body, offset, whole, schemas, channels), key=lambda message: message.time
                    )
                elif opcode == 0x02:
                    return
                elif whole:
                    yield from self._record(opcode, body, schemas, channels)
            self._lose("it ends without a footer; messages after the end of the file are lost")

    def _chunk(
        self,
        body: bytes,
        offset: int,
        whole: bool,
        schemas: dict[int, tuple[str, str]],
        channels: dict[int, tuple[str, str]],
    ) -> Iterator[RawMessage]:
        if len(body) < 32:
            return
        size, checksum, name_length = struct.unpack_from("<QII", body, 16)
        compression = body[32 : 32 + name_length].decode(errors="replace")
        packed = body[32 + name_length + 8 :]
        records = _decompressed(packed, compression)
        if whole and (len(records) != size or (checksum and zlib.crc32(records) != checksum)):
            self._lose(f"the chunk at byte {offset} is damaged and left out")
            return
        position = 0
        while position + 9 <= len(records):
            opcode, length = struct.unpack_from("<BQ", records, position)
            end = position + 9 + length
            if end > len(records):
                break
            yield from self._record(opcode, records[position + 9 : end], schemas, channels)
            position = end
        if not whole:
            self._lose(f"the chunk at byte {offset} is cut off; {position} of its {size} bytes are read")

    def _record(
        self, opcode: int, body: bytes, schemas: dict[int, tuple[str, str]], channels: dict[int, tuple[str, str]]
    ) -> Iterator[RawMessage]:
        if opcode == 0x05:
            channel, _, time, _ = struct.unpack_from("<HIQQ", body)
            if channel in channels:
                yield RawMessage(*channels[channel], time, body[22:])
        elif opcode == 0x03:
            (key,) = struct.unpack_from("<H", body)
            name, position = _string(body, 2)
            encoding, position = _string(body, position)
            definition, _ = _string(body, position)
            schemas[key] = (name, definition if encoding == "ros2msg" else "")
        elif opcode == 0x04:
            key, schema = struct.unpack_from("<HH", body)
            topic, _ = _string(body, 4)
            msgtype, definition = schemas.get(schema, ("", ""))
            channels[key] = (topic, msgtype)
            self._definitions.setdefault(topic, (msgtype, definition))


class _ScannedRos1(_ScannedSource):
    is_ros1 = True

    def _scan(self) -> Iterator[RawMessage]:
        connections: dict[int, tuple[str, str]] = {}
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            if stream.read(len(ROS1_MAGIC)) != ROS1_MAGIC:
                raise BagError(f"{self.path}: not a ROS 1 bag (its first line is no '#ROSBAG V2.0')")
            while stream.tell() < size:
                offset = stream.tell()
                header = _ros1_header(stream)
                length = stream.read(4)
                if header is None or len(length) < 4:
                    self._lose(f"cut off or damaged at byte {offset}; the {size - offset} bytes from there on are lost")
                    return
                (expected,) = struct.unpack("<I", length)
                body = stream.read(expected)
                if header["op"] == b"\x05":
                    records = _decompressed(body, header.get("compression", b"none").decode())
                    yield from self._chunk(records, connections)
                else:
                    yield from self._record(header, body, connections)
                if len(body) < expected:
                    self._lose(f"the record at byte {offset} is cut off; {len(body)} of its {expected} bytes are there")
                    return

    def _chunk(self, records: bytes, connections: dict[int, tuple[str, str]]) -> Iterator[RawMessage]:
        stream = io.BytesIO(records)
        while (header := _ros1_header(stream)) is not None and len(length := stream.read(4)) == 4:
            (expected,) = struct.unpack("<I", length)
            body = stream.read(expected)
            if len(body) < expected:
                return
            yield from self._record(header, body, connections)

    def _record(
        self, header: dict[str, bytes], body: bytes, connections: dict[int, tuple[str, str]]
    ) -> Iterator[RawMessage]:
        if header["op"] == b"\x07":
            fields = _ros1_fields(body) or {}
            package, _, name = fields.get("type", b"").decode().partition("/")
            key, topic = struct.unpack("<I", header["conn"])[0], header["topic"].decode()
            connections[key] = (topic, f"{package}/msg/{name}")
            definition = fields.get("message_definition", b"").decode(errors="replace")
            self._definitions.setdefault(topic, (connections[key][1], definition))
        elif header["op"] == b"\x02":
            key = struct.unpack("<I", header["conn"])[0]
            seconds, nanoseconds = struct.unpack("<II", header["time"])
            if key in connections:
                yield RawMessage(*connections[key], seconds * 1_000_000_000 + nanoseconds, body)


class _ScannedSqlite(_ScannedSource):
    PROBE = 2000  # rows looked for one by one behind a damaged page

    def _scan(self) -> Iterator[RawMessage]:
        with tempfile.TemporaryDirectory() as folder:
            path = self.path
            log = self.path.with_name(self.path.name + "-wal")
            if log.exists():  # a copy, so that the log is replayed without writing next to the recording
                path = Path(shutil.copy(self.path, folder))
                shutil.copy(log, folder)
            connection = sqlite3.connect(f"file:{path}?mode={'rw' if log.exists() else 'ro'}", uri=True)
            try:
                # lets SQLite open a file that is shorter than its header says
                connection.execute("PRAGMA writable_schema=ON")
                yield from self._rows(connection)
            finally:
                connection.close()

    def _rows(self, connection: sqlite3.Connection) -> Iterator[RawMessage]:
        try:
            topics = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT id, name, type FROM topics")}
        except sqlite3.DatabaseError as error:
            raise BagError(f"{self.path}: its table of topics cannot be read ({error})") from error
        for name, msgtype in topics.values():
            self._definitions.setdefault(name, (msgtype, self._definition(connection, msgtype)))
        query = "SELECT id, topic_id, timestamp, data FROM messages NOT INDEXED WHERE id {} ? ORDER BY id"
        newest = 0
        try:
            for found, topic, time, data in connection.execute(query.format(">"), (newest,)):
                newest = found
                if topic in topics:
                    yield RawMessage(*topics[topic], time, data)
            return
        except sqlite3.DatabaseError as error:
            self._lose(f"damaged after message {newest} ({error}); the messages on damaged pages are lost")
        probed, last = newest + 1, newest + self.PROBE
        while probed <= last:
            try:
                for found, topic, time, data in connection.execute(query.format("="), (probed,)):
                    last = found + self.PROBE
                    if topic in topics:
                        yield RawMessage(*topics[topic], time, data)
            except sqlite3.DatabaseError:
                pass  # this row lies on the damaged page; its loss is recorded above
            probed += 1

    def _definition(self, connection: sqlite3.Connection, msgtype: str) -> str:
        query = (
            "SELECT encoded_message_definition FROM message_definitions WHERE topic_type = ? AND encoding = 'ros2msg'"
        )
        try:
            row = connection.execute(query, (msgtype,)).fetchone()
        except sqlite3.DatabaseError:  # schemas before version 4 have no such table
            return ""
        return row[0] if row else ""


def _records(
    stream: BinaryIO, layout: str, size: int, lose: Callable[[str], None]
) -> Iterator[tuple[int, int, bytes, bool]]:
    """``(opcode, offset, body, whole)`` of each mcap record; the last one may be cut off (``whole`` is False)."""
    head_length = struct.calcsize(layout)
    while True:
        offset = stream.tell()
        head = stream.read(head_length)
        if len(head) < head_length:
            if head:
                lose(f"cut off at byte {offset}")
            return
        opcode, length = struct.unpack(layout, head)
        if length > MAXIMUM_RECORD:
            lose(f"damaged at byte {offset}; the {size - offset} bytes from there on are lost")
            return
        body = stream.read(length)
        yield opcode, offset, body, len(body) == length
        if len(body) < length:
            lose(f"the record at byte {offset} is cut off; {len(body)} of its {length} bytes are there")
            return


def _decompressed(data: bytes, compression: str) -> bytes:
    """As much as can be decompressed of a chunk that may be cut off; empty for a damaged one."""
    try:
        if compression in ("", "none"):
            return data
        if compression == "bz2":
            return bz2.BZ2Decompressor().decompress(data)
        if compression == "lz4":
            from lz4.frame import LZ4FrameDecompressor

            return LZ4FrameDecompressor().decompress(data)
        if compression == "zstd":
            return _zstd(data)
    except Exception:  # each library has its own error for damaged data
        return b""
    raise BagError(f"chunk compression {compression!r} is not supported")


def _zstd(data: bytes) -> bytes:
    try:
        from compression.zstd import ZstdDecompressor  # Python >= 3.14
    except ImportError:
        from backports.zstd import ZstdDecompressor  # comes with rosbags
    return ZstdDecompressor().decompress(data)


def _string(data: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, position)
    return data[position + 4 : position + 4 + length].decode(errors="replace"), position + 4 + length


def _ros1_header(stream: BinaryIO) -> dict[str, bytes] | None:
    length = stream.read(4)
    if len(length) < 4:
        return None
    (size,) = struct.unpack("<I", length)
    fields = _ros1_fields(stream.read(size)) if size < 1 << 20 else None
    return fields if fields and "op" in fields else None


def _ros1_fields(data: bytes) -> dict[str, bytes] | None:
    """The ``name=value`` fields of a record header; None where it is damaged."""
    fields: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            return None
        (length,) = struct.unpack_from("<I", data, position)
        name, separator, value = data[position + 4 : position + 4 + length].partition(b"=")
        if not separator or position + 4 + length > len(data):
            return None
        fields[name.decode(errors="replace")] = value
        position += 4 + length
    return fields
