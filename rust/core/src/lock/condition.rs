//! Who waits to be notified.
//!
//! Only the list: the lock that goes with it is the caller's, who links itself, then lets go of that lock, and takes it
//! again when the wait has ended. A notify is called by the holder of that lock, so it finds everybody who has let go
//! of it to wait, and nobody joins meanwhile.
//!
//! A notified waiter could be moved to the lock's own list instead of being woken to queue up there ("wait morphing"); it
//! would save a switch per notified task, and need entries that two lists' locks guard in turn. It is not done.

use super::{count, wake};
use crate::{
    sync::{Guarded, Mode},
    wait::{Entry, Outcome, Place, WaiterList},
};

/// A condition variable without its lock.
pub struct Condition<M: Mode> {
    waiting: Guarded<WaiterList<()>, M>,
}

impl<M: Mode> Condition<M> {
    pub fn new(_: M) -> Self {
        Self {
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Leaves an entry. The caller holds the lock that goes with it, and lets go of it next.
    pub fn begin_wait<P: Place<()>>(&self, place: P) -> P::Left {
        self.waiting.with(|waiting| place.link(waiting, Some(())))
    }

    /// Ends a wait: `Handed` says that it was notified, and that this notify is spent on the caller.
    ///
    /// # Safety
    /// `entry` came from [`begin_wait`](Self::begin_wait) on this condition, was not finished before, and its wait is over.
    pub unsafe fn finish_wait(&self, entry: &Entry<()>) -> Outcome {
        let outcome = entry.ended();
        if outcome != Outcome::Handed {
            self.waiting.with(|waiting| waiting.remove(entry));
        }
        outcome
    }

    /// Ends the waits of the `n` who have waited longest, or of all if there are fewer; says how many it were.
    pub fn notify(&self, n: usize) -> usize {
        let mut notified = 0;
        while notified < n
            && let Some(first) = self.waiting.with(WaiterList::claim_first)
        {
            wake(first, Outcome::Handed);
            notified += 1;
        }
        notified
    }
}
