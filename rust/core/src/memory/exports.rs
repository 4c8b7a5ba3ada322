//! Who uses the memory of a buffer, and when it goes back.
//!
//! One word says it all, `exports << 1 | released`, because a release on one thread may meet an export on another, or
//! the end of a scope that releases too: whoever changes the word first decides. Memory goes back in exactly one of
//! these transitions, each to `released` with no exports, and by whoever made it:
//!
//! ```text
//!   0 exports --- release, now or at last ------------------------> back
//!   n exports --- release now --> refused, nothing changes
//!   n exports --- release at last --> released, n exports --- last export ends --> back
//! ```

use crate::sync::{Mode, Ordering, Word};

const RELEASED: u64 = 1;
const EXPORT: u64 = 2;

/// The exports of one buffer, and whether it was released.
#[derive(Debug)]
pub struct Exports<M: Mode> {
    /// `exports << 1 | released`; any thread that uses the buffer changes it.
    word: M::Word,
}

/// What became of an attempt to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Release {
    /// The caller has to give the memory back.
    Now,
    /// It was released before.
    Before,
    /// There are so many exports.
    Exported(u64),
}

/// It was released, so there are no more exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released;

impl<M: Mode> Default for Exports<M> {
    #[inline]
    fn default() -> Self {
        Self {
            word: M::Word::new(0),
        }
    }
}

impl<M: Mode> Exports<M> {
    /// One more.
    #[inline]
    pub fn begin(&self) -> Result<(), Released> {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & RELEASED != 0 {
                return Err(Released);
            }
            match self.word.compare_exchange_weak(
                word,
                word + EXPORT,
                // Ordering: Relaxed, whoever has a buffer got it with its memory; Relaxed, tried again.
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// One is over. If this says so, the caller has to give the memory back.
    #[inline]
    #[must_use]
    pub fn end(&self) -> bool {
        // Ordering: Release publishes what was written through the export to whoever gives the memory back,
        // Acquire for the case that it is this one.
        let old = self.word.fetch_add(EXPORT.wrapping_neg(), Ordering::AcqRel);
        debug_assert!(old >= EXPORT, "an export ended that never began");
        old == RELEASED | EXPORT
    }

    /// Releases if there are no exports.
    #[inline]
    pub fn release_now(&self) -> Release {
        loop {
            match self.word.compare_exchange_weak(
                0,
                RELEASED,
                // Ordering: Acquire pairs with the Release in `end`: all writes through exports are done.
                Ordering::Acquire,
                // Ordering: Relaxed, nothing follows from it.
                Ordering::Relaxed,
            ) {
                Ok(_) => return Release::Now,
                Err(0) => {} // failed for no reason
                Err(word) if word & RELEASED != 0 => return Release::Before,
                Err(word) => return Release::Exported(word / EXPORT),
            }
        }
    }

    /// Releases, now or with the last export.
    #[inline]
    pub fn release_at_last(&self) -> Release {
        // Ordering: Acquire, as in `release_now`.
        match self.word.fetch_or(RELEASED, Ordering::Acquire) {
            0 => Release::Now,
            word if word & RELEASED != 0 => Release::Before,
            word => Release::Exported(word / EXPORT),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        // Ordering: Relaxed, a picture of the moment.
        self.word.load(Ordering::Relaxed) / EXPORT
    }

    /// Whether it was released, maybe with exports left.
    #[inline]
    pub fn is_released(&self) -> bool {
        // Ordering: Relaxed, a released buffer is recognised, not used.
        self.word.load(Ordering::Relaxed) & RELEASED != 0
    }
}
