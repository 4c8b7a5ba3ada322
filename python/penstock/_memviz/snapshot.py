"""A pool at one moment, as data: what the map shows, and what it adds up to.

The books, in bytes, are those of `BufferPool.stats()`, one level deeper::

    mapped   = reserved + free
    reserved = in_use + cached
    cached   = central + in_caches

A slot that has left its central list (`OUT`) is in use or lies in a cache. Which of the two only the cache's
owner can tell, so a single slot is drawn as out, and in-use bytes are told apart by class: what is out less
what the caches have. Slots on their way home to a cache (its remote list) are counted for that cache as a
whole: their classes are known to nobody until they have arrived.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from penstock._core import BufferPool

BARE: Final = 0
"""Never lent, or its pages given back to the system: takes no memory."""
CACHED: Final = 1
"""In the central list of its class: reserved, and free to be lent."""
OUT: Final = 2
"""In use, or in a cache."""


@dataclass(frozen=True)
class Span:
    """Pages cut into equal slots; ``slots`` has one state (`BARE`, `CACHED`, `OUT`) for each, by address."""

    base: int
    nbytes: int
    class_bytes: int
    slots: bytes

    @property
    def out(self) -> int:
        return self.slots.count(OUT)

    @property
    def cached(self) -> int:
        return self.slots.count(CACHED)


@dataclass(frozen=True)
class Arena:
    """A region of address space; ``free`` are the runs ``(offset, bytes)`` that are part of no span."""

    node: int
    base: int
    nbytes: int
    huge: bool
    spans: tuple[Span, ...]
    free: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Cache:
    """The slots of one owner: ``bins`` are pairs ``(class_bytes, slots)``, empty ones left out."""

    node: int
    bins: tuple[tuple[int, int], ...]
    remote_slots: int
    remote_bytes: int

    @property
    def nbytes(self) -> int:
        return sum(class_bytes * slots for class_bytes, slots in self.bins) + self.remote_bytes


@dataclass(frozen=True)
class Direct:
    """A mapping of its own, for one buffer above the largest size class."""

    node: int
    base: int
    nbytes: int


@dataclass(frozen=True)
class Held:
    """A live buffer of those that are watched, and since when."""

    address: int
    nbytes: int
    site: str
    seconds: float


@dataclass(frozen=True)
class Books:
    """How ``mapped`` bytes divide."""

    in_use: int
    in_caches: int
    central: int
    free: int

    @property
    def cached(self) -> int:
        return self.in_caches + self.central

    @property
    def reserved(self) -> int:
        return self.in_use + self.cached

    @property
    def mapped(self) -> int:
        return self.reserved + self.free

    @property
    def fragmentation(self) -> float | None:
        """Cached bytes in percent of the reserved ones: memory that the pool keeps and no buffer uses."""
        return 100 * self.cached / self.reserved if self.reserved else None


@dataclass(frozen=True)
class SizeClass:
    """All spans of one class on one node."""

    node: int
    class_bytes: int
    spans: tuple[Span, ...]
    slots: int
    books: Books


@dataclass(frozen=True)
class Totals:
    """The figures of `BufferPool.stats()` at the moment of the picture."""

    in_use: int
    cached: int
    reserved: int
    reserved_peak: int


@dataclass(frozen=True)
class Snapshot:
    """A pool at one moment; ``taken`` in seconds since the epoch, ``held`` the longest first."""

    taken: float
    stats: Totals
    max_bytes: int | None
    arenas: tuple[Arena, ...]
    caches: tuple[Cache, ...]
    direct: tuple[Direct, ...]
    held: tuple[Held, ...]

    @classmethod
    def of(cls, pool: BufferPool) -> Snapshot:
        """The pool now. Other threads may acquire and release meanwhile: the books agree all the same."""
        # A buffer that is there before the picture and after it, and no younger, was in use all the while.
        before = {address: seconds for address, _, _, seconds in pool._held()}
        max_bytes, totals, arenas, caches, direct = pool._map()
        held = [Held(*found) for found in pool._held()]
        return cls(
            time.time(),
            Totals(*totals),
            max_bytes,
            tuple(
                Arena(node, base, nbytes, huge, tuple(Span(*span) for span in spans), tuple(free))
                for node, base, nbytes, huge, spans, free in arenas
            ),
            tuple(Cache(node, tuple(bins), slots, nbytes) for node, bins, slots, nbytes in caches),
            tuple(Direct(*mapping) for mapping in direct),
            tuple(found for found in held if before.get(found.address, math.inf) <= found.seconds),
        )

    @cached_property
    def nodes(self) -> list[int]:
        parts: list[Arena | Cache | Direct] = [*self.arenas, *self.caches, *self.direct]
        return sorted({part.node for part in parts})

    def books(self, node: int | None = None) -> Books:
        """The books of one node, or of the whole pool, whose sums are those of ``stats``."""
        arenas = [arena for arena in self.arenas if node in (None, arena.node)]
        caches = [cache for cache in self.caches if node in (None, cache.node)]
        direct = sum(mapping.nbytes for mapping in self.direct if node in (None, mapping.node))
        spans = [span for arena in arenas for span in arena.spans]
        out = sum(span.out * span.class_bytes for span in spans)
        central = sum(span.cached * span.class_bytes for span in spans)
        in_caches = sum(cache.nbytes for cache in caches)
        return Books(
            in_use=out - in_caches + direct,
            in_caches=in_caches,
            central=central,
            free=sum(arena.nbytes for arena in arenas) - out - central,
        )

    def classes(self, node: int) -> list[SizeClass]:
        """The classes that have spans on ``node``, by size."""
        spans: dict[int, list[Span]] = {}
        for arena in self.arenas:
            if arena.node == node:
                for span in arena.spans:
                    spans.setdefault(span.class_bytes, []).append(span)
        in_caches: dict[int, int] = {}
        for cache in self.caches:
            if cache.node == node:
                for class_bytes, slots in cache.bins:
                    in_caches[class_bytes] = in_caches.get(class_bytes, 0) + class_bytes * slots
        return [
            SizeClass(
                node,
                class_bytes,
                tuple(members),
                sum(len(span.slots) for span in members),
                _class_books(class_bytes, members, in_caches.get(class_bytes, 0)),
            )
            for class_bytes, members in sorted(spans.items())
        ]

    def place(self, address: int) -> Span | Direct | None:
        """What of the pool ``address`` lies in."""
        bases, places = self._places
        index = bisect_right(bases, address) - 1
        if index < 0:
            return None
        found = places[index]
        return found if address < found.base + found.nbytes else None

    @cached_property
    def _places(self) -> tuple[list[int], list[Span | Direct]]:
        places: list[Span | Direct] = [span for arena in self.arenas for span in arena.spans]
        places += self.direct
        places.sort(key=lambda place: place.base)
        return [place.base for place in places], places


def _class_books(class_bytes: int, spans: list[Span], in_caches: int) -> Books:
    out = sum(span.out for span in spans) * class_bytes
    central = sum(span.cached for span in spans) * class_bytes
    free = sum(span.nbytes for span in spans) - out - central
    return Books(out - in_caches, in_caches, central, free)
