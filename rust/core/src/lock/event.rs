//! A flag to wait for.
//!
//! `word = set << 1 | WAITERS`, never both. Setting it while somebody waits happens under the tiny lock, together with claiming
//! all of them: so who waits after a `clear` that came later is not woken by that `set`.

use super::{Begin, WAITERS, claim_all, count, wake_all};
use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{Acquire, Relaxed, Release},
        Word,
    },
    wait::{Entry, Outcome, Place, WaiterList},
};

const SET: u64 = 1 << 1;

/// Set or not.
pub struct Event<M: Mode> {
    word: M::Word,
    waiting: Guarded<WaiterList<()>, M>,
}

impl<M: Mode> Event<M> {
    pub fn new(_: M) -> Self {
        Self {
            word: M::Word::new(0),
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    #[inline]
    pub fn is_set(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `set`: who sees it set sees what came before.
        self.word.load(Acquire) & SET != 0
    }

    /// How many wait for it.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Sets it, and lets everybody go on who waits.
    pub fn set(&self) {
        // Ordering: Relaxed, the compare-and-swap decides.
        let mut word = self.word.load(Relaxed);
        while word & WAITERS == 0 {
            // Also where it is set already: a later `is_set` sees what came before this call.
            // Ordering: Release pairs with the Acquire in `is_set` and `begin_wait`.
            match self.word.compare_exchange_weak(word, SET, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        let all = self.waiting.with(|waiting| {
            // Ordering: Release as above.
            self.word.fetch_or(SET, Release);
            // Ordering: Relaxed, a read-modify-write carries on the release sequence that it stands in.
            self.word.fetch_and(!WAITERS, Relaxed);
            claim_all(waiting)
        });
        wake_all(all, Outcome::Handed);
    }

    /// Makes it not set.
    pub fn clear(&self) {
        // Ordering: Relaxed, a read-modify-write carries on the release sequence of an earlier `set`.
        self.word.fetch_and(!SET, Relaxed);
    }

    /// Answers that it is set, or leaves an entry that a `set` will find.
    pub fn begin_wait<P: Place<()>>(&self, place: P) -> Begin<P::Left> {
        if self.is_set() {
            return Begin::Done;
        }
        self.waiting.with(|waiting| {
            // Ordering: Acquire as in `is_set`.
            let mut word = self.word.load(Acquire);
            loop {
                if word & SET != 0 {
                    return Begin::Done;
                }
                // Ordering: Relaxed, the bit need only be in the word that `set` moves; Acquire as in `is_set`.
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

    /// Ends a wait: `Handed` says that it was set, anything else that it was not while the caller waited.
    ///
    /// # Safety
    /// `entry` came from [`begin_wait`](Self::begin_wait) on this event, was not finished before, and its wait is over.
    pub unsafe fn finish_wait(&self, entry: &Entry<()>) -> Outcome {
        let outcome = entry.ended();
        if outcome != Outcome::Handed {
            self.waiting.with(|waiting| {
                if waiting.remove(entry) && waiting.is_empty() {
                    // Ordering: Relaxed, as in `clear`.
                    self.word.fetch_and(!WAITERS, Relaxed);
                }
            });
        }
        outcome
    }
}
