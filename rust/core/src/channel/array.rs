//! Capacity 1 and more: Vyukov's bounded MPMC queue, with "someone waits" in its index words.
//!
//! Positions count the slots' uses. A position is `lap | index | 3 zero bits`: `index` is the slot,
//! below `capacity`; the next after the last slot is slot 0 of the next lap. Both index words are a
//! position and flags; a slot's `turn` is the position it is free for, or with `FULL` the one it holds
//! the value of:
//!
//! ```text
//! tail = position of the next send    | WAITERS: receivers are linked | CLOSED
//! head = position of the next receive | WAITERS: senders are linked   | RETURNED: values came back
//!
//! turn:  p  --send at p-->  p | FULL  --receive at p-->  p + lap  --send at p + lap--> ...
//! ```
//!
//! A send without contention loads `tail` and the turn, moves `tail` by one compare-and-swap, writes
//! the value and stores the turn; a receive does the same to `head`. Flags never occur in a turn, so
//! the one comparison with the index word also tells that nobody waits and nothing is closed.
//!
//! # Invariants
//! Whenever the lock is free:
//! 1. `head <= tail <= head + lap` as positions: the values in the ring are those of `head..tail`;
//! 2. receivers are linked  <=>  `tail` has `WAITERS`;  then `tail == head`: the ring is empty;
//! 3. senders are linked  <=>  `head` has `WAITERS`;  then `tail == head + lap`: the ring is full;
//! 4. `CLOSED` in `tail`  =>  nobody is linked;
//! 5. a value came back and was not taken since  <=>  `head` has `RETURNED`;  then no receiver is linked.
//!
//! Flags change only under the lock. While a word has a flag, no compare-and-swap of the fast way can
//! move it (it expects the word without), so `tail` stands still once it has `WAITERS` or `CLOSED`, and
//! `head` once it has `WAITERS`, but for the holder of the lock, who receives nothing from the ring while it has `RETURNED`. (After a fork, and where every linked
//! waiter has ended, "are linked" reads "were linked": the next holder finds nobody and clears.)
//!
//! # No wake-up is lost
//! The hardest race: a sender sees a full ring and goes to wait, while a receiver on the fast way takes
//! a value and looks for senders to wake. In the plain design the receiver frees the slot and then
//! reads a flag, the sender sets the flag and then reads the slot, and without a full fence on both
//! sides each can miss the other. Here the flag is in the very word the receiver moves. The sender
//! sets it by a read-modify-write, which returns the `head` that all earlier receivers left and all
//! later ones will meet:
//! - `tail == head + lap`: every slot is in use and not one receiver has begun on any. The next one's
//!   compare-and-swap fails on the flag and sends it to the lock, where it finds the entry, because
//!   the sender links it before it lets go of the lock. The sender may sleep.
//! - otherwise a receiver was first; it has claimed a slot, even if it has not freed it yet. The sender
//!   takes its flag back if the list is empty, and tries again: it may spin for that receiver, which
//!   holds nothing and needs nothing, but never sleeps.
//!
//! So fullness is a statement about the two words, never about turns: a slot whose turn says "in use"
//! may be about to be freed by someone who will look at no flag any more. `tail` was read before;
//! if it was stale it was smaller, and the comparison fails. It cannot be larger by now, for a send
//! at `head + lap` waits for a receive at `head`. The receiver that waits is the mirror image: `head`
//! first, then the flag into `tail` by a read-modify-write that returns the newest `tail`; `tail ==
//! head` says that every value ever sent has been claimed. These arguments need only the order of
//! changes to a single word, and the lock: the orderings of the flags are Relaxed.
//!
//! # Who is served
//! By 2, a receiver that is linked has nothing in the ring before it, so a sender that hands its value
//! over directly overtakes nobody. By 3, a receiver that finds senders linked has the lock and a full
//! ring: it takes the first value, and puts the longest-blocked sender's into the same slot, one lap
//! later. The slot is never free in between, so `try_send` cannot get in before.
//!
//! # Emptiness and fullness as others see them
//! `try_recv` loads `head`, then `tail`. If they are equal, then at the load of `tail` both words had
//! that value, because `head` never exceeds `tail`: the ring was empty at that moment. `try_send` the
//! same with `tail` first. The loads acquire and the moves release, so the second load is not older
//! than the first; no `SeqCst` fence is needed for one channel. A value that comes back between the two loads
//! does not matter to `try_recv`: at the first one `tail` was the same already, and nothing had come back. Where a word says that there is a value (or
//! a slot) and the turn not yet, its owner is between its two steps, and the operation waits for it
//! instead of answering "empty": an answer that the completed operations of others contradict.
//!
//! # Many at once
//! A batch moves an index word over a run of slots by one compare-and-swap. It looks at every turn first, so the run
//! is its own like the one slot of a single operation: a turn that says "free" (or "full") at a position that the
//! index word has not passed stays so until the word moves. Whoever comes to a slot of the run meanwhile waits for it,
//! so runs are bounded.
//!
//! # The oldest makes way
//! A send that throws the first value away does what a receiver that finds a blocked sender does, with its own value:
//! the flag in `head` keeps receivers away, and if the ring is full by what `head` was, its first value is swapped for
//! the new one. What came back takes no slot, so to drop it would make no room: it stays, and is still received first.
//!
//! Tried and dropped: rings of a power of two with any capacity below need `head` on each send to
//! know that they are full; positions modulo the capacity need a division. Turns are from D. Vyukov's
//! bounded MPMC queue, laps of a power of two over any capacity from crossbeam-channel.

use std::{collections::VecDeque, mem::MaybeUninit};

use super::{
    Backoff, BeginRecv, BeginSend, ChannelStats, GivenBack, Guarded, TryRecvError, TrySendError,
    Waiting, wake_closed, wake_handed,
};
use crate::{
    sync::{
        CachePadded, Mode,
        Ordering::{Acquire, Relaxed, Release},
        UnsafeCell, Word,
    },
    wait::{Armed, Entry, Place},
};

/// In `tail`: receivers are linked. In `head`: senders are linked.
const WAITERS: u64 = 1 << 0;
/// In `tail` only.
const CLOSED: u64 = 1 << 1;
/// In `head` only: values came back, and receivers take those first.
const RETURNED: u64 = 1 << 1;
/// In a slot's turn only.
const FULL: u64 = 1 << 2;
const FLAG_BITS: u32 = 3;
const FLAGS: u64 = (1 << FLAG_BITS) - 1;
/// How many slots one move of an index word goes over, at most: those who need one of them wait until it is used.
const RUN_SLOTS_MAX: usize = 64;
/// One slot further.
const STEP: u64 = 1 << FLAG_BITS;

/// The position in an index word.
const fn position(word: u64) -> u64 {
    word & !FLAGS
}

pub(super) struct Array<T, M: Mode> {
    /// Moved by senders, and by a receiver that moves a blocked sender's value in. Flags by whoever
    /// holds the lock. Read by senders, and by receivers that find nothing.
    tail: CachePadded<M::Word>,
    /// Moved by receivers; flags by whoever holds the lock. Read by receivers, and by senders that
    /// find no free slot.
    head: CachePadded<M::Word>,
    /// Never changes; what is in the slots does.
    slots: Box<[Slot<T, M>]>,
    /// From a position to the same slot's next one: a power of two, so that a mask finds the index.
    lap: u64,
    /// The bits of a position below `lap`.
    below_lap: u64,
    waiting: CachePadded<Guarded<Waiting<T>, M>>,
}

struct Slot<T, M: Mode> {
    /// Written by whoever moved the index word over this slot, when it is done with the value; read by
    /// the next who wants to.
    turn: M::Word,
    /// Whose it is says `turn`: nobody's while another moves in or out.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: a slot's value has one user at a time, see `turn`; it crosses threads as `T` may.
unsafe impl<T: Send, M: Mode> Sync for Slot<T, M> {}

impl<T, M: Mode> Slot<T, M> {
    /// Moves `value` in and publishes it.
    ///
    /// # Safety
    /// The caller moved `tail` over the free slot at `position`, or holds it as `swap` does.
    #[inline]
    unsafe fn fill(&self, position: u64, value: T) {
        // SAFETY: the slot is the caller's alone until the turn says otherwise.
        unsafe { (*self.value.get()).write(value) };
        // Ordering: Release publishes the value to the Acquire of `turn` in `try_recv`.
        self.turn.store(position | FULL, Release);
    }

    /// Moves the value out; the turn is the caller's to store.
    ///
    /// # Safety
    /// The slot is full, its turn was read by an Acquire, and the caller moved `head` over it, or
    /// holds the lock while `head` has `WAITERS`.
    #[inline]
    unsafe fn empty(&self) -> T {
        // SAFETY: full, and the caller's alone.
        unsafe { (*self.value.get()).assume_init_read() }
    }
}

impl<T, M: Mode> Array<T, M> {
    /// `None` where there is no memory for the slots.
    pub(super) fn try_new(capacity: usize, _: M) -> Option<Self> {
        debug_assert!(capacity > 0, "that is a rendezvous");
        let lap = (capacity as u64)
            .checked_next_power_of_two()
            .and_then(|slots| slots.checked_mul(STEP))
            .expect("the capacity fits in an index word");
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity).ok()?;
        slots.extend((0..capacity as u64).map(|index| Slot {
            turn: M::Word::new(index * STEP),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }));
        Some(Self {
            tail: CachePadded(M::Word::new(0)),
            head: CachePadded(M::Word::new(0)),
            slots: slots.into_boxed_slice(),
            lap,
            below_lap: lap - 1,
            waiting: CachePadded(Guarded::new(Waiting::new())),
        })
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    fn index(&self, word: u64) -> usize {
        ((word & self.below_lap) >> FLAG_BITS) as usize
    }

    #[inline]
    fn slot(&self, word: u64) -> &Slot<T, M> {
        let index = self.index(word);
        debug_assert!(index < self.slots.len(), "{word:#x} is no position");
        // SAFETY: a position's index is below the capacity: `next` alone makes positions.
        unsafe { self.slots.get_unchecked(index) }
    }

    /// The position after `position`.
    #[inline]
    fn next(&self, position: u64) -> u64 {
        if self.index(position) + 1 < self.slots.len() {
            position.wrapping_add(STEP) // in the same lap: nothing wraps, and nothing has to look
        } else {
            (position & !self.below_lap).wrapping_add(self.lap)
        }
    }

    /// How many slots were used before `position`.
    fn count(&self, position: u64) -> u64 {
        (position / self.lap)
            .wrapping_mul(self.slots.len() as u64)
            .wrapping_add(self.index(position) as u64)
    }

    #[inline]
    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        // Ordering: Acquire, see "as others see them" in the module's header.
        let tail = self.tail.load(Acquire);
        let slot = self.slot(tail);
        // Ordering: Acquire pairs with the Release of `turn` in `try_recv`: the value before ours has
        // been moved out.
        if slot.turn.load(Acquire) == tail && self.move_tail(tail) {
            // SAFETY: `tail` was just moved over this free slot.
            unsafe { slot.fill(tail, value) };
            return Ok(());
        }
        self.try_send_slow(value)
    }

    /// Claims the slot at `tail`, a word without flags.
    #[inline]
    fn move_tail(&self, tail: u64) -> bool {
        self.tail
            // Ordering: Release pairs with the Acquire loads of `tail`; Relaxed, a loser looks again.
            .compare_exchange_weak(tail, self.next(tail), Release, Relaxed)
            .is_ok()
    }

    /// Claims the slot at `head`, a word without flags.
    #[inline]
    fn move_head(&self, head: u64) -> bool {
        self.head
            // Ordering: Release pairs with the Acquire loads of `head`; Relaxed, a loser looks again.
            .compare_exchange_weak(head, self.next(head), Release, Relaxed)
            .is_ok()
    }

    #[cold]
    #[inline(never)]
    fn try_send_slow(&self, mut value: T) -> Result<(), TrySendError<T>> {
        let mut backoff = Backoff::new();
        loop {
            // Ordering: Acquire, see "as others see them".
            let tail = self.tail.load(Acquire);
            if tail & CLOSED != 0 {
                return Err(TrySendError::Closed(value));
            }
            if tail & WAITERS != 0 {
                match self.hand_over(value) {
                    Ok(()) => return Ok(()),
                    Err(back) => value = back,
                }
                continue;
            }
            let slot = self.slot(tail);
            // Ordering: Acquire as in `try_send`.
            if slot.turn.load(Acquire) == tail {
                if self.move_tail(tail) {
                    // SAFETY: `tail` was just moved over this free slot.
                    unsafe { slot.fill(tail, value) };
                    return Ok(());
                }
            } else {
                // Ordering: Acquire, see "as others see them".
                let head = self.head.load(Acquire);
                if tail == position(head).wrapping_add(self.lap) {
                    return Err(TrySendError::Full(value));
                }
            }
            // Another sender was faster, or a receiver has yet to free the slot it claimed.
            backoff.pause();
        }
    }

    /// Puts `value` in the hand of the longest-waiting receiver. Gives it back where none waits.
    fn hand_over(&self, value: T) -> Result<(), T> {
        let claimed = self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, which is held.
            if self.tail.load(Relaxed) & FLAGS != WAITERS {
                return Err(value);
            }
            let handed = waiting.hand_over(value);
            if waiting.receivers.is_empty() {
                // INVARIANT: 2. The ring is empty still, and from here on senders may use it.
                // Ordering: Relaxed, as all flags.
                self.tail.fetch_and(!WAITERS, Relaxed);
            }
            handed
        })?;
        wake_handed(claimed);
        Ok(())
    }

    #[inline]
    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        // Ordering: Acquire, see "as others see them".
        let head = self.head.load(Acquire);
        let slot = self.slot(head);
        // Ordering: Acquire pairs with the Release of `turn` in `fill`: the value is there.
        if slot.turn.load(Acquire) == head | FULL && self.move_head(head) {
            // SAFETY: full, read by an Acquire, and `head` was just moved over it.
            let value = unsafe { slot.empty() };
            // Ordering: Release, so that the next sender's Acquire of `turn` finds the slot left.
            slot.turn.store(head.wrapping_add(self.lap), Release);
            return Ok(value);
        }
        self.try_recv_slow()
    }

    /// Whether a receive would have to wait, seen in two loads: the ring is open, and was empty at the second of them.
    /// `false` says nothing.
    #[inline]
    pub(super) fn is_seen_empty(&self) -> bool {
        // Ordering: Acquire, see "as others see them".
        let head = self.head.load(Acquire);
        // Ordering: as above.
        head & FLAGS == 0 && head == self.tail.load(Acquire)
    }

    #[cold]
    #[inline(never)]
    fn try_recv_slow(&self) -> Result<T, TryRecvError> {
        let mut backoff = Backoff::new();
        loop {
            // Ordering: Acquire, see "as others see them".
            let head = self.head.load(Acquire);
            if head & RETURNED != 0 {
                if let Some(value) = self.take_returned() {
                    return Ok(value);
                }
                continue;
            }
            if head & WAITERS != 0 {
                if let Some(value) = self.take_and_refill() {
                    return Ok(value);
                }
                backoff.pause();
                continue;
            }
            let slot = self.slot(head);
            // Ordering: Acquire as in `try_recv`.
            if slot.turn.load(Acquire) == head | FULL {
                if self.move_head(head) {
                    // SAFETY: full, read by an Acquire, and `head` was just moved over it.
                    let value = unsafe { slot.empty() };
                    // Ordering: Release as in `try_recv`.
                    slot.turn.store(head.wrapping_add(self.lap), Release);
                    return Ok(value);
                }
            } else {
                // Ordering: Acquire, see "as others see them".
                let tail = self.tail.load(Acquire);
                if position(tail) == head {
                    return Err(if tail & CLOSED != 0 {
                        TryRecvError::Closed
                    } else {
                        TryRecvError::Empty
                    });
                }
            }
            // Another receiver was faster, or a sender has yet to fill the slot it claimed.
            backoff.pause();
        }
    }

    /// Takes a value that came back. No slot gets free by it, so no sender is served.
    fn take_returned(&self) -> Option<T> {
        self.waiting.with(|waiting| {
            let value = waiting.returned.take();
            if waiting.returned.is_empty() {
                // INVARIANT: 5.
                // Ordering: Relaxed, as all flags.
                self.head.fetch_and(!RETURNED, Relaxed);
            }
            value
        })
    }

    /// Takes back what the receiver of `entry` was handed; gives it where it is to be dropped.
    pub(super) fn give_back(&self, entry: &Entry<T>, value: T) -> Option<T> {
        let given = self.waiting.with(|waiting| {
            let given = waiting.give_back(entry, value);
            if waiting.receivers.is_empty() {
                // INVARIANT: 2. Those that were linked have ended, or were handed this.
                // Ordering: Relaxed, as all flags.
                self.tail.fetch_and(!WAITERS, Relaxed);
            }
            if matches!(given, GivenBack::Kept) {
                // INVARIANT: 5. From here on no receiver moves `head`: it comes to the lock, and finds the value.
                // Ordering: Relaxed, as all flags.
                self.head.fetch_or(RETURNED, Relaxed);
            }
            given
        });
        given.settle()
    }

    /// Changes what the lock guards.
    pub(super) fn waiting(&self, change: impl FnOnce(&mut Waiting<T>)) {
        self.waiting.with(change);
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each), while the result lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the caller's promise")]
    pub(super) unsafe fn waiting_in_stopped_world(&self) -> &mut Waiting<T> {
        // SAFETY: the caller's promise.
        unsafe { self.waiting.get_in_stopped_world() }
    }

    /// Takes the first value of a full ring and moves the longest-blocked sender's in. `None`: no
    /// sender is linked any more, a value came back, or the first value is still on its way in.
    fn take_and_refill(&self) -> Option<T> {
        let (value, served) = self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, which is held, and with `WAITERS`
            // neither does the position.
            let word = self.head.load(Relaxed);
            if word & FLAGS != WAITERS {
                return None;
            }
            let head = position(word);
            let slot = self.slot(head);
            // Ordering: Acquire as in `try_recv`.
            if slot.turn.load(Acquire) != head | FULL {
                return None;
            }
            // SAFETY: full, read by an Acquire, and `head` is ours under the lock.
            let value = unsafe { slot.empty() };
            let served = waiting.claim_sender();
            let flag = if waiting.senders.is_empty() {
                0
            } else {
                WAITERS
            };
            let tail = head.wrapping_add(self.lap);
            if let Some((entry, _)) = &served {
                // SAFETY: the claim makes the entry's slot ours until it completes.
                let refill = unsafe { entry.take() }.expect("a blocked sender has its value");
                // Between these steps the ring holds `capacity + 1` positions; others see a slot that
                // is not free and a ring that is not full, and wait for the last step. `head` is last
                // so that nobody sees `head` beyond `tail`.
                // INVARIANT: 3 says where `tail` stands: a full lap after `head`, without flags.
                debug_assert_eq!(
                    self.tail.load(Relaxed),
                    tail,
                    "a sender waits for a free slot"
                );
                // Ordering: Release as in `move_tail`.
                self.tail.store(self.next(tail), Release);
                // SAFETY: just emptied, and never free in between: no sender moved over it.
                unsafe { slot.fill(tail, refill) };
                // Ordering: Release as in `move_head`.
                self.head.store(self.next(head) | flag, Release);
            } else {
                debug_assert_eq!(flag, 0, "nobody to claim empties the list");
                // Ordering: Release as in `move_head`.
                self.head.store(self.next(head), Release);
                // Ordering: Release as in `try_recv`.
                slot.turn.store(tail, Release);
            }
            Some((value, served))
        })?;
        if let Some(served) = served {
            wake_handed(served);
        }
        Some(value)
    }

    /// Takes the first value of a full ring out and puts `value` in, last, as one step. Gives `value` back where the
    /// ring is not full after all, or the first value is still on its way in. Leaves alone what came back.
    pub(super) fn replace_first(&self, value: T) -> Result<T, T> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, and a stale position is found out.
            let tail = self.tail.load(Relaxed);
            if tail & FLAGS != 0 {
                return Err(value);
            }
            // As a sender that goes to wait: with the flag in it, only the holder of the lock moves `head`.
            // Ordering: Relaxed, see "No wake-up is lost": being a read-modify-write is what counts.
            let word = self.head.fetch_or(WAITERS, Relaxed);
            let flag = if waiting.senders.is_empty() {
                0
            } else {
                WAITERS
            };
            // INVARIANT: 5. It changes under the lock only.
            let returned = word & RETURNED;
            let head = position(word);
            let slot = self.slot(head);
            let is_full = tail == head.wrapping_add(self.lap);
            // Ordering: Acquire as in `try_recv`.
            if !is_full || slot.turn.load(Acquire) != head | FULL {
                if flag == 0 {
                    // INVARIANT: 3, the list is empty.
                    // Ordering: Relaxed, as all flags.
                    self.head.fetch_and(!WAITERS, Relaxed);
                }
                return Err(value);
            }
            // SAFETY: full, read by an Acquire, and `head` is ours under the lock.
            let first = unsafe { slot.empty() };
            waiting.replaced += 1;
            // The same steps, in the same order, as in `take_and_refill`.
            // Ordering: Release as in `move_tail`.
            self.tail.store(self.next(tail), Release);
            // SAFETY: just emptied, and never free in between: no sender moved over it.
            unsafe { slot.fill(tail, value) };
            // Ordering: Release as in `move_head`.
            self.head.store(self.next(head) | flag | returned, Release);
            Ok(first)
        })
    }

    /// Sends as many of the values as there are free slots in a row, at most a run of them, by one move of `tail`.
    /// Gives how many, which is 0 also where another was faster or somebody waits: a single send knows what to do then.
    pub(super) fn send_run(&self, values: &mut VecDeque<T>) -> usize {
        // Ordering: Acquire as in `try_send`.
        let tail = self.tail.load(Acquire);
        let most = values.len().min(RUN_SLOTS_MAX);
        let (mut end, mut count) = (tail, 0);
        // Ordering: Acquire as in `try_send`. With a flag in `tail` not even the first turn is equal.
        while count < most && self.slot(end).turn.load(Acquire) == end {
            (end, count) = (self.next(end), count + 1);
        }
        // Ordering: as in `move_tail`.
        let moved = || {
            self.tail
                .compare_exchange_weak(tail, end, Release, Relaxed)
                .is_ok()
        };
        if count == 0 || !moved() {
            return 0;
        }
        let mut at = tail;
        for value in values.drain(..count) {
            // SAFETY: `tail` was just moved over this free slot.
            unsafe { self.slot(at).fill(at, value) };
            at = self.next(at);
        }
        count
    }

    /// Receives as many values as there are in a row, at most `max` and at most a run of them, by one move of `head`.
    /// Gives how many, which is 0 also where another was faster, a sender waits or a value came back: a single receive
    /// knows what to do then.
    pub(super) fn recv_run(&self, max: usize, values: &mut Vec<T>) -> usize {
        // Ordering: Acquire as in `try_recv`.
        let head = self.head.load(Acquire);
        let most = max.min(RUN_SLOTS_MAX);
        let (mut end, mut count) = (head, 0);
        // Ordering: Acquire as in `try_recv`. With a flag in `head` not even the first turn is equal.
        while count < most && self.slot(end).turn.load(Acquire) == end | FULL {
            (end, count) = (self.next(end), count + 1);
        }
        values.reserve(count); // not between the two steps of a receive
        // Ordering: as in `move_head`.
        let moved = || {
            self.head
                .compare_exchange_weak(head, end, Release, Relaxed)
                .is_ok()
        };
        if count == 0 || !moved() {
            return 0;
        }
        let mut at = head;
        for _ in 0..count {
            let slot = self.slot(at);
            // SAFETY: full, read by an Acquire, and `head` was just moved over it.
            values.push(unsafe { slot.empty() });
            // Ordering: Release as in `try_recv`.
            slot.turn.store(at.wrapping_add(self.lap), Release);
            at = self.next(at);
        }
        count
    }

    /// A send threw its own value away.
    pub(super) fn count_refused(&self) {
        self.waiting.with(|waiting| waiting.refused += 1);
    }

    #[inline]
    pub(super) fn begin_send<P: Place<T>>(&self, value: T, place: P) -> BeginSend<T, P::Left> {
        match self.try_send(value) {
            Ok(()) => BeginSend::Done,
            Err(TrySendError::Closed(value)) => BeginSend::Closed(value),
            Err(TrySendError::Full(value)) => self.wait_to_send(value, place),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_to_send<P: Place<T>>(&self, mut value: T, mut place: P) -> BeginSend<T, P::Left> {
        loop {
            (value, place) = match self.link_sender(value, place) {
                Ok(left) => return BeginSend::Waiting(left),
                Err((back, place)) => match self.try_send(back) {
                    Ok(()) => return BeginSend::Done,
                    Err(TrySendError::Closed(back)) => return BeginSend::Closed(back),
                    Err(TrySendError::Full(back)) => (back, place),
                },
            };
        }
    }

    /// Links the caller as a blocked sender, or gives its arguments back where the ring turns out not to be
    /// full.
    fn link_sender<P: Place<T>>(&self, value: T, place: P) -> Result<P::Left, (T, P)> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, and a stale position is found out.
            let tail = self.tail.load(Relaxed);
            if tail & FLAGS != 0 {
                return Err((value, place));
            }
            // Ordering: Relaxed, see "No wake-up is lost": being a read-modify-write is what counts.
            let head = self.head.fetch_or(WAITERS, Relaxed);
            if tail == position(head).wrapping_add(self.lap) {
                return Ok(waiting.link_sender(value, place));
            }
            debug_assert_eq!(head & WAITERS, 0, "senders wait, and the ring is not full");
            // INVARIANT: 3, the list is empty.
            // Ordering: Relaxed, as all flags.
            self.head.fetch_and(!WAITERS, Relaxed);
            Err((value, place))
        })
    }

    #[inline]
    pub(super) fn begin_recv<P: Place<T>>(&self, place: P) -> BeginRecv<T, P::Left> {
        match self.try_recv() {
            Ok(value) => BeginRecv::Done(value),
            Err(TryRecvError::Closed) => BeginRecv::Closed,
            Err(TryRecvError::Empty) => self.wait_to_recv(place),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_to_recv<P: Place<T>>(&self, mut place: P) -> BeginRecv<T, P::Left> {
        loop {
            place = match self.link_receiver(place) {
                Ok(left) => return BeginRecv::Waiting(left),
                Err(place) => match self.try_recv() {
                    Ok(value) => return BeginRecv::Done(value),
                    Err(TryRecvError::Closed) => return BeginRecv::Closed,
                    Err(TryRecvError::Empty) => place,
                },
            };
        }
    }

    /// Links the caller as a waiting receiver, unless the ring turns out not to be empty.
    fn link_receiver<P: Place<T>>(&self, place: P) -> Result<P::Left, P> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, and a stale position is found out.
            let head = self.head.load(Relaxed);
            // Ordering: Relaxed, flags change only under the lock.
            if head & FLAGS != 0 || self.tail.load(Relaxed) & CLOSED != 0 {
                return Err(place);
            }
            // Ordering: Relaxed, see "No wake-up is lost": being a read-modify-write is what counts.
            let tail = self.tail.fetch_or(WAITERS, Relaxed);
            if position(tail) == head {
                return Ok(waiting.link_receiver(place));
            }
            debug_assert_eq!(
                tail & WAITERS,
                0,
                "receivers wait, and the ring is not empty"
            );
            // INVARIANT: 2, the list is empty.
            // Ordering: Relaxed, as all flags.
            self.tail.fetch_and(!WAITERS, Relaxed);
            Err(place)
        })
    }

    /// See [`Channel`](super::Channel::link_armed_sender). By 2 and 3 no entry of a select meets another of its own
    /// here: the ring is not both full and empty.
    pub(super) fn link_armed_sender(&self, mut value: T, mut place: Armed<T>) -> Result<(), T> {
        loop {
            (value, place) = match self.link_sender(value, place) {
                Ok(()) => return Ok(()),
                Err((back, _)) if self.has_room() => return Err(back),
                Err(both) => both,
            };
        }
    }

    /// See [`Channel`](super::Channel::link_armed_receiver).
    pub(super) fn link_armed_receiver(&self, mut place: Armed<T>) -> bool {
        loop {
            place = match self.link_receiver(place) {
                Ok(()) => return true,
                Err(_) if self.has_values() => return false,
                Err(place) => place,
            };
        }
    }

    /// Whether a send need not wait, be it that it fails.
    fn has_room(&self) -> bool {
        // Ordering: Acquire, see "as others see them".
        let tail = self.tail.load(Acquire);
        // Ordering: as above.
        let head = self.head.load(Acquire);
        tail & CLOSED != 0 || position(tail) != position(head).wrapping_add(self.lap)
    }

    /// Whether a receive need not wait, be it that it fails.
    fn has_values(&self) -> bool {
        // Ordering: Acquire, see "as others see them".
        let head = self.head.load(Acquire);
        // Ordering: as above.
        let tail = self.tail.load(Acquire);
        tail & CLOSED != 0 || head & RETURNED != 0 || position(tail) != position(head)
    }

    /// A full ring has room only once `head` moves, or to fail in once it is closed.
    pub(super) fn send_version(&self) -> u64 {
        // Ordering: Acquire, see "as others see them".
        let (head, tail) = (self.head.load(Acquire), self.tail.load(Acquire));
        position(head) | (tail & CLOSED)
    }

    /// An empty ring has a value only once `tail` moves or one comes back, or none ever once it is closed.
    pub(super) fn recv_version(&self) -> u64 {
        self.waiting.with(|waiting| {
            // Ordering: Acquire, see "as others see them".
            let tail = self.tail.load(Acquire);
            (position(tail) | (tail & CLOSED)).wrapping_add(waiting.returned.version() * STEP)
        })
    }

    /// Unlinks a sender whose wait ended without a hand-over.
    pub(super) fn forget_sender(&self, entry: &Entry<T>) {
        self.waiting.with(|waiting| {
            if waiting.forget_sender(entry) && waiting.senders.is_empty() {
                // INVARIANT: 3.
                // Ordering: Relaxed, as all flags.
                self.head.fetch_and(!WAITERS, Relaxed);
            }
        });
    }

    /// Unlinks a receiver whose wait ended without a hand-over.
    pub(super) fn forget_receiver(&self, entry: &Entry<T>) {
        self.waiting.with(|waiting| {
            if waiting.forget_receiver(entry) && waiting.receivers.is_empty() {
                // INVARIANT: 2.
                // Ordering: Relaxed, as all flags.
                self.tail.fetch_and(!WAITERS, Relaxed);
            }
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `close`, for what the closer did before.
        self.tail.load(Acquire) & CLOSED != 0
    }

    pub(super) fn close(&self) {
        wake_closed(self.waiting.with(|waiting| {
            // Ordering: Release, see `is_closed`.
            if self.tail.fetch_or(CLOSED, Release) & CLOSED != 0 {
                return Vec::new();
            }
            let all = waiting.claim_all();
            // INVARIANT: 2, 3 and 4.
            // Ordering: Relaxed, as all flags.
            self.tail.fetch_and(!WAITERS, Relaxed);
            // Ordering: as above.
            self.head.fetch_and(!WAITERS, Relaxed);
            all
        }));
    }

    pub(super) fn len(&self) -> usize {
        let mut backoff = Backoff::new();
        loop {
            // Ordering: Acquire, so that the load of `head` is not older.
            let tail = self.tail.load(Acquire);
            // Ordering: Acquire, so that the second load of `tail` is not older.
            let head = self.head.load(Acquire);
            // Ordering: Relaxed, `tail` only grows: if it is the same, it was all the time.
            if head & RETURNED == 0 && position(self.tail.load(Relaxed)) == position(tail) {
                let len = self.count(tail).wrapping_sub(self.count(head));
                // One more for a moment in `take_and_refill`.
                return usize::try_from(len)
                    .map_or(self.capacity(), |len| len.min(self.capacity()));
            }
            if head & RETURNED != 0
                && let Some(len) = self.len_with_returned()
            {
                return len;
            }
            backoff.pause();
        }
    }

    /// The same under the lock, where `head` stands still while values that came back wait. `None`: none do.
    fn len_with_returned(&self) -> Option<usize> {
        self.waiting.with(|waiting| {
            if waiting.returned.is_empty() {
                return None;
            }
            // Ordering: Relaxed, while it has `RETURNED` only the holder of the lock moves it.
            let head = self.head.load(Relaxed);
            // Ordering: Acquire, so that it is not older than `head`.
            let in_ring = self
                .count(self.tail.load(Acquire))
                .wrapping_sub(self.count(head));
            usize::try_from(in_ring)
                .ok()?
                .checked_add(waiting.returned.len())
        })
    }

    pub(super) fn stats(&self) -> ChannelStats {
        self.waiting.with(|waiting| {
            // Ordering: Acquire, `head` first, so that no more is received than was sent.
            let taken = self.count(self.head.load(Acquire));
            // Ordering: Acquire, as above.
            let sent = self.count(self.tail.load(Acquire));
            waiting.stats(sent, taken)
        })
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each).
    pub(super) unsafe fn for_each(&self, mut visit: impl FnMut(&T)) {
        // Ordering: Acquire, what follows is not older; nobody writes now.
        let (mut at, end) = (
            position(self.head.load(Acquire)),
            position(self.tail.load(Acquire)),
        );
        while at != end {
            let slot = self.slot(at);
            // Ordering: Acquire as in `try_recv`.
            if slot.turn.load(Acquire) == at | FULL {
                // SAFETY: full, and nobody else uses the channel, by the caller's promise.
                visit(unsafe { (*slot.value.get()).assume_init_ref() });
            }
            at = self.next(at);
        }
        // SAFETY: nobody else uses the channel, by the caller's promise.
        unsafe { self.waiting.get_in_stopped_world() }.visit(visit);
    }
}

impl<T, M: Mode> Drop for Array<T, M> {
    fn drop(&mut self) {
        while let Ok(value) = self.try_recv() {
            drop(value);
        }
    }
}
