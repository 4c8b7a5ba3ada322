//! When to collect garbage: arithmetic over readings, with no interpreter in it.
//!
//! [`Pacer`] is told of each collection and of each idle window, and answers with thresholds for the collector and with
//! what to collect now. It has three means, which it takes in this order:
//!
//! - *idle windows* ([`idle`]): a collection that fits between now and what comes next harms nobody;
//! - *slices*: while there are no windows the collector's own thresholds make it look at what is new, in portions that
//!   take no longer than the pause budget, by what earlier ones have taken ([`cost`]);
//! - the *growth bound*: what has survived its slice is looked at again once it has grown past a share of what was alive
//!   (Go's `GOGC`), however long that takes.
//!
//! The thresholds are the plan and the collector carries it out, so nothing polls: a program that keeps its thread from
//! its first line to its last is served like one that parks a million tasks. Turning the collector off while the program
//! is busy needs somebody who notices growth, and there is nobody in a thread that computes.
//!
//! [`pauses`] counts what it has cost. Every collection is in there, whoever asked for it.

pub mod cost;
pub mod idle;
pub mod pacer;
pub mod pauses;

pub use pacer::{Finished, Pacer, Policy, Thresholds};
pub use pauses::Pauses;

/// How the interpreter's collector works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collector {
    /// Young, middle and old objects, each looked at as a whole (`CPython` up to 3.13, and from 3.14.5 on).
    Generational,
    /// Young objects, and a part of the old ones each time (`CPython` 3.14.0 to 3.14.4). It paces itself.
    Incremental,
    /// All objects, each time, while every thread stands still (free-threaded builds).
    WholeHeap,
}

/// Who wanted a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The scheduler had nothing to do.
    Idle,
    /// The heap has reached its bound.
    Growth,
    /// The program asked for it.
    Manual,
    /// The collector's thresholds: a slice, or whatever they say where the pacer does not set them.
    Automatic,
}

impl Trigger {
    pub const ALL: [Self; 4] = [Self::Idle, Self::Growth, Self::Manual, Self::Automatic];
}
