//! A call that is made once, after Go's `sync.Once`.
//!
//! ```text
//! word = NEW --claim--> the caller's number << 1 --finish_run--> DONE
//! ```

use super::{Begin, Owner, claim_all, count, wake_all};
use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{Acquire, Relaxed, Release},
        Word,
    },
    wait::{Entry, Outcome, Place, WaiterList},
};

const NEW: u64 = 0;
const DONE: u64 = 1;
// Anything else is the number of who makes the call, times two.

/// Whose the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "whoever is to make the call has to"]
pub enum Turn {
    /// It has been made.
    Done,
    /// The asker's, who makes it and then calls [`Once::finish_run`].
    Mine,
    /// The asker's, who is in the middle of it.
    Nested,
    /// Another's, who is in the middle of it.
    TakenByOther,
}

/// Lets one of many callers make a call, and the others wait until it was made.
pub struct Once<M: Mode> {
    word: M::Word,
    waiting: Guarded<WaiterList<()>, M>,
}

impl<M: Mode> Once<M> {
    pub fn new(_: M) -> Self {
        Self {
            word: M::Word::new(NEW),
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    /// Whether the call has been made.
    #[inline]
    pub fn is_done(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `finish_run`: who goes on sees what the call did.
        self.word.load(Acquire) == DONE
    }

    /// Who makes the call now.
    pub fn runner(&self) -> Option<Owner> {
        // Ordering: Relaxed, an answer that may be old by the time it is used.
        match self.word.load(Relaxed) {
            NEW | DONE => None,
            runner => Some(Owner::new(runner >> 1)),
        }
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Asks to make the call.
    pub fn claim(&self, me: Owner) -> Turn {
        let mine = me.number() << 1;
        // Ordering: Acquire as in `is_done`.
        let mut word = self.word.load(Acquire);
        loop {
            match word {
                DONE => return Turn::Done,
                NEW => {}
                word if word == mine => return Turn::Nested,
                _ => return Turn::TakenByOther,
            }
            // Ordering: Relaxed, nothing is published yet; Acquire as above.
            match self.word.compare_exchange_weak(NEW, mine, Relaxed, Acquire) {
                Ok(_) => return Turn::Mine,
                Err(now) => word = now,
            }
        }
    }

    /// Waits until the call has been made that another makes.
    pub fn begin_wait<P: Place<()>>(&self, place: P) -> Begin<P::Left> {
        self.waiting.with(|waiting| {
            // The step to done is under the tiny lock too.
            if self.is_done() {
                Begin::Done
            } else {
                Begin::Waiting(place.link(waiting, Some(())))
            }
        })
    }

    /// Ends a wait: `Handed` says that the call has been made.
    ///
    /// # Safety
    /// `entry` came from [`begin_wait`](Self::begin_wait) on this object, was not finished before, and its wait is over.
    pub unsafe fn finish_wait(&self, entry: &Entry<()>) -> Outcome {
        let outcome = entry.ended();
        if outcome != Outcome::Handed {
            self.waiting.with(|waiting| waiting.remove(entry));
        }
        outcome
    }

    /// The call has been made, by the caller of this.
    pub fn finish_run(&self) {
        let all = self.waiting.with(|waiting| {
            // Ordering: Release publishes what the call did.
            self.word.store(DONE, Release);
            claim_all(waiting)
        });
        wake_all(all, Outcome::Handed);
    }
}
