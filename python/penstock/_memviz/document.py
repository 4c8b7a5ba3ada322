"""The JSON beside the map: the same snapshot as data.

Field by field it is what `snapshot` has, and for each class what the page's tables say. The slots of a span
are runs of one state, by address: ``[["out", 3], ["cached", 1], ["bare", 12]]``. A field that goes or changes
its meaning makes a new ``version``; a new field does not.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from penstock._core import __version__
from penstock._memviz.snapshot import (
    BARE,
    CACHED,
    OUT,
    Arena,
    Books,
    Cache,
    Direct,
    Held,
    SizeClass,
    Snapshot,
    Span,
)

VERSION: Final = 1

STATES: Final = {BARE: "bare", CACHED: "cached", OUT: "out"}


def write(snapshot: Snapshot) -> str:
    """The JSON document of ``snapshot``, in ASCII."""
    content: dict[str, Any] = {
        "format": "penstock.memviz",
        "version": VERSION,
        "penstock": __version__,
        "taken": datetime.fromtimestamp(snapshot.taken, UTC).isoformat(),
        "max_bytes": snapshot.max_bytes,
        "stats": vars(snapshot.stats),
        "books": _books(snapshot.books()),
        "nodes": [{"node": node, "books": _books(snapshot.books(node))} for node in snapshot.nodes],
        "classes": [_class(found) for node in snapshot.nodes for found in snapshot.classes(node)],
        "arenas": [_arena(arena) for arena in snapshot.arenas],
        "caches": [_cache(cache) for cache in snapshot.caches],
        "direct": [_direct(mapping) for mapping in snapshot.direct],
        "held": [_held(held) for held in snapshot.held],
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def _books(books: Books) -> dict[str, Any]:
    return {
        "in_use": books.in_use,
        "cached": books.cached,
        "in_caches": books.in_caches,
        "central": books.central,
        "reserved": books.reserved,
        "free": books.free,
        "mapped": books.mapped,
        "fragmentation_percent": books.fragmentation,
    }


def _class(found: SizeClass) -> dict[str, Any]:
    return {
        "node": found.node,
        "class_bytes": found.class_bytes,
        "spans": len(found.spans),
        "slots": found.slots,
        "books": _books(found.books),
    }


def _arena(arena: Arena) -> dict[str, Any]:
    return {
        "node": arena.node,
        "base": arena.base,
        "bytes": arena.nbytes,
        "huge": arena.huge,
        "spans": [_span(span) for span in arena.spans],
        "free": [{"offset": offset, "bytes": nbytes} for offset, nbytes in arena.free],
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "base": span.base,
        "bytes": span.nbytes,
        "class_bytes": span.class_bytes,
        "slots": _runs(span.slots),
    }


def _runs(slots: bytes) -> list[tuple[str, int]]:
    return [(STATES[state], sum(1 for _ in run)) for state, run in groupby(slots)]


def _cache(cache: Cache) -> dict[str, Any]:
    return {
        "node": cache.node,
        "bins": [{"class_bytes": class_bytes, "slots": slots} for class_bytes, slots in cache.bins],
        "remote_slots": cache.remote_slots,
        "remote_bytes": cache.remote_bytes,
    }


def _direct(mapping: Direct) -> dict[str, Any]:
    return {"node": mapping.node, "base": mapping.base, "bytes": mapping.nbytes}


def _held(held: Held) -> dict[str, Any]:
    return vars(held)
