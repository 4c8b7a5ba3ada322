"""The program that ``penstock memviz`` maps: a few tasks with buffers of many sizes.

Each task acquires buffers of several sizes and keeps one of every few; of some of these there is a view
too, as in a program that hands an array on. The rest goes back. So the map has something of everything.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager

import penstock
from penstock._core import Buffer, BufferPool


@contextmanager
def running(pool: BufferPool) -> Generator[int, None, None]:
    """Use ``pool`` for a while, and hold what is kept for the body; its number is what the body gets."""
    tasks: list[penstock.Task[list[Buffer]]] = []
    with penstock.Group() as group:
        tasks += [group.go(use, pool) for use in (_messages, _pages, _images)]
    kept = [buffer for task in tasks for buffer in task.result()]
    with ExitStack() as held:
        for index, buffer in enumerate(kept):
            held.enter_context(buffer)
            if index % 4 == 0:
                view: memoryview[int] = memoryview(buffer)
                held.enter_context(view)
        yield len(kept)


def _messages(pool: BufferPool) -> list[Buffer]:
    kept = _one_of(2, [pool.acquire(64) for _ in range(1500)])
    kept += _one_of(2, [pool.acquire(200) for _ in range(900)])
    kept += _one_of(3, [pool.acquire(1_500) for _ in range(400)])
    return kept


def _pages(pool: BufferPool) -> list[Buffer]:
    kept = _one_of(4, [pool.acquire(4_096) for _ in range(300)])
    kept += _one_of(5, [pool.acquire(9_000) for _ in range(160)])
    kept += _one_of(3, [pool.acquire(16_384) for _ in range(120)])
    kept += _one_of(2, [pool.acquire(65_536) for _ in range(60)])
    return kept


def _images(pool: BufferPool) -> list[Buffer]:
    kept = _one_of(3, [pool.acquire(300_000) for _ in range(12)])
    kept += _one_of(2, [pool.acquire(1 << 20) for _ in range(6)])
    kept += [pool.acquire(nbytes) for nbytes in (3_000_000, 5_000_000, 12_000_000)]
    return kept


def _one_of(every: int, buffers: Iterable[Buffer]) -> list[Buffer]:
    """Release all but each ``every``-th."""
    kept: list[Buffer] = []
    for index, buffer in enumerate(buffers):
        if index % every:
            buffer.release()
        else:
            kept.append(buffer)
    return kept
