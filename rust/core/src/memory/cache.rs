//! Slots that one owner takes and puts back without a lock.
//!
//! The owner of a cache is a thread, or, where callers exclude each other anyway ([`Exclusive`]), the
//! pool itself. Only the owner touches the bins. A slot that another thread releases goes home through
//! the cache's [`RemoteList`], which the owner empties when a bin runs dry.
//!
//! Bounds: a bin holds at most [`BIN_SLOTS`] slots and [`BIN_BYTES`], but two slots always; a cache
//! [`CACHE_BYTES`]; a remote list [`REMOTE_SLOTS`] slots of at most [`CACHED_MAX`] bytes. What is over
//! goes to the central lists, so a thread that only acquires, or only releases, or does nothing for the
//! rest of its life strands no more than that.
//!
//! What the owner does not need another thread may fetch, by way of the [`Gate`]: an owner that meets a visitor there
//! has no cache for a moment, and its slots come from and go to the central lists.
//!
//! The hardest race is the end of the owner: releases on other threads may be under way. The owner
//! closes the remote list by the same swap that empties it, and who comes later finds it closed and
//! goes to the central lists. The cache itself lives as long as its pool.
//!
//! [`Exclusive`]: crate::sync::Exclusive

use std::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use super::{
    gate::{self, Gate},
    size_class::{ALIGN, SizeClass},
    span::Span,
};
use crate::sync::{AtomicPtr, AtomicU64, Mode, Ordering, UnsafeCell, Word};

/// Slots above this go to the central lists: who touches that many bytes does not feel a lock.
pub const CACHED_MAX: usize = 64 << 10;
const CACHED_CLASSES: usize = match SizeClass::of(CACHED_MAX) {
    Some(class) => class.index() + 1,
    None => unreachable!(),
};
pub const BIN_SLOTS: usize = 64;
pub const BIN_BYTES: usize = 512 << 10;
pub const CACHE_BYTES: usize = 4 << 20;
/// One less than the count in a head can say: that value marks a closed list.
pub const REMOTE_SLOTS: usize = COUNT_MASK - 1;

/// A slot, and the span it was cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub address: NonNull<u8>,
    pub span: NonNull<Span>,
}

/// Whether slots of `class` pass through caches.
#[inline]
pub fn is_cached(class: SizeClass) -> bool {
    class.index() < CACHED_CLASSES
}

/// The slots of one class that a cache holds.
struct Bin<M: Mode> {
    /// As many places as there is room for, once one was needed; the first `len` hold slots. The owner's alone.
    slots: UnsafeCell<Box<[MaybeUninit<Slot>]>>,
    /// The owner writes it, `Pool::map` and `Pool::stats` read it.
    len: M::Word,
    room: usize,
}

impl<M: Mode> Bin<M> {
    fn new(class: SizeClass) -> Self {
        Self {
            slots: UnsafeCell::new(Box::default()),
            len: M::Word::new(0),
            room: (BIN_BYTES / class.bytes()).clamp(2, BIN_SLOTS),
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most `BIN_SLOTS`")]
    fn len(&self) -> usize {
        // Ordering: Relaxed, only the owner writes; others want a statistic.
        self.len.load(Ordering::Relaxed) as usize
    }

    #[inline]
    fn set_len(&self, len: usize) {
        // Ordering: Relaxed, as in `len`: the slots themselves are nobody else's.
        self.len.store(len as u64, Ordering::Relaxed);
    }

    /// # Safety
    /// The caller owns the cache.
    #[inline]
    unsafe fn pop(&self) -> Option<Slot> {
        let last = self.len().checked_sub(1)?;
        // SAFETY: the owner is here, by the caller's promise, and nowhere else.
        let slots = unsafe { &*self.slots.get() };
        // SAFETY: `last < len`, and so many places hold slots.
        let slot = unsafe { slots[last].assume_init() };
        self.set_len(last);
        Some(slot)
    }

    /// Whether there was room.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    #[inline]
    unsafe fn push(&self, slot: Slot) -> bool {
        let len = self.len();
        if len >= self.room {
            return false;
        }
        // SAFETY: the owner is here, by the caller's promise, and nowhere else.
        let slots = unsafe { &mut *self.slots.get() };
        if slots.is_empty() {
            *slots = Box::new_uninit_slice(self.room);
        }
        slots[len].write(slot);
        self.set_len(len + 1);
        true
    }
}

/// Slots of one owner.
pub struct Cache<M: Mode> {
    /// The node of all its slots, as an index.
    node: usize,
    bins: [Bin<M>; CACHED_CLASSES],
    gate: Gate<M>,
    /// Bytes in `bins`. The owner writes it, `Pool::stats` reads it.
    bytes: M::Word,
    remote: RemoteList,
    /// Bytes in `remote`. Whoever pushes adds, whoever takes subtracts, `Pool::stats` reads it.
    remote_bytes: AtomicU64,
}

// SAFETY: the slots of a bin have one user at a time, who is inside the gate; the rest is made for sharing.
unsafe impl<M: Mode> Sync for Cache<M> {}
// SAFETY: slots are memory of the pool, which any thread may hand on.
unsafe impl<M: Mode> Send for Cache<M> {}

impl<M: Mode> Cache<M> {
    /// An empty one for slots of `node`.
    pub fn new(node: usize) -> Self {
        Self {
            node,
            bins: std::array::from_fn(|index| Bin::new(SizeClass::at(index))),
            gate: Gate::default(),
            bytes: M::Word::new(0),
            remote: RemoteList::default(),
            remote_bytes: AtomicU64::new(0),
        }
    }

    #[inline]
    pub fn node(&self) -> usize {
        self.node
    }

    /// A slot of `class`, if the bin has one.
    ///
    /// # Safety
    /// The caller is the owner, and `class` [is cached](is_cached).
    #[inline]
    pub unsafe fn pop(&self, class: SizeClass) -> Option<Slot> {
        if !self.gate.enter() {
            return None;
        }
        // SAFETY: the owner is here, by the caller's promise, and inside.
        let slot = unsafe { self.pop_inside(class) };
        self.gate.leave();
        slot
    }

    /// Puts `slot` in its bin, unless that or the cache is full.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop); `slot` is of `class`, and given up by the caller if this returns true.
    #[inline]
    #[must_use]
    pub unsafe fn push(&self, class: SizeClass, slot: Slot) -> bool {
        if !self.gate.enter() {
            return false;
        }
        let bytes = self.counted() + class.bytes() as u64;
        // SAFETY: the owner is here, by the caller's promise, and inside.
        let pushed = bytes <= CACHE_BYTES as u64 && unsafe { self.bins[class.index()].push(slot) };
        if pushed {
            self.count(bytes);
        }
        self.gate.leave();
        pushed
    }

    /// # Safety
    /// The caller is alone inside the gate.
    #[inline]
    unsafe fn pop_inside(&self, class: SizeClass) -> Option<Slot> {
        // SAFETY: as promised by the caller.
        let slot = unsafe { self.bins[class.index()].pop() }?;
        self.count(self.counted().wrapping_sub(class.bytes() as u64));
        Some(slot)
    }

    /// Half of what the bin of `class` has room for: what one visit to the central lists moves.
    pub fn batch(&self, class: SizeClass) -> usize {
        self.bins[class.index()].room / 2
    }

    /// Runs `action` with the owner alone inside. It waits for a visitor to go, who may want a lock of the pool: the
    /// caller holds none.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    pub unsafe fn alone(&self, action: impl FnOnce()) {
        while !self.gate.enter() {
            crate::sync::spin_hint();
        }
        action();
        self.gate.leave();
    }

    /// Gives up every slot in the bins.
    ///
    /// # Safety
    /// The caller is alone inside the gate.
    pub unsafe fn drain_inside(&self, mut to: impl FnMut(SizeClass, Slot)) {
        for class in (0..CACHED_CLASSES).map(SizeClass::at) {
            // SAFETY: as promised by the caller.
            while let Some(slot) = unsafe { self.pop_inside(class) } {
                to(class, slot);
            }
        }
    }

    /// Sends `slot` home from a thread that is not the owner. `Err`: what has to go to the central lists
    /// instead, `slot` among it.
    ///
    /// # Safety
    /// `slot` is of `class`, which is cached; the caller gives it up, and nobody uses its memory.
    pub unsafe fn send_home(&self, class: SizeClass, slot: Slot) -> Result<(), Chain> {
        // Ordering: Relaxed, a statistic. Added first, so that it never wraps below zero.
        self.remote_bytes
            .fetch_add(class.bytes() as u64, Ordering::Relaxed);
        let link = slot.address.cast::<Link>();
        // SAFETY: nobody uses the slot's memory, which is large enough and aligned for a link.
        unsafe { link.write(Link::new(class, slot)) };
        // SAFETY: `link` is in no list, and stays valid until it is taken from this one.
        unsafe { self.remote.push(link) }.map_err(|chain| self.uncounted(chain))
    }

    /// What other threads sent home. Anybody may take it.
    pub fn take_sent(&self) -> Chain {
        self.uncounted(self.remote.take_all())
    }

    /// Refuses what other threads send from now on, and returns what they have sent. For an owner that ends.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop).
    pub unsafe fn close(&self) -> Chain {
        self.uncounted(self.remote.close())
    }

    /// Has a new owner.
    ///
    /// # Safety
    /// As for [`pop`](Self::pop), and the cache was [closed](Self::close).
    pub unsafe fn reopen(&self) {
        self.remote.reopen();
    }

    /// Bytes in the cache, for statistics: anybody may ask.
    pub fn bytes(&self) -> usize {
        // Ordering: Relaxed, statistics of one moment or the next.
        let bytes = self.counted() + self.remote_bytes.load(Ordering::Relaxed);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// How many slots of each class the bins hold, for statistics: anybody may ask.
    pub fn bins(&self) -> impl Iterator<Item = (SizeClass, usize)> {
        let classes = (0..CACHED_CLASSES).map(SizeClass::at);
        classes
            .zip(&self.bins)
            .map(|(class, bin)| (class, bin.len()))
    }

    /// Slots on their way home, and their bytes, for statistics: anybody may ask.
    pub fn sent(&self) -> (usize, u64) {
        // Ordering: Relaxed, a statistic.
        let bytes = self.remote_bytes.load(Ordering::Relaxed);
        (self.remote.count(), bytes)
    }

    #[inline]
    fn counted(&self) -> u64 {
        // Ordering: Relaxed, only the owner writes; others want a statistic.
        self.bytes.load(Ordering::Relaxed)
    }

    #[inline]
    fn count(&self, bytes: u64) {
        // Ordering: Relaxed, as in `counted`.
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn uncounted(&self, chain: Chain) -> Chain {
        let mut bytes = 0;
        chain.for_each(|class, _| bytes += class.bytes() as u64);
        // Ordering: Relaxed, a statistic.
        self.remote_bytes.fetch_sub(bytes, Ordering::Relaxed);
        chain
    }
}

/// Calls `each` for those of `caches` whose owner is not at them just now; meanwhile the caller, who need not own any,
/// is alone inside their gates.
pub fn visit<M: Mode>(caches: &[&Cache<M>], mut each: impl FnMut(&Cache<M>)) {
    let announced: Vec<_> = caches
        .iter()
        .filter(|cache| cache.gate.announce())
        .collect();
    // Only then: whoever owns one and comes by from here on sees the announcement, or was inside before the fence.
    let fenced = !announced.is_empty() && (!M::SHARED || gate::heavy_fence());
    for cache in announced {
        if fenced && cache.gate.is_left() {
            each(cache);
        }
        cache.gate.go();
    }
}

/// What is written into a slot on its way home.
#[derive(Debug)]
#[repr(align(64))]
pub struct Link(UnsafeCell<Node>);

/// How many bytes at its start a slot may have been written to, while it was on its way home.
pub const LINK_BYTES: usize = ALIGN;

const _: () = assert!(align_of::<Link>() == ALIGN);
#[cfg(not(loom))]
const _: () = assert!(size_of::<Link>() <= LINK_BYTES);

#[derive(Clone, Copy, Debug)]
struct Node {
    next: *mut Link,
    class: SizeClass,
    slot: Slot,
}

impl Link {
    pub fn new(class: SizeClass, slot: Slot) -> Self {
        Self(UnsafeCell::new(Node {
            next: ptr::null_mut(),
            class,
            slot,
        }))
    }
}

/// Links: as many as the low bits of a link's address, which its alignment leaves free, can count.
const COUNT_MASK: usize = ALIGN - 1;

/// Slots on their way home: any thread pushes, and any takes all; mostly the owner does.
///
/// `head` is the address of the last link pushed, with the number of links in its low bits. Null with the
/// highest count means closed. Taking always takes everything, so a push whose compare-and-swap succeeds
/// has linked to what is there, even if that was taken and pushed again meanwhile.
#[derive(Debug)]
pub struct RemoteList {
    /// Written by whoever pushes, takes or closes.
    head: AtomicPtr<Link>,
}

fn closed() -> *mut Link {
    ptr::without_provenance_mut(COUNT_MASK)
}

impl Default for RemoteList {
    fn default() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

impl RemoteList {
    /// Pushes `link`. `Err`: it was not pushed, since the list is closed, or is full, and then comes back
    /// with everything in it.
    ///
    /// # Safety
    /// `link` is in no list; its memory is the list's until it comes back in a [`Chain`].
    pub unsafe fn push(&self, link: NonNull<Link>) -> Result<(), Chain> {
        // Ordering: Relaxed, the compare-and-swap below decides.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let alone = Chain {
                head: link.as_ptr(),
            };
            let first = head.map_addr(|address| address & !COUNT_MASK);
            let count = head.addr() & COUNT_MASK;
            let full = count == REMOTE_SLOTS;
            // SAFETY: the link is the caller's until it is published below.
            unsafe { (*(*link.as_ptr()).0.get()).next = first };
            if count == COUNT_MASK {
                // SAFETY: as above; a closed list has no first link.
                unsafe { (*(*link.as_ptr()).0.get()).next = ptr::null_mut() };
                return Err(alone);
            }
            let new = if full {
                ptr::null_mut()
            } else {
                link.as_ptr().map_addr(|address| address | (count + 1))
            };
            match self.head.compare_exchange_weak(
                head,
                new,
                // Ordering: Release publishes the link to the Acquire of whoever takes it; Acquire because
                // a full list is taken right here.
                Ordering::AcqRel,
                // Ordering: Relaxed, tried again.
                Ordering::Relaxed,
            ) {
                Ok(_) if full => return Err(alone),
                Ok(_) => return Ok(()),
                Err(now) => head = now,
            }
        }
    }

    /// Takes everything. A list that is closed has nothing, and stays closed.
    pub fn take_all(&self) -> Chain {
        // Ordering: Relaxed, the compare-and-swap below decides; what is missed comes with the next one.
        let mut head = self.head.load(Ordering::Relaxed);
        while !head.is_null() && head != closed() {
            match self.head.compare_exchange_weak(
                head,
                ptr::null_mut(),
                // Ordering: Acquire pairs with the Release of every push since the list was last empty.
                Ordering::Acquire,
                // Ordering: Relaxed, tried again.
                Ordering::Relaxed,
            ) {
                Ok(_) => return Chain::of(head),
                Err(now) => head = now,
            }
        }
        Chain::empty()
    }

    /// Takes everything and refuses what comes later.
    pub fn close(&self) -> Chain {
        // Ordering: Acquire, as in `take_all`.
        let head = self.head.swap(closed(), Ordering::Acquire);
        debug_assert_ne!(head, closed(), "closed twice");
        Chain::of(head)
    }

    /// How many there are, for statistics.
    fn count(&self) -> usize {
        // Ordering: Relaxed, nothing is read through it.
        match self.head.load(Ordering::Relaxed).addr() & COUNT_MASK {
            COUNT_MASK => 0,
            count => count,
        }
    }

    /// Undoes [`close`](Self::close).
    pub fn reopen(&self) {
        // Ordering: Relaxed, an empty list publishes nothing.
        self.head.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Links that came out of a [`RemoteList`], the last one first.
#[derive(Debug)]
#[must_use = "the slots in it belong to whoever holds it"]
pub struct Chain {
    head: *mut Link,
}

impl Chain {
    /// What a list with this head has in it.
    fn of(head: *mut Link) -> Self {
        Self {
            head: head.map_addr(|address| address & !COUNT_MASK),
        }
    }

    fn empty() -> Self {
        Self {
            head: ptr::null_mut(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Calls `each` for every slot. It may use the slot's memory: its link has been read by then.
    pub fn for_each(&self, mut each: impl FnMut(SizeClass, Slot)) {
        let mut link = self.head;
        while !link.is_null() {
            // SAFETY: the links of a chain are the holder's, published by the Release of their push.
            let node = unsafe { *(*link).0.get() };
            link = node.next;
            each(node.class, node.slot);
        }
    }
}
