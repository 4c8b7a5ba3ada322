//! Locks that park: what threads and tasks agree by, other than by passing values.
//!
//! - [`Lock`]: one owner at a time, who alone lets go;
//! - [`Semaphore`]: so many permits, which belong to nobody;
//! - [`Event`]: set or not, and who waits for it to be set;
//! - [`WaitGroup`]: a count, and who waits for it to be zero;
//! - [`Barrier`]: a number of parties that go on together;
//! - [`Condition`]: who waits to be notified, by the holder of a lock;
//! - [`Once`]: a call that is made once.
//!
//! As in [`channel`](crate::channel) a waiting operation is two calls: `begin_x` does the work, or arms the caller's waiter
//! and leaves an [`Entry`](crate::wait::Entry) where a peer finds it; the caller sleeps until the wait has ended and calls `finish_x`. Of a
//! hand-over, a timeout and a cancellation exactly one happens, by the claim word.
//!
//! # Fair, by direct hand-over
//! What is let go of while somebody waits goes to the longest waiter by hand and is never free in between, so nobody
//! overtakes: a lock passes from owner to owner, a permit from releaser to taker. A waiter whose wait ended otherwise
//! was given nothing; the hand-over that loses its claim goes on to the next. A lock that lets newcomers barge in (Go's,
//! until one has waited for a millisecond) has more throughput under contention between threads that run at once, and
//! starves; here most waiters are tasks of one worker, where a hand-over costs no more than any other wake.
//!
//! # The word
//! Each of the first four keeps its state in one word whose lowest bit, [`WAITERS`], says that somebody is linked. Without it
//! an operation is one compare-and-swap; with it, it goes to the list, under the mode's tiny lock. The bit changes under
//! that lock only, and is in the very word that the fast way has to move, so no wake-up is lost and no fence is needed:
//! whoever links itself sets the bit by the same compare-and-swap that finds that it has to wait.
//!
//! Whenever the tiny lock is free: somebody is linked => the word has `WAITERS`, and the structure is such that they have
//! to wait (the lock is held, no permit is free, the event is not set, the count is above zero).
//!
//! After a fork the lists forget the waiters of the parent ([`fork`](crate::wait::fork)); a bit that is left over sends the next
//! operation to the list, which is empty, and is put right. What was held stays held.

mod barrier;
mod condition;
mod event;
mod mutex;
mod once;
mod semaphore;
mod wait_group;

pub use barrier::{Arrived, Barrier, BeginArrive, Lead};
pub use condition::Condition;
pub use event::Event;
pub use mutex::{Lock, NotOwner, Owner};
pub use once::{Once, Turn};
pub use semaphore::Semaphore;
pub use wait_group::{OutOfRange, WaitGroup};

use crate::wait::{Claim, Outcome, Unlinked, WaiterList};

/// Somebody is linked in the list that belongs to the word.
const WAITERS: u64 = 1;

/// How an operation that may wait began.
#[derive(Debug)]
#[must_use = "an entry must be finished"]
pub enum Begin<L> {
    /// It is done.
    Done,
    /// The waiter is armed; finish the operation with the entry when the wait has ended.
    Waiting(L),
}

/// An entry taken off its list, to be served, and the claim to complete after the lock.
type Claimed<T> = (Unlinked<T>, Claim);

/// Everybody who can be claimed, for one moment that lets all of them go on. The vector grows under the lock.
fn claim_all<T>(list: &mut WaiterList<T>) -> Vec<Claimed<T>> {
    std::iter::from_fn(|| list.claim_first()).collect()
}

/// Ends a wait that was claimed. Called outside the lock.
fn wake<T>((entry, claim): Claimed<T>, outcome: Outcome) {
    claim.complete(outcome);
    drop(entry);
}

fn wake_all<T>(all: Vec<Claimed<T>>, outcome: Outcome) {
    for claimed in all {
        wake(claimed, outcome);
    }
}

/// How many are linked, those whose wait has ended and who are not finished yet included.
fn count<T>(list: &mut WaiterList<T>) -> usize {
    let mut count = 0;
    list.for_each(|_| count += 1);
    count
}
