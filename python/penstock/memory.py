"""Pooled buffers: memory that is lent, and lent again when it comes back.

>>> from penstock import buffers
>>> with buffers.acquire(65536) as buffer:
...     buffer[:5] = b"hello"
...     bytes(buffer[:5])
b'hello'
"""

from __future__ import annotations

from typing import Final

from penstock._core import Buffer, BufferNodeStats, BufferPool, BufferStats

__all__ = ["Buffer", "BufferNodeStats", "BufferPool", "BufferStats", "buffers"]

buffers: Final = BufferPool()
"""The default pool: it has no limit and does not clear what it lends."""
