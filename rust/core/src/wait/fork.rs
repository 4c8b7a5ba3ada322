//! Which side of a `fork()` we are on.
//!
//! A forked child keeps the memory of its parent but only one of its threads. Whoever else was
//! waiting does not exist there: what belongs to an earlier generation is forgotten, not woken.

use std::sync::atomic::{AtomicU32, Ordering};

// Not from `sync`: the value outlives every model run, and only the child's single thread writes it.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that first loaded penstock.
#[inline]
pub fn generation() -> u32 {
    // Ordering: Relaxed, written only while the process has a single thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Called in a forked child, before anything else of this crate.
pub fn entered_child() {
    // Ordering: Relaxed, as above.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
