"""Independent pieces of work on plain threads, in place of torch's own pool.

A pool that spins between short parallel regions, as OpenMP's does, loses whole time slices when other programs use the
same cores: on two contended cores a frame then takes fifty times as long. Plain threads sleep while they wait, and
each runs torch and compiled kernels on one core.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
_here = threading.local()


@contextmanager
def lanes(wanted: int = 0) -> Iterator[None]:
    """Inside, torch uses one thread here, and :func:`in_lanes` ``wanted`` lanes (0: as many as torch did before)."""
    threads = torch.get_num_threads()
    if (wanted or threads) == 1 == threads:
        yield
        return
    _here.count = wanted or threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        del _here.count
        torch.set_num_threads(threads)


def count() -> int:
    """Lanes of this thread: torch's number of threads, unless :func:`lanes` has taken it."""
    return getattr(_here, "count", torch.get_num_threads())


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of one process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="odometry")


def in_lanes(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The tasks' results, in order; at most :func:`count` run at once. Tasks must release the interpreter lock (torch
    operations and compiled kernels do) to run side by side."""
    if count() == 1 or len(tasks) < 2:
        return [task() for task in tasks]
    # torch keeps these by thread
    threads, with_gradients = torch.get_num_threads(), torch.is_grad_enabled()
    mixed, half = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def alone(task: Callable[[], T]) -> T:
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        with torch.set_grad_enabled(with_gradients), torch.autocast("cpu", half, enabled=mixed):
            return task()

    futures = [_pool(os.getpid(), count()).submit(alone, task) for task in tasks]
    results = [future.result() for future in futures]
    torch.set_num_threads(threads)  # what threads begun later start with
    return results


def pieces(total: int, per_lane: int = 1) -> list[tuple[int, int]]:
    """``range(total)`` in nearly equal parts (start, stop), ``per_lane`` for each lane."""
    parts = max(min(count() * per_lane, total), 1)
    bounds = [total * part // parts for part in range(parts + 1)]
    return list(zip(bounds, bounds[1:]))
