//! The claim word: who ends a wait.
//!
//! A waiter is a stack, a coroutine task, a thread or an event loop: whatever can be in at most one
//! wait at a time. Its word is `epoch << 3 | state`. The owner arms it (a new epoch), leaves
//! entries where a peer can find them, and sleeps. A peer, a timer or a cancellation that wants to end
//! the wait claims the word first, by one compare-and-swap for that epoch; whoever wins hands over
//! what there is to hand over, stores the outcome and wakes the owner. The losers do nothing.
//!
//! ```text
//!            arm                claim                 complete
//!   ENDED ---------> ARMED ---------------> CLAIMED ------------> ENDED(outcome)
//!     ^                |  disarm (owner)                              |
//!     '----------------'                                              '--> one wake
//! ```
//!
//! Invariants:
//! - per epoch at most one [`Claim`] exists, and each is completed exactly once: one wake per claim;
//! - the owner does not arm again before the wake of its last claim has reached it;
//! - what the claimer wrote before [`Claim::complete`] is visible to the owner once it sees the outcome.
//!
//! The epoch is what makes late losers harmless: an entry or a timer that outlived its wait names an
//! epoch that is over, and its claim fails. So nobody has to find and remove timers on the fast way,
//! and a select is one waiter with an entry, all of the same epoch, in each of its channels.

use std::{marker::PhantomData, mem::ManuallyDrop, ptr::NonNull};

use crate::sync::{AtomicU64, Ordering};

const STATE_BITS: u32 = 3;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;

// States: 0..=3 are outcomes of an ended wait.
const HANDED: u64 = 0;
const CLOSED: u64 = 1;
const TIMED_OUT: u64 = 2;
const INTERRUPTED: u64 = 3;
const ARMED: u64 = 4;
const CLAIMED: u64 = 5;
/// The owner has also looked at the outcome, and says so, for owners that must not forget to: see `settle`.
const SETTLED: u64 = 6;

/// Names one wait of one waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A peer completed the operation through the waiter's entry.
    Handed,
    /// What it waited on was closed.
    Closed,
    /// Its deadline passed.
    TimedOut,
    /// It was cancelled, or a signal handler has to run.
    Interrupted,
}

impl Outcome {
    fn state(self) -> u64 {
        match self {
            Outcome::Handed => HANDED,
            Outcome::Closed => CLOSED,
            Outcome::TimedOut => TIMED_OUT,
            Outcome::Interrupted => INTERRUPTED,
        }
    }
}

/// What a kind of waiter does to stay alive and to be woken. Each function gets the waiter that is
/// embedded in the kind's own struct.
#[derive(Debug)]
pub struct WaiterClass {
    /// Adds a strong reference.
    pub retain: unsafe fn(NonNull<Waiter>),
    /// Drops one; the last frees the struct around the waiter.
    pub release: unsafe fn(NonNull<Waiter>),
    /// Makes the owner run on. Called once per claim, after the outcome is stored. Called with a
    /// reference that the claim held, which it consumes.
    pub wake: unsafe fn(NonNull<Waiter>),
}

/// Something that can wait. Embedded in a reference-counted struct that its [`WaiterClass`] knows.
#[derive(Debug)]
pub struct Waiter {
    /// `epoch << 3 | state`. The owner arms and disarms; claimers do the rest.
    word: AtomicU64,
    /// A `&'static`, as a pointer: that of a task may be read as the table that the class is the first field of.
    class: NonNull<WaiterClass>,
}

// SAFETY: the word is atomic, and the class is shared.
unsafe impl Send for Waiter {}
// SAFETY: as above.
unsafe impl Sync for Waiter {}

impl Waiter {
    pub fn new(class: &'static WaiterClass) -> Self {
        // SAFETY: a `&'static`.
        unsafe { Self::of_class(NonNull::from(class)) }
    }

    /// A waiter whose class may be part of a larger struct, as the pointer knows.
    ///
    /// # Safety
    /// The class is there for ever, and nobody writes to it.
    pub(crate) unsafe fn of_class(class: NonNull<WaiterClass>) -> Self {
        Self {
            word: AtomicU64::new(SETTLED),
            class,
        }
    }

    pub(crate) fn class_pointer(&self) -> NonNull<WaiterClass> {
        self.class
    }

    fn class(&self) -> &'static WaiterClass {
        // SAFETY: there for ever, and nobody writes to it.
        unsafe { self.class.as_ref() }
    }

    /// Starts a wait. Called by the owner, which is in no wait.
    #[inline]
    pub fn arm(&self) -> Epoch {
        // Ordering: Relaxed, between waits only the owner writes the word.
        let old = self.word.load(Ordering::Relaxed);
        debug_assert!(
            !matches!(old & STATE_MASK, ARMED | CLAIMED),
            "armed in a wait: {old:#x}"
        );
        let epoch = Epoch((old >> STATE_BITS).wrapping_add(1) & (u64::MAX >> STATE_BITS));
        // Ordering: SeqCst, against `Waiter::armed` in a cancellation: the owner arms, then looks whether it
        // is cancelled; the canceller marks, then looks whether the owner is armed. One sees the other.
        self.word.store(epoch.word(ARMED), Ordering::SeqCst);
        epoch
    }

    /// Takes back a wait that nobody claimed, as one that ended with `outcome`. `false`: somebody claimed it, and
    /// the wake is on its way.
    pub fn disarm(&self, epoch: Epoch, outcome: Outcome) -> bool {
        // Ordering: Relaxed on success, nothing is handed over; Relaxed on failure, the owner goes on to
        // wait for the outcome and acquires there.
        self.word
            .compare_exchange(
                epoch.word(ARMED),
                epoch.word(outcome.state()),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Notes that the owner is done with a wait that has ended. It need not say so, unless it asks
    /// [`is_settled`](Self::is_settled). Until the next wait there is no outcome any more.
    #[inline]
    pub fn settle(&self, epoch: Epoch) {
        debug_assert!(self.outcome(epoch).is_some(), "settled in a wait");
        // Ordering: Relaxed, between waits only the owner writes the word, and a late claim expects another.
        self.word.store(epoch.word(SETTLED), Ordering::Relaxed);
    }

    /// Whether the owner is in no wait, and is done with the last one.
    #[inline]
    pub fn is_settled(&self) -> bool {
        // Ordering: Relaxed, the owner asks for what it wrote itself.
        self.word.load(Ordering::Relaxed) & STATE_MASK == SETTLED
    }

    /// How the wait ended, or `None` while it has not.
    #[inline]
    pub fn outcome(&self, epoch: Epoch) -> Option<Outcome> {
        // Ordering: Acquire pairs with the Release in `Claim::complete`: with the outcome the owner sees
        // what the claimer handed over.
        let word = self.word.load(Ordering::Acquire);
        debug_assert_eq!(word >> STATE_BITS, epoch.0, "asked for another wait");
        match word & STATE_MASK {
            HANDED => Some(Outcome::Handed),
            CLOSED => Some(Outcome::Closed),
            TIMED_OUT => Some(Outcome::TimedOut),
            INTERRUPTED => Some(Outcome::Interrupted),
            _ => None,
        }
    }

    /// Whether somebody has claimed the wait and has yet to say how it ended.
    pub fn is_claimed(&self, epoch: Epoch) -> bool {
        // Ordering: Acquire, so that what the caller asks for next is not older.
        self.word.load(Ordering::Acquire) == epoch.word(CLAIMED)
    }

    /// The wait that the owner is in and nobody has claimed, for a cancellation that has to end whatever
    /// wait there is.
    pub fn armed(&self) -> Option<Epoch> {
        // Ordering: SeqCst, see `arm`.
        let word = self.word.load(Ordering::SeqCst);
        (word & STATE_MASK == ARMED).then_some(Epoch(word >> STATE_BITS))
    }
}

impl Epoch {
    fn word(self, state: u64) -> u64 {
        (self.0 << STATE_BITS) | state
    }
}

/// A strong reference to a waiter.
#[derive(Debug)]
pub struct WaiterRef(NonNull<Waiter>);

// SAFETY: a waiter's word is atomic, its class is shared, and `WaiterClass` functions may be called
// from any thread that may touch the structure the reference sits in.
unsafe impl Send for WaiterRef {}
// SAFETY: as above; `&WaiterRef` gives no more than `&Waiter`.
unsafe impl Sync for WaiterRef {}

impl WaiterRef {
    /// A new strong reference to `waiter`.
    ///
    /// # Safety
    /// `waiter` is embedded in a struct as its class expects, which is alive during the call.
    pub unsafe fn retain(waiter: NonNull<Waiter>) -> Self {
        // SAFETY: alive and embedded as its class expects, by the caller's promise.
        unsafe { (waiter.as_ref().class().retain)(waiter) };
        Self(waiter)
    }

    /// A reference that is not counted.
    ///
    /// # Safety
    /// `waiter` is as for [`retain`](Self::retain), and alive as long as the result, which is never dropped.
    #[inline]
    pub unsafe fn borrow(waiter: NonNull<Waiter>) -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self(waiter))
    }

    /// Whether the waiter is of this class, and so what is embedded in the class's struct.
    pub fn is_of(&self, class: &'static WaiterClass) -> bool {
        std::ptr::eq(self.class(), class)
    }

    /// The waiter as its owner gave it, with the struct around it, which a pointer made of a reference would not reach.
    pub fn as_ptr(&self) -> NonNull<Waiter> {
        self.0
    }

    /// Claims the right to end the wait `epoch`. `None`: it is over, or another side was first.
    #[inline]
    pub fn claim(&self, epoch: Epoch) -> Option<Claim> {
        let won = self.word.compare_exchange(
            epoch.word(ARMED),
            epoch.word(CLAIMED),
            // Ordering: Acquire pairs with the store in `arm`: the claimer sees what the owner prepared.
            Ordering::Acquire,
            // Ordering: Relaxed, a loser does nothing.
            Ordering::Relaxed,
        );
        won.is_ok().then(|| Claim {
            waiter: self.clone(),
            epoch,
            _not_copied: PhantomData,
        })
    }

    /// Ends the wait that the owner is in, if it is in one and `unseen` says that it has not seen what it is
    /// interrupted for.
    ///
    /// The owner sees that only in a wait that it then takes back or that is claimed. So if it was unseen once the
    /// wait was known, the claim fails or is the one that the owner learns of it by.
    pub fn interrupt(&self, unseen: impl FnOnce() -> bool) {
        let claim = self
            .armed()
            .filter(|_| unseen())
            .and_then(|epoch| self.claim(epoch));
        if let Some(claim) = claim {
            claim.complete(Outcome::Interrupted);
        }
    }
}

impl std::ops::Deref for WaiterRef {
    type Target = Waiter;

    #[inline]
    fn deref(&self) -> &Waiter {
        // SAFETY: this reference keeps the struct around the waiter alive.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for WaiterRef {
    fn clone(&self) -> Self {
        // SAFETY: alive because `self` is.
        unsafe { Self::retain(self.0) }
    }
}

impl Drop for WaiterRef {
    fn drop(&mut self) {
        // SAFETY: gives up the reference that `self` held.
        unsafe { (self.class().release)(self.0) };
    }
}

/// The sole right to end one wait, and the duty to do it.
#[derive(Debug)]
#[must_use = "a claimed waiter sleeps for ever unless the claim is completed"]
pub struct Claim {
    waiter: WaiterRef,
    epoch: Epoch,
    _not_copied: PhantomData<*const ()>,
}

impl Claim {
    /// Ends the wait: stores the outcome, then wakes the owner. Call it outside every lock.
    #[inline]
    pub fn complete(self, outcome: Outcome) {
        let pointer = self.waiter.0;
        let wake = self.waiter.class().wake;
        // Ordering: Release publishes what was handed over to the Acquire in `outcome`.
        self.waiter
            .word
            .store(self.epoch.word(outcome.state()), Ordering::Release);
        std::mem::forget(self);
        // SAFETY: `pointer` carries the claim's reference, which `wake` consumes.
        unsafe { wake(pointer) };
    }
}
