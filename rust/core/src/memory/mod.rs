//! Pooled buffers: Go's allocator in small.
//!
//! ```text
//! arena (address space) > span (pages cut into equal slots) > slot
//!
//!   thread ── cache ──┐ (a few slots of each small class; no lock)
//!   thread ── cache ──┼── central (spans, free slots, the budget, who waits; one lock)
//!   elsewhere ────────┘
//! ```
//!
//! - [`size_class`]: which sizes there are, and what they waste.
//! - [`arena`]: where pages come from, and direct mappings for what is above the largest class.
//! - [`span`]: pages cut into slots.
//! - [`cache`]: slots a thread can have without a lock, and the list through which those that were
//!   released on other threads come home.
//! - [`central`]: all the rest, under the pool's lock.
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
pub mod cache;
pub mod central;
pub mod exports;
pub mod map;
pub mod objects;
pub mod poison;
pub mod pool;
pub mod size_class;
pub mod span;

pub use central::Stake;
pub use exports::{Exports, Release, Released};
pub use map::{ArenaMap, CacheMap, DirectMap, Map, SlotState, SpanMap};
pub use pool::{AcquireError, Begun, Block, Pool, PoolMode, PoolOptions, Stats, TryAcquireError};
pub use size_class::{ALIGN, SizeClass};
