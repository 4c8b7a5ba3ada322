//! A count of what is still to be done, after Go's `sync.WaitGroup`.
//!
//! `word = count << 1 | WAITERS`; somebody is linked => `count > 0`. The step to zero while somebody waits happens under the tiny
//! lock, together with claiming all of them, so that the group may be used again at once: who waits for the next
//! round is not woken by this one.

use super::{Begin, WAITERS, claim_all, count, wake_all};
use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{AcqRel, Acquire, Relaxed},
        Word,
    },
    wait::{Entry, Outcome, Place, WaiterList},
};

/// The count would be below zero, or too large to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// What it is.
    pub count: u64,
}

/// Waits for a number of things.
pub struct WaitGroup<M: Mode> {
    word: M::Word,
    waiting: Guarded<WaiterList<()>, M>,
}

impl<M: Mode> WaitGroup<M> {
    pub fn new(_: M) -> Self {
        Self {
            word: M::Word::new(0),
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    pub fn count(&self) -> u64 {
        // Ordering: Acquire as in `begin_wait`.
        self.word.load(Acquire) >> 1
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Adds to the count; at zero everybody goes on who waits. Changes nothing where the count would leave `0..2^62`.
    pub fn add(&self, n: i64) -> Result<(), OutOfRange> {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Relaxed);
        loop {
            let new = changed(word, n)?;
            if word & WAITERS != 0 && new <= WAITERS {
                return self.finish_round(n);
            }
            // Ordering: Release publishes what was done to who waits; Acquire, so that the last one to finish hands on
            // what the others did.
            match self.word.compare_exchange_weak(word, new, AcqRel, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// `add`, where it seemed to reach zero with somebody waiting.
    #[cold]
    fn finish_round(&self, n: i64) -> Result<(), OutOfRange> {
        let all = self.waiting.with(|waiting| {
            // Ordering: Relaxed, the compare-and-swap decides.
            let mut word = self.word.load(Relaxed);
            loop {
                let mut new = changed(word, n)?;
                if new == WAITERS {
                    new = 0;
                }
                // Ordering: as in `add`.
                match self.word.compare_exchange_weak(word, new, AcqRel, Relaxed) {
                    Ok(_) if new == 0 => return Ok(claim_all(waiting)),
                    Ok(_) => return Ok(Vec::new()),
                    Err(now) => word = now,
                }
            }
        })?;
        wake_all(all, Outcome::Handed);
        Ok(())
    }

    /// Answers that the count is zero, or leaves an entry for who makes it so.
    pub fn begin_wait<P: Place<()>>(&self, place: P) -> Begin<P::Left> {
        // Ordering: Acquire pairs with the Release in `add`: what was done is seen.
        if self.word.load(Acquire) >> 1 == 0 {
            return Begin::Done;
        }
        self.waiting.with(|waiting| {
            // Ordering: as above.
            let mut word = self.word.load(Acquire);
            loop {
                if word >> 1 == 0 {
                    return Begin::Done;
                }
                // Ordering: Relaxed, the bit need only be in the word that `add` moves; Acquire as above.
                match self
                    .word
                    .compare_exchange_weak(word, word | WAITERS, Relaxed, Acquire)
                {
                    Ok(_) => return Begin::Waiting(place.link(waiting, Some(()))),
                    Err(now) => word = now,
                }
            }
        })
    }

    /// Ends a wait: `Handed` says that the count was zero, anything else that it was not while the caller waited.
    ///
    /// # Safety
    /// `entry` came from [`begin_wait`](Self::begin_wait) on this group, was not finished before, and its wait is over.
    pub unsafe fn finish_wait(&self, entry: &Entry<()>) -> Outcome {
        let outcome = entry.ended();
        if outcome != Outcome::Handed {
            self.waiting.with(|waiting| {
                if waiting.remove(entry) && waiting.is_empty() {
                    // Ordering: Relaxed, a read-modify-write carries on the release sequence that it stands in.
                    self.word.fetch_and(!WAITERS, Relaxed);
                }
            });
        }
        outcome
    }
}

/// The word after `add(n)`.
fn changed(word: u64, n: i64) -> Result<u64, OutOfRange> {
    let count = word >> 1;
    count
        .checked_add_signed(n)
        .filter(|count| *count < 1 << 62)
        .map(|count| count << 1 | word & WAITERS)
        .ok_or(OutOfRange { count })
}
