//! First-in-first-out lists of waiters.
//!
//! A list has no lock of its own: it lives under the lock of what it belongs to. An [`Entry`] is one
//! waiter's stake in one operation: its epoch, and the slot through which a value passes. It is linked
//! in at most one list, once.
//!
//! Where an entry lives is its owner's choice, a [`Place`]: in an [`Arc`], of which the list holds a reference
//! while the entry is linked, or [`InPlace`], in memory of the owner's that the list only points to. The latter
//! needs no allocation. It is sound because nobody but the owner touches an entry that is neither linked nor
//! claimed, and the owner gives the memory up only when it is neither: after a hand-over, whose outcome
//! the claimer stored when it was done with the entry; after any other end once it has looked under the lock, where
//! the entry is unlinked if nobody has. An owner that is in a hurry while a claim is on its way waits for its outcome,
//! which is a few instructions away.
//!
//! The slot belongs to whoever may touch it at that moment: the owner before the entry is linked,
//! the holder of the claim until it completes, the owner again after it saw the outcome.
//!
//! Entries of an earlier [`fork`] generation are forgotten, not released: their owners do
//! not exist in this process, and neither do their reference counts mean anything here.

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ops::Deref,
    ptr::{self, NonNull},
    sync::Arc,
};

use super::{Claim, Epoch, Outcome, Waiter, WaiterRef, fork};
use crate::sync::UnsafeCell;

/// One waiter's stake in one operation.
#[derive(Debug)]
pub struct Entry<T> {
    pub waiter: WaiterRef,
    pub epoch: Epoch,
    /// The value on its way; see the module for whose it is.
    slot: UnsafeCell<Option<T>>,
    /// Guarded by the list's lock.
    links: UnsafeCell<Links<T>>,
}

#[derive(Debug)]
struct Links<T> {
    prev: *const Entry<T>,
    next: *const Entry<T>,
    linked: bool,
    /// The list holds a reference of the entry's `Arc`.
    counted: bool,
    /// Of the value in the slot, see [`Entry::number`]. It outlives the links.
    number: u32,
}

impl<T> Links<T> {
    const NONE: Self = Self {
        prev: ptr::null(),
        next: ptr::null(),
        linked: false,
        counted: false,
        number: 0,
    };
}

// SAFETY: `slot` and `links` each have one user at a time by the rules above; `T` crosses threads.
unsafe impl<T: Send> Send for Entry<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Entry<T> {}

impl<T> Entry<T> {
    fn new(waiter: WaiterRef, epoch: Epoch, value: Option<T>) -> Self {
        Self {
            waiter,
            epoch,
            slot: UnsafeCell::new(value),
            links: UnsafeCell::new(Links::NONE),
        }
    }

    /// How the wait ended.
    ///
    /// # Panics
    /// Where it has not.
    pub fn ended(&self) -> Outcome {
        let outcome = self.waiter.outcome(self.epoch);
        outcome.expect("finished while the wait goes on")
    }

    /// Takes what is in the slot.
    ///
    /// # Safety
    /// The slot is the caller's at this moment: it holds the entry's claim, or owns the entry and has
    /// seen the outcome, or has unlinked the entry and disarmed the waiter.
    pub unsafe fn take(&self) -> Option<T> {
        // SAFETY: no other user, by the caller's promise.
        unsafe { (*self.slot.get()).take() }
    }

    /// Puts a value in the empty slot.
    ///
    /// # Safety
    /// As for [`take`](Self::take).
    pub unsafe fn put(&self, value: T) {
        // SAFETY: no other user, by the caller's promise.
        let old = unsafe { (*self.slot.get()).replace(value) };
        debug_assert!(old.is_none(), "a value was waiting in the slot");
    }

    /// The number that the value in the slot was put in with: its place among others, if it ever goes back.
    ///
    /// # Safety
    /// The caller holds the lock of the list that the entry was in.
    pub unsafe fn number(&self) -> u32 {
        // SAFETY: guarded by the lock, by the caller's promise.
        unsafe { (*self.links.get()).number }
    }

    /// # Safety
    /// As for [`number`](Self::number).
    pub unsafe fn set_number(&self, number: u32) {
        // SAFETY: guarded by the lock, by the caller's promise.
        unsafe { (*self.links.get()).number = number };
    }

    /// Looks at what is in the slot, for a garbage collector that has stopped every other thread.
    ///
    /// # Safety
    /// Nobody touches the slot during the call.
    pub unsafe fn peek(&self) -> Option<&T> {
        // SAFETY: no other user, by the caller's promise.
        unsafe { (*self.slot.get()).as_ref() }
    }
}

/// Where the entry of a wait is made, if the operation has to wait.
pub trait Place<T> {
    /// What the owner finishes the wait with.
    type Left;

    /// Arms the waiter, which is in no wait, unless it is armed already, and links its entry last. From here on others may end
    /// the wait.
    fn link(self, list: &mut WaiterList<T>, value: Option<T>) -> Self::Left;
}

/// On the heap, shared with the list.
impl<T> Place<T> for &WaiterRef {
    type Left = Arc<Entry<T>>;

    fn link(self, list: &mut WaiterList<T>, value: Option<T>) -> Arc<Entry<T>> {
        (self, self.arm()).link(list, value)
    }
}

/// The same for a waiter that is armed already, for that epoch.
impl<T> Place<T> for (&WaiterRef, Epoch) {
    type Left = Arc<Entry<T>>;

    fn link(self, list: &mut WaiterList<T>, value: Option<T>) -> Arc<Entry<T>> {
        let (waiter, epoch) = self;
        let entry = Arc::new(Entry::new(waiter.clone(), epoch, value));
        let list_s = Arc::into_raw(Arc::clone(&entry)).cast_mut();
        // SAFETY: not null, alive and new; the reference is given to the list.
        unsafe { list.push(NonNull::new_unchecked(list_s), true) };
        entry
    }
}

/// In memory of the owner's. The entry has no reference to the waiter, which the owner keeps alive.
#[derive(Debug)]
pub struct InPlace<T> {
    waiter: NonNull<Waiter>,
    memory: NonNull<MaybeUninit<Entry<T>>>,
}

impl<T> InPlace<T> {
    /// # Safety
    /// If the operation waits, then until it has been finished: `waiter` stays alive, and `memory`, which no entry is
    /// in, stays where it is and is not touched but through the entry. The entry is not dropped.
    pub unsafe fn new(waiter: NonNull<Waiter>, memory: NonNull<MaybeUninit<Entry<T>>>) -> Self {
        Self { waiter, memory }
    }

    /// # Safety
    /// The waiter is armed for `epoch`.
    #[inline]
    unsafe fn link_armed(self, epoch: Epoch, list: &mut WaiterList<T>, value: Option<T>) {
        // SAFETY: alive as long as the entry, by the promise of `new`, and the entry is never dropped.
        let waiter = unsafe { WaiterRef::borrow(self.waiter) };
        let entry = Entry::new(ManuallyDrop::into_inner(waiter), epoch, value);
        // Not by way of a reference, which would not outlive the owner's own look at its entry.
        let node = self.memory.cast::<Entry<T>>();
        // SAFETY: free, and alive until the operation has been finished, by the promise of `new`.
        unsafe {
            node.write(entry);
            list.push(node, false);
        }
    }
}

impl<T> Place<T> for InPlace<T> {
    type Left = Epoch;

    #[inline]
    fn link(self, list: &mut WaiterList<T>, value: Option<T>) -> Epoch {
        // SAFETY: alive as long as the entry, by the promise of `new`, and the entry is never dropped.
        let epoch = unsafe { self.waiter.as_ref() }.arm();
        // SAFETY: just armed.
        unsafe { self.link_armed(epoch, list, value) };
        epoch
    }
}

/// In memory of the owner's, for a waiter that is armed already: one of the entries of a select.
#[derive(Debug)]
pub struct Armed<T> {
    place: InPlace<T>,
    epoch: Epoch,
}

impl<T> Armed<T> {
    /// # Safety
    /// As for [`InPlace::new`], until the entry is off its list and the wait `epoch`, for which `waiter` is armed, is over.
    pub unsafe fn new(
        waiter: NonNull<Waiter>,
        epoch: Epoch,
        memory: NonNull<MaybeUninit<Entry<T>>>,
    ) -> Self {
        // SAFETY: the caller's promise.
        let place = unsafe { InPlace::new(waiter, memory) };
        Self { place, epoch }
    }

    /// Whether `entry` is another waiter's, and its wait can still be ended.
    pub fn may_meet(&self, entry: &Entry<T>) -> bool {
        !std::ptr::eq(&raw const *entry.waiter, self.place.waiter.as_ptr())
            && entry.waiter.armed() == Some(entry.epoch)
    }
}

impl<T> Place<T> for Armed<T> {
    type Left = ();

    fn link(self, list: &mut WaiterList<T>, value: Option<T>) {
        // SAFETY: armed, by the promise of `new`.
        unsafe { self.place.link_armed(self.epoch, list, value) };
    }
}

/// An entry that was taken off its list. One whose waiter's claim is held is not its owner's to free yet.
#[derive(Debug)]
pub struct Unlinked<T> {
    entry: NonNull<Entry<T>>,
    /// The list's reference came along.
    counted: bool,
}

// SAFETY: an entry crosses threads as `T` does.
unsafe impl<T: Send> Send for Unlinked<T> {}

impl<T> Deref for Unlinked<T> {
    type Target = Entry<T>;

    #[inline]
    fn deref(&self) -> &Entry<T> {
        // SAFETY: alive: by its own reference; or its owner waits for the claim that goes with this, or for the lock under
        // which it was unlinked.
        unsafe { self.entry.as_ref() }
    }
}

impl<T> Drop for Unlinked<T> {
    #[inline]
    fn drop(&mut self) {
        if self.counted {
            // SAFETY: the reference is ours.
            drop(unsafe { Arc::from_raw(self.entry.as_ptr()) });
        }
    }
}

/// Entries in the order they came. Every method is called under the lock of the list's owner.
#[derive(Debug)]
pub struct WaiterList<T> {
    head: *const Entry<T>,
    tail: *const Entry<T>,
    len: usize,
    generation: u32,
}

// SAFETY: the list owns a strong reference to each entry; it is used under its owner's lock.
unsafe impl<T: Send> Send for WaiterList<T> {}

impl<T> Default for WaiterList<T> {
    fn default() -> Self {
        Self {
            head: ptr::null(),
            tail: ptr::null(),
            len: 0,
            generation: fork::generation(),
        }
    }
}

impl<T> WaiterList<T> {
    fn forget_other_generations(&mut self) {
        let generation = fork::generation();
        if self.generation != generation {
            (self.head, self.tail, self.len) = (ptr::null(), ptr::null(), 0);
            self.generation = generation;
        }
    }

    pub fn is_empty(&mut self) -> bool {
        self.forget_other_generations();
        self.head.is_null()
    }

    /// How many are linked, those included whose wait has ended and who have not been unlinked yet.
    pub fn len(&mut self) -> usize {
        self.forget_other_generations();
        self.len
    }

    /// Links an entry last. `counted`: the list gets a reference of its `Arc`.
    ///
    /// # Safety
    /// `entry` is alive while it is linked, and in no list.
    unsafe fn push(&mut self, entry: NonNull<Entry<T>>, counted: bool) {
        self.forget_other_generations();
        let node = entry.as_ptr().cast_const();
        // SAFETY: `node` is alive, and its links are guarded by the lock the caller holds.
        unsafe {
            let links = &mut *(*node).links.get();
            debug_assert!(!links.linked, "linked twice");
            *links = Links {
                prev: self.tail,
                next: ptr::null(),
                linked: true,
                counted,
                number: 0,
            };
            if self.tail.is_null() {
                self.head = node;
            } else {
                (*(*self.tail).links.get()).next = node;
            }
        }
        self.tail = node;
        self.len += 1;
    }

    /// Unlinks `entry` if it is still linked, and says whether it was.
    pub fn remove(&mut self, entry: &Entry<T>) -> bool {
        self.forget_other_generations();
        // SAFETY: `entry` is alive, and its links are guarded by the lock the caller holds.
        if !unsafe { (*entry.links.get()).linked } {
            return false;
        }
        // SAFETY: it is linked, and in this list: an entry is only ever in one.
        drop(unsafe { self.unlink(entry) });
        true
    }

    /// Unlinks entries from the front until one can be claimed. Those that cannot have ended already.
    pub fn claim_first(&mut self) -> Option<(Unlinked<T>, Claim)> {
        self.claim_if(|_| true)
    }

    /// Whether `entry`, which is in no other list, is linked.
    pub fn contains(&mut self, entry: &Entry<T>) -> bool {
        self.forget_other_generations();
        // SAFETY: `entry` is alive, and its links are guarded by the lock the caller holds.
        !self.head.is_null() && unsafe { (*entry.links.get()).linked }
    }

    /// Unlinks the first entry, with its claim if its wait has not ended.
    pub fn unlink_first(&mut self) -> Option<(Unlinked<T>, Option<Claim>)> {
        self.forget_other_generations();
        if self.head.is_null() {
            return None;
        }
        // SAFETY: the head of the list is linked in it.
        let entry = unsafe { self.unlink(self.head) };
        let claim = entry.waiter.claim(entry.epoch);
        Some((entry, claim))
    }

    /// Links a new entry where `old`, whose wait has ended, is linked, and unlinks that. `None`: it is not linked any
    /// more. The place is not in the memory of `old`.
    pub fn replace<P: Place<T>>(&mut self, old: &Entry<T>, place: P) -> Option<P::Left> {
        self.forget_other_generations();
        // SAFETY: `old` is alive, and its links are guarded by the lock the caller holds.
        let (is_linked, next) = unsafe { ((*old.links.get()).linked, (*old.links.get()).next) };
        if !is_linked {
            return None;
        }
        // SAFETY: it is linked, and in this list.
        drop(unsafe { self.unlink(old) });
        let left = place.link(self, None);
        if !next.is_null() {
            // SAFETY: the new entry is the last of at least two, of which `next` is one.
            unsafe { self.move_last_before(next) };
        }
        Some(left)
    }

    /// # Safety
    /// `next` is linked in this list, and not the last.
    unsafe fn move_last_before(&mut self, next: *const Entry<T>) {
        let moved = self.tail;
        // SAFETY: linked entries are alive, their links guarded by the lock the caller holds.
        unsafe {
            let before = (*(*moved).links.get()).prev;
            (*(*before).links.get()).next = ptr::null();
            self.tail = before;
            let prev = (*(*next).links.get()).prev;
            let links = &mut *(*moved).links.get();
            (links.prev, links.next) = (prev, next);
            (*(*next).links.get()).prev = moved;
            if prev.is_null() {
                self.head = moved;
            } else {
                (*(*prev).links.get()).next = moved;
            }
        }
    }

    /// The same as [`claim_first`](Self::claim_first), but stops before an entry whose slot holds something that `fits` refuses. One that has
    /// ended and does not fit stops it too: its owner is on its way to [`remove`](Self::remove) it.
    ///
    /// # Safety
    /// Nobody touches the slots of linked entries during the call: their owners do so before they link
    /// them and after they have seen them unlinked, under the lock of the list.
    pub unsafe fn claim_first_if(
        &mut self,
        mut fits: impl FnMut(Option<&T>) -> bool,
    ) -> Option<(Unlinked<T>, Claim)> {
        // SAFETY: nobody touches the slot, by the caller's promise.
        self.claim_if(|entry| fits(unsafe { entry.peek() }))
    }

    fn claim_if(
        &mut self,
        mut wanted: impl FnMut(&Entry<T>) -> bool,
    ) -> Option<(Unlinked<T>, Claim)> {
        self.forget_other_generations();
        // SAFETY: the head of the list is alive.
        while !self.head.is_null() && wanted(unsafe { &*self.head }) {
            // SAFETY: the head of the list is linked in it.
            let entry = unsafe { self.unlink(self.head) };
            if let Some(claim) = entry.waiter.claim(entry.epoch) {
                return Some((entry, claim));
            }
        }
        None
    }

    /// Calls `visit` for each entry, for a garbage collector.
    pub fn for_each(&mut self, mut visit: impl FnMut(&Entry<T>)) {
        self.any(|entry| {
            visit(entry);
            false
        });
    }

    /// Whether an entry is what is looked for; looks no further then.
    pub fn any(&mut self, mut is_it: impl FnMut(&Entry<T>) -> bool) -> bool {
        self.forget_other_generations();
        let mut node = self.head;
        while !node.is_null() {
            // SAFETY: linked entries are alive; the caller holds the list's lock.
            unsafe {
                if is_it(&*node) {
                    return true;
                }
                node = (*(*node).links.get()).next;
            }
        }
        false
    }

    /// # Safety
    /// `node` is linked in this list.
    unsafe fn unlink(&mut self, node: *const Entry<T>) -> Unlinked<T> {
        // SAFETY: linked entries and their neighbours are alive, their links guarded by the lock the
        // caller holds; the reference taken over here is the one `push` gave the list.
        unsafe {
            let links = &mut *(*node).links.get();
            // The pointer that `push` was given, not `node`: that may have been made of a reference to the entry, which
            // must not reach the counts of its `Arc`.
            let entry = if links.prev.is_null() {
                std::mem::replace(&mut self.head, links.next)
            } else {
                std::mem::replace(&mut (*(*links.prev).links.get()).next, links.next)
            };
            if links.next.is_null() {
                self.tail = links.prev;
            } else {
                (*(*links.next).links.get()).prev = links.prev;
            }
            let counted = std::mem::replace(links, Links::NONE).counted;
            self.len -= 1;
            Unlinked {
                entry: NonNull::new_unchecked(entry.cast_mut()),
                counted,
            }
        }
    }
}

impl<T> Drop for WaiterList<T> {
    fn drop(&mut self) {
        self.forget_other_generations();
        while !self.head.is_null() {
            // SAFETY: the head of the list is linked in it.
            drop(unsafe { self.unlink(self.head) });
        }
    }
}
