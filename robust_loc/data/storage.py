"""Messages out of a recording: rosbag2 (mcap, sqlite3) and ROS 1, whole or damaged, through one interface.

``open_source`` reads with the ``rosbags`` library. Where the library gives up (no index, truncated, a damaged part),
the file is scanned record by record instead (``salvage``), and what was lost is kept in ``losses``.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from robust_loc.errors import BagError

STORAGE_SUFFIXES = (".mcap", ".db3", ".bag")


@dataclass(frozen=True)
class Topic:
    """One topic of a recording; ``definition`` is the message definition stored with it ("" if none)."""

    name: str
    msgtype: str
    count: int
    definition: str = ""


class RawMessage(NamedTuple):
    """One serialized message and the time it was recorded at (ns)."""

    topic: str
    msgtype: str
    time: int
    data: bytes


class MessageSource(Protocol):
    """A recording's messages in the order of recording."""

    topics: dict[str, Topic]
    is_ros1: bool

    @property
    def losses(self) -> list[str]: ...

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]: ...

    def close(self) -> None: ...


def open_source(path: str | Path) -> MessageSource:
    """Open a bag folder, or one ``.mcap``, ``.db3`` or ``.bag`` file.

    Raises:
        BagError: nothing there, not a recording, or nothing in it can be read.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix not in STORAGE_SUFFIXES:
        raise BagError(f"{path}: not a recording; expected a bag folder or a {', '.join(STORAGE_SUFFIXES)} file")
    return ResilientSource(path)


def deserialize(message: RawMessage, source: MessageSource) -> Any:
    """The message object of ``message``: standard ROS types, or a type whose definition the recording carries.

    Raises:
        BagError: unknown type without a definition, or bytes that do not fit the type.
    """
    store = _typestore(source.is_ros1)
    if message.msgtype not in store.fielddefs:
        _register(store, source.topics[message.topic])
    try:
        decode = store.deserialize_ros1 if source.is_ros1 else store.deserialize_cdr
        return decode(message.data, message.msgtype)
    except Exception as error:  # the library raises many kinds on bytes that do not fit
        raise BagError(f"a message of {message.topic} is no valid {message.msgtype}: {error}") from error


class ResilientSource:
    """A recording read through its index where possible, and record by record from where that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_ros1 = path.suffix == ".bag"
        self._own_losses: list[str] = []
        self._source: MessageSource
        try:
            if path.suffix == ".db3" and path.with_name(path.name + "-wal").exists():
                raise BagError("it was not closed: a write-ahead log lies beside it")
            self._source = _IndexedSource(path)
        except BagError as error:
            self._source = self._without_index()
            self._lose(f"{path.name}: {error}; read record by record instead")
        self.topics = self._source.topics

    @property
    def losses(self) -> list[str]:
        """One sentence per thing that could not be read; complete once the messages have been iterated."""
        return self._own_losses + self._source.losses

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        newest = -1
        try:
            for message in self._source.messages(topics):
                newest = max(newest, message.time)
                yield message
            return
        except BagError as error:
            if not isinstance(self._source, _IndexedSource):
                raise
            self._lose(f"{self.path.name}: {error}; read record by record from there on")
        self._source.close()
        self._source = self._without_index()
        for message in self._source.messages(topics):
            if message.time > newest:
                yield message

    def close(self) -> None:
        self._source.close()

    def _without_index(self) -> MessageSource:
        from robust_loc.data.salvage import scan

        return _ChainedSource(self.path) if self.path.is_dir() else scan(self.path)

    def _lose(self, loss: str) -> None:
        if loss not in self._own_losses:
            self._own_losses.append(loss)


class _IndexedSource:
    """A recording that the ``rosbags`` readers accept."""

    losses: list[str]

    def __init__(self, path: Path) -> None:
        from rosbags import rosbag1, rosbag2

        self.path = path
        self.losses = []
        self.is_ros1 = path.suffix == ".bag"
        try:
            self._reader: Any = rosbag1.Reader(path) if self.is_ros1 else rosbag2.Reader(path)
            self._reader.open()
        except Exception as error:  # damaged files raise many kinds: struct.error, ValueError, AssertionError, ...
            raise BagError(f"no usable index ({_cause(error)})") from error
        self.topics: dict[str, Topic] = {}
        for connection in self._reader.connections:
            known = self.topics.get(connection.topic)
            count = connection.msgcount + (known.count if known else 0)
            self.topics[connection.topic] = Topic(connection.topic, connection.msgtype, count, connection.msgdef.data)

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        reading = self._reader.messages(connections=connections)
        while True:
            try:
                connection, time, data = next(reading)
            except StopIteration:
                return
            except Exception as error:
                raise BagError(f"damaged after the start ({_cause(error)})") from error
            yield RawMessage(connection.topic, connection.msgtype, time, data)

    def close(self) -> None:
        self._reader.close()


class _ChainedSource:
    """The storage files of a bag folder without usable metadata, in the order of their names."""

    is_ros1 = False

    def __init__(self, folder: Path) -> None:
        files = sorted(path for suffix in (".mcap", ".db3") for path in folder.glob(f"*{suffix}"))
        if not files:
            raise BagError(f"{folder}: not a recording; no .mcap or .db3 file in this folder")
        self._sources: list[ResilientSource] = []
        self._failures: list[str] = []
        for path in files:
            try:
                self._sources.append(ResilientSource(path))
            except BagError as error:
                self._failures.append(str(error))
        if not self._sources:
            raise BagError(f"{folder}: nothing can be read: {'; '.join(self._failures)}")
        self.topics: dict[str, Topic] = {}
        for source in self._sources:
            for topic in source.topics.values():
                known = self.topics.get(topic.name)
                self.topics[topic.name] = replace(topic, count=topic.count + (known.count if known else 0))

    @property
    def losses(self) -> list[str]:
        return self._failures + [loss for source in self._sources for loss in source.losses]

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        for source in self._sources:
            yield from source.messages(topics)

    def close(self) -> None:
        for source in self._sources:
            source.close()


@functools.cache
def _typestore(is_ros1: bool) -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_JAZZY)


def _register(store: Any, topic: Topic) -> None:
    from rosbags.typesys import get_types_from_msg

    if not topic.definition:
        raise BagError(f"topic {topic.name} has the unknown type {topic.msgtype} and no definition in the recording")
    try:
        types = get_types_from_msg(topic.definition, topic.msgtype)
        store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    except Exception as error:
        raise BagError(f"the definition of {topic.msgtype} (topic {topic.name}) cannot be parsed: {error}") from error


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
