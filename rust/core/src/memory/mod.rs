//! Pooled buffers: Go's allocator in small.
//!
//! ```text
//! arena (address space) > span (pages cut into equal slots) > slot
//!
//!   thread ── cache ──┐ (a few slots of each small class; no lock)
//!   thread ── cache ──┼── central list of the node (spans, free slots; a lock) ── arena of the node
//!   elsewhere ────────┘
//! ```
//!
//! - [`size_class`]: which sizes there are, and what they waste.
//! - [`nodes`]: which nodes there are, and on which a caller is.
//! - [`mapping`]: pages from the system, and what it may deny.
//! - [`arena`]: the address space of a node.
//! - [`span`]: pages cut into slots.
//! - [`cache`]: slots a thread can have without a lock, and the list through which those that were
//!   released on other threads come home.
//! - [`gate`]: how another thread gets at what a cache holds.
//! - [`seats`]: which caches a thread owns.
//! - [`central`]: the spans and free slots of a node.
//! - [`books`]: what one lock guards: central lists, direct mappings, the budget, and who waits for it.
//! - [`stock`]: what the threads that use a pool share: locks, books, caches.
//! - [`warm`]: memory that is there before it is asked for; [`trim`]: memory that goes back to the system.
//! - [`map`]: a picture of it all.
//! - [`exports`]: who uses the memory of a buffer, and when it goes back.
//! - [`objects`]: idle objects of any kind, which has nothing to do with the rest.
//! - [`poison`]: finds writes to memory after its release, where somebody asks for that.
//! - [`pool`]: the two ways through: [`Pool::try_acquire`], and [`Pool::begin_acquire`] for who may wait.
//!
//! The books, in bytes of size classes: `in_use + cached == reserved <= limit`. A slot is reserved from
//! the first time it is handed out until it is forgotten; a direct mapping while it exists.
//!
//! Tried and dropped: links of free slots inside the free slots themselves. A program that writes to a
//! buffer after it has released it would then corrupt the pool instead of a buffer. One exception is left: a
//! slot that was released on another thread carries its own link until it has come home ([`cache`]).

pub mod arena;
pub mod books;
pub mod cache;
pub mod central;
pub mod exports;
pub mod gate;
pub mod map;
pub mod mapping;
pub mod nodes;
pub mod objects;
pub mod poison;
pub mod pool;
pub mod seats;
pub mod size_class;
pub mod span;
pub mod stock;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod trim;
pub mod warm;

pub use books::Stake;
pub use exports::{Exports, Release, Released};
pub use map::{ArenaMap, CacheMap, DirectMap, Map, SlotState, SpanMap};
pub use mapping::Denied;
pub use nodes::Nodes;
pub use pool::{
    AcquireError, Begun, Block, NodeStats, Pool, PoolOptions, Report, Stats, TryAcquireError,
};
pub use seats::PoolMode;
pub use size_class::{ALIGN, SizeClass};
pub use warm::{WarmError, Warming};
