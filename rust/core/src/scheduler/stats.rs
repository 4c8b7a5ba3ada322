//! What the scheduler counts: per machine, written by its thread alone, summed up on demand.

use crate::sync::{AtomicU64, Ordering};

/// A number that one thread at a time adds to and anyone may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, by: u64) {
        // Ordering: Relaxed, one writer.
        let old = self.0.load(Ordering::Relaxed);
        // Ordering: Release pairs with the Acquire in `get`: who sees that a task has finished sees also that it has
        // started, on whichever machine. A sum over machines is exact once they rest.
        self.0.store(old.wrapping_add(by), Ordering::Release);
    }

    pub fn get(&self) -> u64 {
        // Ordering: Acquire, as above.
        self.0.load(Ordering::Acquire)
    }
}

/// Counted by one machine.
#[derive(Debug, Default)]
pub struct Counters {
    pub spawned: Counter,
    pub started: Counter,
    pub finished: Counter,
    pub parks: Counter,
    /// Parked tasks that this machine's tasks readied.
    pub wakes: Counter,
    /// Tasks taken from other workers' queues, or from another node's.
    pub steals: Counter,
    /// Those of them that came from another node.
    pub remote_steals: Counter,
    /// Workers that went on on another thread.
    pub handoffs: Counter,
}

/// The sum over all machines at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub spawned: u64,
    pub started: u64,
    pub finished: u64,
    pub parks: u64,
    pub wakes: u64,
    pub steals: u64,
    pub remote_steals: u64,
    pub handoffs: u64,
    pub threads: u64,
}
