"""The map of a pool: `memviz` writes it as an SVG, and as JSON beside it.

The page and what it shows are in `penstock._memviz`, which is imported when a map is asked for.
"""

from __future__ import annotations

import os

from penstock._core import BufferPool

__all__ = ["memviz"]


def memviz(path: str | os.PathLike[str], *, pool: BufferPool | None = None) -> None:
    """Write a map of a pool's memory: an SVG at ``path``, which ends in ``.svg``, and a ``.json`` beside it.

    Without ``pool`` it is the map of the default pool, `penstock.buffers`. Any browser shows it; it needs no
    network and runs no script. It shows, for each NUMA node, the arenas with their spans by address, the
    central lists by size class, the slots of the spans, the caches and the direct mappings, with the exact
    bytes in use, cached and free. The buffers held longest stand first, with where they were acquired, as far
    as they are watched (``PENSTOCK_DEBUG=buffers=paranoid`` watches each one). The JSON has the same as data;
    its ``version`` changes when a field goes or changes its meaning.

    Fragmentation is ``cached / reserved`` in percent: the share of the pool's memory that no buffer uses.

    Other threads may use the pool meanwhile. The map is of one moment, and its totals agree with one another
    as those of ``pool.stats()`` do. Reading it stops acquiring and releasing outside of caches for as long as
    it takes to look at each slot once. It does not wait for memory, and writes files as ``open`` does: in a
    task, on the worker's thread.

    The files appear whole or not at all; what was there before stays where writing fails.

    Raises:
        TypeError: ``path`` is no ``str`` or path of one, or ``pool`` is no ``BufferPool``.
        ValueError: ``path`` does not end in ``.svg``.
        OSError: a file cannot be written.

    >>> import json, pathlib, tempfile
    >>> from penstock import BufferPool, memviz
    >>> pool = BufferPool()
    >>> with tempfile.TemporaryDirectory() as folder, pool.acquire(4096):
    ...     memviz(pathlib.Path(folder, "heap.svg"), pool=pool)
    ...     json.loads(pathlib.Path(folder, "heap.json").read_text())["stats"]["in_use"]
    4096
    """
    svg = _svg_path(path)
    if pool is None:
        from penstock.memory import buffers

        pool = buffers
    if not isinstance(pool, BufferPool):
        raise TypeError(f"pool must be a BufferPool or None, not {pool!r}")

    from penstock._memviz import document, files, page
    from penstock._memviz.snapshot import Snapshot

    snapshot = Snapshot.of(pool)
    json = os.path.splitext(svg)[0] + ".json"  # noqa: PTH122
    files.write({svg: page.draw(snapshot), json: document.write(snapshot)})


def _svg_path(path: str | os.PathLike[str]) -> str:
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"path must be a str or a path of one, not {path!r}")
    if os.path.splitext(name)[1].lower() != ".svg":  # noqa: PTH122
        raise ValueError(f"path must end in .svg, not {name!r}")
    return name
