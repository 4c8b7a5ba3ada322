//! Mutual exclusion with an owner.
//!
//! ```text
//! word = 0                        free, and nobody is linked
//!        owner << 1               held
//!        owner << 1 | WAITERS     held, and somebody is linked
//! ```
//!
//! The owner is a number of the caller's making: the core compares it, no more. A release by anybody else changes nothing.
//! An entry's slot holds the number of who waits; whoever lets go writes it into the word, so the lock is the next owner's
//! before that one knows.

use super::{Begin, WAITERS, count, wake};
use crate::{
    sync::{
        Guarded, Mode,
        Ordering::{Acquire, Relaxed, Release},
        Word,
    },
    wait::{Entry, Outcome, Place, WaiterList},
};

const FREE: u64 = 0;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// # Panics
    /// Where `number` is zero or has its highest bit set.
    #[inline]
    pub fn new(number: u64) -> Self {
        assert!(number != 0 && number >> 63 == 0, "no owner: {number:#x}");
        Self(number << 1)
    }

    #[inline]
    pub fn number(self) -> u64 {
        self.0 >> 1
    }

    fn of_word(word: u64) -> Option<Self> {
        let owner = word & !WAITERS;
        (owner != FREE).then_some(Self(owner))
    }
}

/// A release by somebody who is not the owner; says who is, if anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOwner(pub Option<Owner>);

/// A fair lock that belongs to who took it.
pub struct Lock<M: Mode> {
    word: M::Word,
    waiting: Guarded<WaiterList<Owner>, M>,
}

impl<M: Mode> Lock<M> {
    pub fn new(_: M) -> Self {
        Self {
            word: M::Word::new(FREE),
            waiting: Guarded::new(WaiterList::default()),
        }
    }

    /// Who holds it.
    pub fn owner(&self) -> Option<Owner> {
        // Ordering: Relaxed, an answer that may be old by the time it is used.
        Owner::of_word(self.word.load(Relaxed))
    }

    /// How many wait for it.
    pub fn waiters(&self) -> usize {
        self.waiting.with(count)
    }

    /// Takes it if it is free. It is not while somebody waits.
    #[inline]
    pub fn try_acquire(&self, me: Owner) -> bool {
        loop {
            // Ordering: Acquire pairs with the Release in `release`: what the last owner did is seen by this one.
            match self
                .word
                .compare_exchange_weak(FREE, me.0, Acquire, Relaxed)
            {
                Ok(_) => return true,
                Err(FREE) => {} // failed for no reason
                Err(_) => return false,
            }
        }
    }

    /// Takes it, or leaves an entry that whoever lets go of it will find.
    #[inline]
    pub fn begin_acquire<P: Place<Owner>>(&self, me: Owner, place: P) -> Begin<P::Left> {
        if self.try_acquire(me) {
            Begin::Done
        } else {
            self.wait(me, place)
        }
    }

    #[cold]
    fn wait<P: Place<Owner>>(&self, me: Owner, place: P) -> Begin<P::Left> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, the compare-and-swap decides.
            let mut word = self.word.load(Relaxed);
            loop {
                let new = if word == FREE { me.0 } else { word | WAITERS };
                // Ordering: Acquire as in `try_acquire`; the bit needs no more than to be in the word that moves.
                match self.word.compare_exchange_weak(word, new, Acquire, Relaxed) {
                    Ok(FREE) => return Begin::Done,
                    Ok(_) => return Begin::Waiting(place.link(waiting, Some(me))),
                    Err(now) => word = now,
                }
            }
        })
    }

    /// Ends a wait for it: `Handed` says that it is the caller's now, anything else that it is not.
    ///
    /// # Safety
    /// `entry` came from [`begin_acquire`](Self::begin_acquire) on this lock, was not finished before, and its wait is over.
    pub unsafe fn finish_acquire(&self, entry: &Entry<Owner>) -> Outcome {
        let outcome = entry.ended();
        if outcome != Outcome::Handed {
            self.waiting.with(|waiting| {
                if waiting.remove(entry) && waiting.is_empty() {
                    // Whoever holds the lock lets go of it the fast way again.
                    self.clear_waiters();
                }
            });
        }
        outcome
    }

    /// Lets go of it, into the hands of the longest waiter if there is one.
    #[inline]
    pub fn release(&self, me: Owner) -> Result<(), NotOwner> {
        loop {
            // Ordering: Release publishes what the owner did to the next one.
            match self
                .word
                .compare_exchange_weak(me.0, FREE, Release, Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(word) if word == me.0 => {} // failed for no reason
                Err(word) if word == me.0 | WAITERS => {
                    self.hand_over();
                    return Ok(());
                }
                Err(word) => return Err(NotOwner(Owner::of_word(word))),
            }
        }
    }

    /// Called by the owner, who saw `WAITERS`.
    #[cold]
    fn hand_over(&self) {
        let served = self.waiting.with(|waiting| {
            let served = waiting.claim_first();
            let word = match &served {
                // SAFETY: the claim makes the slot ours until it completes.
                Some((entry, _)) => unsafe { entry.take() }.expect("who waits says who it is").0,
                None => FREE,
            };
            let flag = if waiting.is_empty() { 0 } else { WAITERS };
            // INVARIANT: without a linked waiter there is no bit; a free lock has nobody linked, for finding nobody to
            // claim empties the list. The word has the bit, so only the owner and holders of the tiny lock move it.
            // Ordering: Release as in `release`.
            self.word.store(word | flag, Release);
            served
        });
        if let Some(served) = served {
            wake(served, Outcome::Handed);
        }
    }

    /// Under the tiny lock, with an empty list.
    fn clear_waiters(&self) {
        // Ordering: Relaxed, a read-modify-write carries on the release sequence that it stands in.
        self.word.fetch_and(!WAITERS, Relaxed);
    }
}
