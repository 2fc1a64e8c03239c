"""A thread between a subscription and slow work: it always takes the newest item."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls ``work(item)`` on a thread of its own, one item at a time, in order of arrival.

    Args:
        work: must not raise.
        keep_all: work on every item (replay); otherwise an item that is still waiting when a newer one arrives is
            handed to ``on_drop`` instead (live: the newest image is the one that matters).
    """

    def __init__(
        self, work: Callable[[T], None], on_drop: Callable[[T], None], keep_all: bool, name: str = "worker"
    ) -> None:
        self._work = work
        self._on_drop = on_drop
        self._keep_all = keep_all
        self._waiting: collections.deque[T] = collections.deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: T) -> None:
        """Queue ``item``; returns at once."""
        dropped = None
        with self._changed:
            if self._stopping:
                return
            if self._waiting and not self._keep_all:
                dropped = self._waiting.popleft()
            self._waiting.append(item)
            self._changed.notify()
        if dropped is not None:
            self._on_drop(dropped)

    def stop(self, timeout: float = 5.0) -> None:
        """Finish the item at work, forget the others, end the thread."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.popleft()
            self._work(item)
