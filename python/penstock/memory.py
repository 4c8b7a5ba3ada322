"""Pools: memory, and objects of any kind, that are lent, and lent again when they come back.

>>> from penstock import buffers
>>> with buffers.acquire(65536) as buffer:
...     buffer[:5] = b"hello"
...     bytes(buffer[:5])
b'hello'
"""

from __future__ import annotations

from typing import Final

from penstock import _debug
from penstock._core import (
    Borrowed,
    Buffer,
    BufferNodeStats,
    BufferPool,
    BufferScope,
    BufferStats,
    ObjectPool,
    ObjectStats,
)

__all__ = [
    "Borrowed",
    "Buffer",
    "BufferNodeStats",
    "BufferPool",
    "BufferScope",
    "BufferStats",
    "ObjectPool",
    "ObjectStats",
    "buffers",
]

_debug.watch_buffers()


def _default_pool() -> BufferPool:
    try:
        return BufferPool()
    except ValueError:
        # PENSTOCK_NUMA has something wrong. Whoever starts a runtime is told; an import is no place for it.
        return BufferPool(numa="off")


buffers: Final = _default_pool()
"""The default pool: it has no limit and does not clear what it lends."""
