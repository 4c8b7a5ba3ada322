//! A number of parties that go on together, after `threading.Barrier`.
//!
//! ```text
//!            the last one arrives                 it finished
//! FILLING ------------------------> LEADING ------------------------> FILLING, the others go on
//!    ^  \                              |
//!    |   '--- abort, or somebody leaves who was not let go on ---> BROKEN
//!    '------------------------------- reset ------------------------'
//! ```
//!
//! The last one to arrive may have something to do before the others go on: it *leads*. Who comes meanwhile belongs to the
//! next round and waits aside; it arrives anew once the round is over.
//!
//! All go on or none: those who wait are let go by claiming every one of them. If one cannot be claimed, because its time
//! was up or it was cancelled at that very moment, the barrier breaks for all, the last one to arrive included.
//!
//! Invariant, in `FILLING`: as many are linked in `waiting` as have arrived, with their indexes in the slots. After a fork
//! the list is empty, and so nobody has arrived.
//!
//! Everything is under the tiny lock: there is no way through a barrier without waking somebody.

use std::convert::Infallible;

use super::{Claimed, claim_all, wake_all};
use crate::{
    sync::{Guarded, Mode},
    wait::{Entry, Outcome, Place, WaiterList},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Filling,
    Leading,
    Broken,
}

struct State {
    phase: Phase,
    arrived: usize,
    /// Grows when a round ends, however it does.
    round: u64,
    /// Who has arrived. A slot holds the index.
    waiting: WaiterList<usize>,
    /// Who came while one led. Their slots are empty.
    aside: WaiterList<usize>,
}

impl State {
    /// Begins a new round, and takes everybody off the lists.
    fn end_round(&mut self, phase: Phase) -> Freed {
        self.phase = phase;
        self.arrived = 0;
        self.round += 1;
        Freed {
            waiting: claim_all(&mut self.waiting),
            aside: claim_all(&mut self.aside),
        }
    }
}

struct Freed {
    waiting: Vec<Claimed<usize>>,
    aside: Vec<Claimed<usize>>,
}

impl Freed {
    /// Called outside the lock.
    fn wake(self, waiting: Outcome, aside: Outcome) {
        wake_all(self.waiting, waiting);
        wake_all(self.aside, aside);
    }
}

/// The right to lead a round, and the duty to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the others wait until it is finished, or the barrier is aborted"]
pub struct Lead {
    /// The number of the round.
    pub round: u64,
}

/// Where nobody waits.
enum Nowhere {}

impl Place<usize> for Nowhere {
    type Left = Infallible;

    fn link(self, _: &mut WaiterList<usize>, _: Option<usize>) -> Infallible {
        match self {}
    }
}

/// How an arrival began.
#[derive(Debug)]
#[must_use = "an entry must be finished"]
pub enum BeginArrive<L> {
    /// The caller was the last one: all go on.
    Through,
    /// The caller was the last one, and is to lead.
    Lead(Lead),
    /// The barrier is broken.
    Broken,
    /// The waiter is armed.
    Waiting(L),
}

/// How an arrival that waited ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it may have to arrive again"]
pub enum Arrived {
    /// All go on; this was the caller's index.
    Through(usize),
    /// The round that it came in the middle of is over: now it may arrive.
    Again,
    /// The barrier is broken, or was reset.
    Broken,
    /// The wait ended so, and the barrier is broken by that.
    Left(Outcome),
}

/// Lets `parties` go on once all of them have come.
pub struct Barrier<M: Mode> {
    parties: usize,
    state: Guarded<State, M>,
}

impl<M: Mode> Barrier<M> {
    /// # Panics
    /// Without a party.
    pub fn new(parties: usize, _: M) -> Self {
        assert!(parties > 0, "a barrier without parties");
        Self {
            parties,
            state: Guarded::new(State {
                phase: Phase::Filling,
                arrived: 0,
                round: 0,
                waiting: WaiterList::default(),
                aside: WaiterList::default(),
            }),
        }
    }

    pub fn parties(&self) -> usize {
        self.parties
    }

    /// How many have arrived and wait for the last one.
    pub fn waiters(&self) -> usize {
        self.state.with(|state| {
            let waits = state.phase == Phase::Filling && !state.waiting.is_empty();
            if waits { state.arrived } else { 0 }
        })
    }

    pub fn is_broken(&self) -> bool {
        self.state.with(|state| state.phase == Phase::Broken)
    }

    /// Arrives. `leads`: the last one gets to lead.
    pub fn begin_arrive<P: Place<usize>>(&self, leads: bool, place: P) -> BeginArrive<P::Left> {
        let begun = self.arrive(leads, Some(place));
        begun.expect("with a place it can wait")
    }

    /// Arrives if it need not wait for that: as the last one, or at a broken barrier.
    pub fn try_arrive(&self, leads: bool) -> Option<BeginArrive<Infallible>> {
        self.arrive(leads, None::<Nowhere>)
    }

    /// `None`, and nothing has happened: it would have to wait, and has no place for that.
    fn arrive<P: Place<usize>>(
        &self,
        leads: bool,
        place: Option<P>,
    ) -> Option<BeginArrive<P::Left>> {
        let mut freed = None;
        let begun = self.state.with(|state| match state.phase {
            Phase::Broken => Some(BeginArrive::Broken),
            Phase::Leading => {
                let left = place?.link(&mut state.aside, None);
                Some(BeginArrive::Waiting(left))
            }
            Phase::Filling => {
                if state.waiting.is_empty() {
                    state.arrived = 0; // see the module about forks
                }
                let index = state.arrived;
                if index + 1 < self.parties {
                    let left = place?.link(&mut state.waiting, Some(index));
                    state.arrived += 1;
                    return Some(BeginArrive::Waiting(left));
                }
                if leads {
                    state.phase = Phase::Leading;
                    return Some(BeginArrive::Lead(Lead { round: state.round }));
                }
                let (all, outcome) = self.let_go(state);
                freed = Some((all, outcome));
                Some(if outcome == Outcome::Handed {
                    BeginArrive::Through
                } else {
                    BeginArrive::Broken
                })
            }
        });
        if let Some((freed, outcome)) = freed {
            freed.wake(outcome, outcome);
        }
        begun
    }

    /// Everybody but the last one is linked, and goes on if all can be claimed.
    fn let_go(&self, state: &mut State) -> (Freed, Outcome) {
        let freed = state.end_round(Phase::Filling);
        if freed.waiting.len() + 1 == self.parties {
            (freed, Outcome::Handed)
        } else {
            state.phase = Phase::Broken;
            (freed, Outcome::Closed)
        }
    }

    /// Who led has done what it had to: all go on. `false`: the barrier has been broken or reset meanwhile.
    #[must_use = "the barrier may be broken"]
    pub fn finish_lead(&self, lead: Lead) -> bool {
        let freed = self.state.with(|state| {
            let goes_on = state.phase == Phase::Leading && state.round == lead.round;
            goes_on.then(|| self.let_go(state))
        });
        let Some((freed, outcome)) = freed else {
            return false;
        };
        freed.wake(outcome, outcome);
        outcome == Outcome::Handed
    }

    /// Who led has failed: breaks the barrier, unless that is another round's by now.
    pub fn fail_lead(&self, lead: Lead) {
        let freed = self.state.with(|state| {
            let goes_on = state.phase == Phase::Leading && state.round == lead.round;
            goes_on.then(|| state.end_round(Phase::Broken))
        });
        if let Some(freed) = freed {
            freed.wake(Outcome::Closed, Outcome::Closed);
        }
    }

    /// Ends an arrival that waited.
    ///
    /// # Safety
    /// `entry` came from [`begin_arrive`](Self::begin_arrive) on this barrier, was not finished before, and its wait is over.
    pub unsafe fn finish_arrive(&self, entry: &Entry<usize>) -> Arrived {
        match entry.ended() {
            // SAFETY: the owner, who is the caller, saw the outcome.
            Outcome::Handed => match unsafe { entry.take() } {
                Some(index) => Arrived::Through(index),
                None => Arrived::Again,
            },
            Outcome::Closed => Arrived::Broken,
            ended => {
                let freed = self.state.with(|state| {
                    // Where it was not linked any more, whoever took it off the list has ended the round.
                    // SAFETY: the wait has ended without a hand-over, so the slot is the owner's, who is the caller.
                    let has_arrived = unsafe { entry.peek() }.is_some();
                    let list = if has_arrived {
                        &mut state.waiting
                    } else {
                        &mut state.aside
                    };
                    let was_linked = list.remove(entry);
                    was_linked.then(|| state.end_round(Phase::Broken))
                });
                if let Some(freed) = freed {
                    freed.wake(Outcome::Closed, Outcome::Closed);
                }
                Arrived::Left(ended)
            }
        }
    }

    /// Breaks the barrier: who waits, and who comes, is told so, until it is reset.
    pub fn abort(&self) {
        let freed = self.state.with(|state| state.end_round(Phase::Broken));
        freed.wake(Outcome::Closed, Outcome::Closed);
    }

    /// Begins anew. Who waits is told that the barrier is broken.
    pub fn reset(&self) {
        let freed = self.state.with(|state| state.end_round(Phase::Filling));
        freed.wake(Outcome::Closed, Outcome::Handed);
    }
}
