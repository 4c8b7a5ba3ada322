//! Permits, which belong to nobody: anyone may give one.
//!
//! `word = permits << 1 | WAITERS`. Somebody is linked => `permits == 0`: a permit that is given while somebody waits goes to
//! the longest waiter by hand, so a newcomer finds none and queues up behind.

use super::{Begin, WAITERS, count, wake};
use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{Acquire, Relaxed, Release},
        Word,
    },
    wait::{Entry, Outcome, Place, WaiterList},
};

const ONE: u64 = 1 << 1;
const PERMITS_MAX: u64 = 1 << 62;

/// A fair counting semaphore.
pub struct Semaphore<M: Mode> {
    word: M::Word,
    waiting: Guarded<WaiterList<()>, M>,
}

impl<M: Mode> Semaphore<M> {
    /// More permits than this cannot be free at a time.
    pub const PERMITS_MAX: u64 = PERMITS_MAX;

    /// # Panics
    /// With more than [`PERMITS_MAX`](Self::PERMITS_MAX).
    pub fn new(permits: u64, _: M) -> Self {
        assert!(permits <= Self::PERMITS_MAX, "too many permits: {permits}");
        Self {
            word: M::Word::new(permits << 1),
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    /// How many are free.
    pub fn permits(&self) -> u64 {
        // Ordering: Relaxed, an answer that may be old by the time it is used.
        self.word.load(Relaxed) >> 1
    }

    /// How many wait for one.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Takes a permit if one is free. None is while somebody waits.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Relaxed);
        while word >= ONE {
            // Ordering: Acquire pairs with the Release in `release`: who gave the permit is seen by who takes it.
            match self
                .word
                .compare_exchange_weak(word, word - ONE, Acquire, Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Takes a permit, or leaves an entry that whoever gives one will find.
    #[inline]
    pub fn begin_acquire<P: Place<()>>(&self, place: P) -> Begin<P::Left> {
        if self.try_acquire() {
            Begin::Done
        } else {
            self.wait(place)
        }
    }

    #[cold]
    fn wait<P: Place<()>>(&self, place: P) -> Begin<P::Left> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, the compare-and-swap decides.
            let mut word = self.word.load(Relaxed);
            loop {
                let new = if word >= ONE { word - ONE } else { WAITERS };
                // Ordering: Acquire as in `try_acquire`.
                match self.word.compare_exchange_weak(word, new, Acquire, Relaxed) {
                    Ok(old) if old >= ONE => return Begin::Done,
                    Ok(_) => return Begin::Waiting(place.link(waiting, Some(()))),
                    Err(now) => word = now,
                }
            }
        })
    }

    /// Ends a wait for a permit: `Handed` says that the caller has it, anything else that it has none.
    ///
    /// # Safety
    /// `entry` came from [`begin_acquire`](Self::begin_acquire) on this semaphore, was not finished before, and its wait is over.
    pub unsafe fn finish_acquire(&self, entry: &Entry<()>) -> Outcome {
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

    /// Gives `permits`: to the longest waiters, a permit each, and what is left to whoever comes. `false` where
    /// more would be free than can be counted: then those are not given.
    #[inline]
    #[must_use = "it may have given none"]
    pub fn release(&self, permits: u64) -> bool {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Relaxed);
        while word & WAITERS == 0 {
            let Some(new) = more(word, permits) else {
                return false;
            };
            // Ordering: Release publishes what the giver did to the taker.
            match self.word.compare_exchange_weak(word, new, Release, Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        self.hand_out(permits)
    }

    #[cold]
    fn hand_out(&self, permits: u64) -> bool {
        if permits > Self::PERMITS_MAX {
            return false;
        }
        let mut left = permits;
        while left > 0 {
            // One at a time: no list of those served is needed, and the tiny lock is held for short. Nobody overtakes
            // meanwhile: while somebody is linked no permit is free.
            let served = self.waiting.with(|waiting| {
                let served = waiting.claim_first();
                if waiting.is_empty() {
                    // Ordering: Relaxed, as in `finish_acquire`.
                    self.word.fetch_and(!WAITERS, Relaxed);
                }
                served.ok_or_else(|| self.add(left))
            });
            match served {
                Ok(served) => {
                    wake(served, Outcome::Handed);
                    left -= 1;
                }
                Err(added) => return added,
            }
        }
        true
    }

    /// Under the tiny lock, with nobody linked.
    fn add(&self, permits: u64) -> bool {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Relaxed);
        loop {
            let Some(new) = more(word, permits) else {
                return false;
            };
            // Ordering: Release as in `release`.
            match self.word.compare_exchange_weak(word, new, Release, Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }
}

/// The word with so many more permits, or `None` where those are too many.
fn more(word: u64, permits: u64) -> Option<u64> {
    let new = word.checked_add(permits.checked_mul(ONE)?)?;
    (new >> 1 <= PERMITS_MAX).then_some(new)
}
