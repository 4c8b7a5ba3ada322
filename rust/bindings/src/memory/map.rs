//! A pool's picture as plain Python values, for `penstock.memviz`.

use penstock_core::memory::map::{ArenaMap, CacheMap, DirectMap, Map, SlotState, SpanMap};
use pyo3::{prelude::*, types::PyBytes};

use super::BufferPool;

/// Base, bytes, bytes of a slot, and a byte for the state of each slot.
type Span<'py> = (usize, usize, usize, Bound<'py, PyBytes>);
/// Node, base, bytes, huge pages, spans, and the offsets and bytes of what is in no span.
type Arena<'py> = (u32, usize, usize, bool, Vec<Span<'py>>, Vec<(usize, usize)>);
/// Node, bytes of a slot and slots for each bin, then slots and bytes on their way home.
type Cache = (u32, Vec<(usize, usize)>, usize, usize);
/// Node, base, bytes.
type Direct = (u32, usize, usize);
/// In use, cached, reserved, and the most that was reserved.
type Totals = (usize, usize, usize, usize);
/// The limit, the totals, then what there is.
pub type Picture<'py> = (
    Option<usize>,
    Totals,
    Vec<Arena<'py>>,
    Vec<Cache>,
    Vec<Direct>,
);

/// The map of `pool`. It is complete before the first Python value is made.
pub fn picture<'py>(py: Python<'py>, pool: &BufferPool) -> Picture<'py> {
    let Map {
        stats,
        arenas,
        caches,
        direct,
    } = pool.pool.map();
    (
        pool.pool.options().max_bytes,
        (
            stats.in_use,
            stats.cached,
            stats.reserved,
            stats.reserved_peak,
        ),
        arenas.into_iter().map(|map| arena(py, map)).collect(),
        caches.into_iter().map(cache).collect(),
        direct.into_iter().map(mapping).collect(),
    )
}

fn arena(py: Python<'_>, map: ArenaMap) -> Arena<'_> {
    let spans = map.spans.iter().map(|map| span(py, map)).collect();
    (map.node, map.base, map.bytes, map.huge, spans, map.free)
}

fn span<'py>(py: Python<'py>, map: &SpanMap) -> Span<'py> {
    let states: Vec<u8> = map.slots.iter().copied().map(state).collect();
    (
        map.base,
        map.bytes,
        map.class_bytes,
        PyBytes::new(py, &states),
    )
}

/// As `penstock._memviz.snapshot` reads it.
fn state(slot: SlotState) -> u8 {
    match slot {
        SlotState::Bare => 0,
        SlotState::Cached => 1,
        SlotState::Out => 2,
    }
}

fn cache(map: CacheMap) -> Cache {
    (map.node, map.bins, map.remote_slots, map.remote_bytes)
}

fn mapping(map: DirectMap) -> Direct {
    (map.node, map.base, map.bytes)
}
