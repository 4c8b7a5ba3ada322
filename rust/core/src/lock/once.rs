//! A call that is made once, after Go's `sync.Once`.
//!
//! ```text
//! word = NEW --begin, who gets to make the call--> running: caller << 1 | RUNNING --finish_run--> DONE
//! ```

use super::{Owner, claim_all, count, wake_all};
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

/// How a caller began.
#[derive(Debug)]
#[must_use = "whoever is to make the call has to"]
pub enum BeginOnce<L> {
    /// The call has been made.
    Done,
    /// The caller makes it, and then calls [`Once::finish_run`].
    Run,
    /// The caller is in the middle of it.
    Nested,
    /// Another makes it. The waiter is armed.
    Waiting(L),
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

    pub fn begin<P: Place<()>>(&self, me: Owner, place: P) -> BeginOnce<P::Left> {
        if self.is_done() {
            return BeginOnce::Done;
        }
        self.waiting.with(|waiting| {
            // Ordering: Acquire as in `is_done`; the word changes under the tiny lock only.
            match self.word.load(Acquire) {
                DONE => BeginOnce::Done,
                NEW => {
                    // Ordering: Relaxed, nothing is published yet.
                    self.word.store(me.number() << 1, Relaxed);
                    BeginOnce::Run
                }
                runner if runner == me.number() << 1 => BeginOnce::Nested,
                _ => BeginOnce::Waiting(place.link(waiting, Some(()))),
            }
        })
    }

    /// Ends a wait: `Handed` says that the call has been made.
    ///
    /// # Safety
    /// `entry` came from [`begin`](Self::begin) on this object, was not finished before, and its wait is over.
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
