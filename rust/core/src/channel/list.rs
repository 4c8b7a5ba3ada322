//! No capacity: linked blocks of slots, to which senders always find one more.
//!
//! Positions count the slots' uses, and one more after each block, where no slot is: the *gap*. A position is
//! `(lap * LAP + offset) << 2`; the block of a lap has the offsets below `SLOTS`, its gap is the offset `SLOTS`.
//! Each end has an index word, a position and flags, and beside it the block of that position's lap:
//!
//! ```text
//! tail = position of the next send    | WAITERS: receivers are linked | CLOSED
//! head = position of the next receive | BEYOND: `tail` has left this block | RETURNED: values came back
//! ```
//!
//! A send without contention loads `tail` and its block, moves `tail` by one compare-and-swap, writes the value and
//! says that the slot is full; a receive does the same to `head`. An end that stands in the gap is moved on under the
//! lock: `tail` by the next sender, who links a new block, `head` by the next receiver, once `tail` has gone before. So
//! blocks change hands under the lock only, once in `SLOTS` values, and nobody waits for a peer that is about to link
//! one (as in crossbeam's list, from which blocks and the position between them come).
//!
//! # Invariants
//! Whenever the lock is free:
//! 1. `head <= tail` as positions: the values in the list are those of `head..tail`;
//! 2. receivers are linked  <=>  `tail` has `WAITERS`;  then `tail == head`: the list is empty;
//! 3. `CLOSED` in `tail`  =>  nobody is linked;
//! 4. `BEYOND` in `head`  =>  `tail` is in a later lap, so each slot of `head`'s block has its sender;
//! 5. a value came back and was not taken since  <=>  `head` has `RETURNED`;  then no receiver is linked, and `head`
//!    stands still.
//!
//! Flags of `tail`, and `RETURNED`, change only under the lock. While it has one, no compare-and-swap moves it, and neither does the
//! next block's sender. (After a fork, and where every linked waiter has ended, "are linked" reads "were linked".)
//!
//! # No wake-up is lost
//! As in [`array`](super::array): the receiver that waits reads `head`, then sets its bit in `tail` by a
//! read-modify-write, which returns the `tail` that all earlier senders left and all later ones will meet. If the
//! two are equal, every value ever sent has been claimed, and the next sender's compare-and-swap fails on the bit
//! and sends it to the lock, where it finds the entry. Otherwise a sender was first, and the receiver takes its bit
//! back and tries again. A stale `head` is smaller, and the comparison fails.
//!
//! # When a block is freed
//! By the last of those who leave it: the receivers of its `SLOTS` slots, and whoever moves `head` past its gap. A
//! sender is in a block from its claim until the slot is full, and the receiver of that slot does not leave before. Who
//! has read a block's address and not claimed a slot does not touch it: if the block has been left since, the word has
//! moved, for good, and the claim fails. So a drained channel has one block at most, however much it has held.
//!
//! # Emptiness as others see it
//! `try_recv` loads `head`, then `tail`; if they are equal, the list was empty at the load of `tail`, as in
//! [`array`](super::array). With `BEYOND` it need not look at `tail`, the line that senders write.

use std::{mem::MaybeUninit, ptr};

use super::{
    Backoff, BeginRecv, BeginSend, ChannelStats, GivenBack, Guarded, TryRecvError, TrySendError,
    Waiting, wake_closed, wake_handed,
};
use crate::{
    sync::{
        AtomicPtr, CachePadded, Mode,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        UnsafeCell, Word,
    },
    wait::{Armed, Entry, Place},
};

/// In `tail`: receivers are linked.
const WAITERS: u64 = 1 << 0;
/// In `tail`.
const CLOSED: u64 = 1 << 1;
/// In `head`.
const BEYOND: u64 = 1 << 0;
/// In `head`: values came back, and receivers take those first.
const RETURNED: u64 = 1 << 1;
const FLAG_BITS: u32 = 2;
const FLAGS: u64 = (1 << FLAG_BITS) - 1;
/// One position further.
const STEP: u64 = 1 << FLAG_BITS;

/// With pointers for values, a block has about 500 bytes: a size that allocators keep at hand.
#[cfg(not(loom))]
const SLOTS: usize = 31;
#[cfg(loom)]
const SLOTS: usize = 2;
const LAP: u64 = SLOTS as u64 + 1;

/// The gap before the first block.
const START: u64 = (SLOTS as u64) << FLAG_BITS;

/// The position in an index word.
const fn position(word: u64) -> u64 {
    word & !FLAGS
}

const fn lap(word: u64) -> u64 {
    (word >> FLAG_BITS) / LAP
}

const fn offset(word: u64) -> usize {
    ((word >> FLAG_BITS) % LAP) as usize
}

const fn is_gap(word: u64) -> bool {
    offset(word) == SLOTS
}

/// How many slots were used before a position. The two sides of a gap are one place.
const fn count(word: u64) -> u64 {
    (lap(word).wrapping_mul(SLOTS as u64) + offset(word) as u64).wrapping_sub(SLOTS as u64)
}

pub(super) struct List<T, M: Mode> {
    /// Moved by senders; flags by whoever holds the lock. Read by senders, and by receivers that must know whether
    /// there is a value.
    tail: CachePadded<End<T, M>>,
    /// Moved by receivers. Read by them.
    head: CachePadded<End<T, M>>,
    waiting: CachePadded<Guarded<Waiting<T>, M>>,
}

struct End<T, M: Mode> {
    word: M::Word,
    /// The block of the word's lap; null before the first. Written under the lock, before the word. An atomic in each
    /// mode: it is only loaded and stored, which costs nothing more.
    block: AtomicPtr<Block<T, M>>,
}

struct Block<T, M: Mode> {
    /// Written once, read once, both under the lock.
    next: UnsafeCell<*mut Self>,
    /// How many have left.
    left: M::Word,
    slots: [Slot<T, M>; SLOTS],
}

struct Slot<T, M: Mode> {
    /// 1 once the sender that claimed the slot has written the value.
    full: M::Word,
    /// The claiming sender's, then the claiming receiver's.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: each value has one user at a time, see `Slot`; it crosses threads as `T` may. Blocks are reached and freed
// by the rules of the module.
unsafe impl<T: Send, M: Mode> Sync for List<T, M> {}
// SAFETY: as above.
unsafe impl<T: Send, M: Mode> Send for List<T, M> {}

impl<T, M: Mode> End<T, M> {
    fn new() -> Self {
        Self {
            word: M::Word::new(START),
            block: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Moves the end one slot further if it stands at `word`, and says whether it did.
    #[inline]
    fn claim(&self, word: u64, next: u64) -> bool {
        self.word
            // Ordering: Release pairs with the Acquire loads of both words; Relaxed, a loser looks again.
            .compare_exchange_weak(word, next, Release, Relaxed)
            .is_ok()
    }

    /// Moves the end out of the gap. Called under the lock, when the end stands in the gap without flags but `BEYOND`.
    fn enter(&self, block: *mut Block<T, M>, word: u64) {
        // Ordering: Relaxed, published by the word.
        self.block.store(block, Relaxed);
        // Ordering: Release publishes the block to the Acquire loads of the word. No read-modify-write, for nobody else
        // moves an end that stands in the gap, or changes a flag without the lock.
        self.word.store(position(word) + STEP, Release);
    }
}

impl<T, M: Mode> Block<T, M> {
    fn new() -> *mut Self {
        Box::into_raw(Box::new(Self {
            next: UnsafeCell::new(ptr::null_mut()),
            left: M::Word::new(0),
            slots: std::array::from_fn(|_| Slot {
                full: M::Word::new(0),
                value: UnsafeCell::new(MaybeUninit::uninit()),
            }),
        }))
    }

    /// # Safety
    /// The caller moved `tail` over `word`, whose lap this block is.
    #[inline]
    unsafe fn fill(this: *mut Self, word: u64, value: T) {
        // SAFETY: nobody frees the block before the slot is full, or looks into the slot.
        unsafe {
            let slot = (&raw const (*this).slots)
                .cast::<Slot<T, M>>()
                .add(offset(word));
            (*(*slot).value.get()).write(value);
            // Ordering: Release publishes the value to the Acquire in `take`. The last touch of the block.
            (*slot).full.store(1, Release);
        }
    }

    /// # Safety
    /// The caller moved `head` over `word`, whose lap this block is.
    #[inline]
    unsafe fn take(this: *mut Self, word: u64) -> T {
        // SAFETY: nobody frees the block before the caller has left it, and the slot is the caller's once it is full.
        unsafe {
            let slot = (&raw const (*this).slots)
                .cast::<Slot<T, M>>()
                .add(offset(word));
            let mut backoff = Backoff::new();
            // Ordering: Acquire pairs with the Release in `fill`.
            while (*slot).full.load(Acquire) == 0 {
                backoff.pause(); // its sender has claimed the slot and has yet to fill it
            }
            let value = (*(*slot).value.get()).assume_init_read();
            Self::leave(this);
            value
        }
    }

    /// # Safety
    /// The caller is one of those who leave the block, each once, and does not touch it any more.
    #[inline]
    unsafe fn leave(this: *mut Self) {
        // SAFETY: alive, for the caller had not left.
        // Ordering: AcqRel, the last to leave frees what all others have left.
        if unsafe { (*this).left.fetch_add(1, AcqRel) } == SLOTS as u64 {
            // SAFETY: everybody else has left. The values have been moved out.
            drop(unsafe { Box::from_raw(this) });
        }
    }
}

impl<T, M: Mode> List<T, M> {
    pub(super) fn new(_: M) -> Self {
        Self {
            tail: CachePadded(End::new()),
            head: CachePadded(End::new()),
            waiting: CachePadded(Guarded::new(Waiting::new())),
        }
    }

    #[inline]
    pub(super) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        // Ordering: Acquire pairs with the Release in `End::enter`: the block is there. See also "as others see it".
        let tail = self.tail.word.load(Acquire);
        if tail & FLAGS == 0 && !is_gap(tail) {
            // Ordering: Relaxed, not older than the word, and if it is newer the claim fails.
            let block = self.tail.block.load(Relaxed);
            if self.tail.claim(tail, tail + STEP) {
                // SAFETY: `tail` was just moved over the slot.
                unsafe { Block::fill(block, tail, value) };
                return Ok(());
            }
        }
        self.try_send_slow(value)
    }

    #[cold]
    #[inline(never)]
    fn try_send_slow(&self, mut value: T) -> Result<(), TrySendError<T>> {
        let mut backoff = Backoff::new();
        loop {
            // Ordering: Acquire as in `try_send`.
            let tail = self.tail.word.load(Acquire);
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
            if is_gap(tail) {
                self.grow();
                continue;
            }
            // Ordering: Relaxed as in `try_send`.
            let block = self.tail.block.load(Relaxed);
            if self.tail.claim(tail, tail + STEP) {
                // SAFETY: `tail` was just moved over the slot.
                unsafe { Block::fill(block, tail, value) };
                return Ok(());
            }
            backoff.pause(); // another sender was faster
        }
    }

    /// Links a block, if `tail` still needs one.
    fn grow(&self) {
        self.waiting.with(|_| {
            // Ordering: Relaxed, an end leaves the gap, and flags change, only under the lock, which is held.
            let tail = self.tail.word.load(Relaxed);
            if !is_gap(tail) || tail & FLAGS != 0 {
                return;
            }
            let new = Block::new();
            // Ordering: Relaxed, written under the lock.
            let old = self.tail.block.load(Relaxed);
            self.tail.enter(new, tail);
            if old.is_null() {
                // The first one. `tail` before, so that nobody sees `head` beyond it.
                self.head.enter(new, START);
            } else {
                // SAFETY: `head` has not been moved out of this block, for there was no next one; so it is alive.
                unsafe { *(*old).next.get() = new };
            }
        });
    }

    /// Puts `value` in the hand of the longest-waiting receiver. Gives it back where none waits.
    fn hand_over(&self, value: T) -> Result<(), T> {
        let claimed = self.waiting.with(|waiting| {
            // Ordering: Relaxed, flags change only under the lock, which is held.
            if self.tail.word.load(Relaxed) & FLAGS != WAITERS {
                return Err(value);
            }
            let handed = waiting.hand_over(value);
            if waiting.receivers.is_empty() {
                // INVARIANT: 2. The list is empty still, and from here on senders may use it.
                // Ordering: Relaxed, as all flags.
                self.tail.word.fetch_and(!WAITERS, Relaxed);
            }
            handed
        })?;
        wake_handed(claimed);
        Ok(())
    }

    #[inline]
    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        if let Some(received) = self.try_recv_once() {
            return received;
        }
        self.try_recv_slow()
    }

    #[cold]
    #[inline(never)]
    fn try_recv_slow(&self) -> Result<T, TryRecvError> {
        let mut backoff = Backoff::new();
        loop {
            if let Some(received) = self.try_recv_once() {
                return received;
            }
            backoff.pause(); // another receiver was faster, or has moved `head` out of the gap
        }
    }

    /// `None`: look again.
    #[inline]
    fn try_recv_once(&self) -> Option<Result<T, TryRecvError>> {
        // Ordering: Acquire pairs with the Release in `End::enter`: the block is there. See also "as others see it".
        let head = self.head.word.load(Acquire);
        if head & RETURNED != 0 {
            return self.take_returned().map(Ok);
        }
        let mut next = head + STEP;
        if head & BEYOND == 0 {
            // Ordering: Acquire, see "as others see it".
            let tail = self.tail.word.load(Acquire);
            if position(tail) == head {
                return Some(Err(if tail & CLOSED != 0 {
                    TryRecvError::Closed
                } else {
                    TryRecvError::Empty
                }));
            }
            if lap(tail) != lap(head) {
                next |= BEYOND; // INVARIANT: 4, for `tail` never moves back
            }
        }
        if is_gap(head) {
            self.advance();
            return None;
        }
        // Ordering: Relaxed, not older than the word, and if it is newer the claim fails.
        let block = self.head.block.load(Relaxed);
        // SAFETY: `head` was just moved over the slot.
        (self.head.claim(head, next)).then(|| Ok(unsafe { Block::take(block, head) }))
    }

    /// Takes a value that came back.
    #[cold]
    fn take_returned(&self) -> Option<T> {
        self.waiting.with(|waiting| {
            let value = waiting.returned.take();
            if waiting.returned.is_empty() {
                // INVARIANT: 5.
                // Ordering: Relaxed, as all flags.
                self.head.word.fetch_and(!RETURNED, Relaxed);
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
                self.tail.word.fetch_and(!WAITERS, Relaxed);
            }
            if matches!(given, GivenBack::Kept) {
                // INVARIANT: 5. From here on no receiver moves `head`: it comes to the lock, and finds the value.
                // Ordering: Relaxed, as all flags.
                self.head.word.fetch_or(RETURNED, Relaxed);
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

    /// Moves `head` out of the gap, if it is still there.
    #[cold]
    fn advance(&self) {
        let left = self.waiting.with(|_| {
            // Ordering: Relaxed, an end leaves the gap only under the lock, which is held.
            let head = self.head.word.load(Relaxed);
            // Ordering: Relaxed, as above.
            let at_end = || position(self.tail.word.load(Relaxed)) == position(head);
            if !is_gap(head) || head & RETURNED != 0 || at_end() {
                return None;
            }
            // Ordering: Relaxed, written under the lock.
            let block = self.head.block.load(Relaxed);
            // SAFETY: whoever moves `head` on leaves the block after it, and that is the caller.
            self.head.enter(unsafe { *(*block).next.get() }, head);
            Some(block)
        });
        if let Some(block) = left {
            // SAFETY: the caller moved `head` past the gap of this block.
            unsafe { Block::leave(block) };
        }
    }

    /// A sender never waits.
    #[inline]
    pub(super) fn begin_send<P: Place<T>>(&self, value: T, _: P) -> BeginSend<T, P::Left> {
        match self.try_send(value) {
            Ok(()) => BeginSend::Done,
            Err(TrySendError::Closed(value) | TrySendError::Full(value)) => {
                BeginSend::Closed(value)
            }
        }
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

    /// Links the caller as a waiting receiver, unless the list turns out not to be empty.
    fn link_receiver<P: Place<T>>(&self, place: P) -> Result<P::Left, P> {
        self.waiting.with(|waiting| {
            // Ordering: Relaxed, a stale position is found out.
            let word = self.head.word.load(Relaxed);
            let head = position(word);
            // Ordering: Relaxed, flags change only under the lock.
            if word & RETURNED != 0 || self.tail.word.load(Relaxed) & CLOSED != 0 {
                return Err(place);
            }
            // Ordering: Relaxed, see "No wake-up is lost": being a read-modify-write is what counts.
            let tail = self.tail.word.fetch_or(WAITERS, Relaxed);
            if position(tail) == head {
                return Ok(waiting.link_receiver(place));
            }
            debug_assert_eq!(
                tail & WAITERS,
                0,
                "receivers wait, and the list is not empty"
            );
            // INVARIANT: 2, nobody is linked.
            // Ordering: Relaxed, as all flags.
            self.tail.word.fetch_and(!WAITERS, Relaxed);
            Err(place)
        })
    }

    /// See [`Channel`](super::Channel::link_armed_sender): no sender ever waits.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn link_armed_sender(&self, value: T, _: Armed<T>) -> Result<(), T> {
        Err(value)
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

    /// Whether a receive need not wait, be it that it fails.
    fn has_values(&self) -> bool {
        // Ordering: Acquire, see "as others see it".
        let head = self.head.word.load(Acquire);
        // Ordering: as above.
        let tail = self.tail.word.load(Acquire);
        tail & CLOSED != 0 || head & RETURNED != 0 || position(tail) != position(head)
    }

    /// Whether a receive would have to wait, seen in two loads: the list is open, and was empty at the second of them.
    /// `false` says nothing.
    #[inline]
    pub(super) fn is_seen_empty(&self) -> bool {
        // Ordering: Acquire, see "as others see it".
        let head = self.head.word.load(Acquire);
        // Ordering: as above.
        head & FLAGS == 0 && head == self.tail.word.load(Acquire)
    }

    /// A send never has to wait.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn send_version(&self) -> u64 {
        0
    }

    /// An empty list has a value only once `tail` moves or one comes back, or none ever once it is closed.
    pub(super) fn recv_version(&self) -> u64 {
        self.waiting.with(|waiting| {
            // Ordering: Acquire, see "as others see it".
            let tail = self.tail.word.load(Acquire);
            (position(tail) | (tail & CLOSED)).wrapping_add(waiting.returned.version() * STEP)
        })
    }

    /// No sender ever waits.
    #[expect(clippy::unused_self, reason = "as the other kinds have it")]
    pub(super) fn forget_sender(&self, _: &Entry<T>) {}

    /// Unlinks a receiver whose wait ended without a hand-over.
    pub(super) fn forget_receiver(&self, entry: &Entry<T>) {
        self.waiting.with(|waiting| {
            if waiting.forget_receiver(entry) && waiting.receivers.is_empty() {
                // INVARIANT: 2.
                // Ordering: Relaxed, as all flags.
                self.tail.word.fetch_and(!WAITERS, Relaxed);
            }
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `close`, for what the closer did before.
        self.tail.word.load(Acquire) & CLOSED != 0
    }

    pub(super) fn close(&self) {
        wake_closed(self.waiting.with(|waiting| {
            // Ordering: Release, see `is_closed`.
            if self.tail.word.fetch_or(CLOSED, Release) & CLOSED != 0 {
                return Vec::new();
            }
            // INVARIANT: 2 and 3.
            // Ordering: Relaxed, as all flags.
            self.tail.word.fetch_and(!WAITERS, Relaxed);
            waiting.claim_all()
        }));
    }

    pub(super) fn len(&self) -> usize {
        let mut backoff = Backoff::new();
        loop {
            // Ordering: Acquire, so that the load of `head` is not older.
            let tail = self.tail.word.load(Acquire);
            // Ordering: Acquire, so that the second load of `tail` is not older.
            let head = self.head.word.load(Acquire);
            // Ordering: Relaxed, `tail` only grows: if it is the same, it was all the time.
            if head & RETURNED == 0 && position(self.tail.word.load(Relaxed)) == position(tail) {
                let len = count(tail).wrapping_sub(count(head));
                return usize::try_from(len).unwrap_or(usize::MAX);
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
            // Ordering: Relaxed, nobody moves it while it has `RETURNED`.
            let head = self.head.word.load(Relaxed);
            // Ordering: Acquire, so that it is not older than `head`.
            let in_list = count(self.tail.word.load(Acquire)).wrapping_sub(count(head));
            usize::try_from(in_list)
                .ok()?
                .checked_add(waiting.returned.len())
        })
    }

    pub(super) fn stats(&self) -> ChannelStats {
        self.waiting.with(|waiting| {
            // Ordering: Acquire, `head` first, so that no more is received than was sent.
            let taken = count(self.head.word.load(Acquire));
            // Ordering: Acquire, as above.
            let sent = count(self.tail.word.load(Acquire));
            waiting.stats(sent, taken)
        })
    }

    /// # Safety
    /// As for [`Channel::for_each`](super::Channel::for_each).
    pub(super) unsafe fn for_each(&self, mut visit: impl FnMut(&T)) {
        // Ordering: Acquire, what follows is not older; nobody writes now.
        let (mut at, end) = (
            position(self.head.word.load(Acquire)),
            position(self.tail.word.load(Acquire)),
        );
        // Ordering: Relaxed, as above.
        let mut block = self.head.block.load(Relaxed);
        while at != end {
            // SAFETY: the blocks from `head` to `tail` are alive, and nobody else uses the channel, by the caller's
            // promise: so each slot between the ends is full, and a gap between them has a block behind it.
            unsafe {
                if is_gap(at) {
                    block = *(*block).next.get();
                } else {
                    visit((*(*block).slots[offset(at)].value.get()).assume_init_ref());
                }
            }
            at += STEP;
        }
        // SAFETY: nobody else uses the channel, by the caller's promise.
        unsafe { self.waiting.get_in_stopped_world() }.visit(visit);
    }
}

impl<T, M: Mode> Drop for List<T, M> {
    fn drop(&mut self) {
        while let Ok(value) = self.try_recv() {
            drop(value);
        }
        // Ordering: Relaxed, nobody else is there.
        let last = self.head.block.load(Relaxed);
        if !last.is_null() {
            // SAFETY: the list is empty, so both ends are in this block, which not everybody has left.
            drop(unsafe { Box::from_raw(last) });
        }
    }
}
