//! First-in-first-out lists of waiters.
//!
//! A list has no lock of its own: it lives under the lock of what it belongs to. An [`Entry`] is one
//! waiter's stake in one operation: its epoch, and the slot through which a value passes. It is linked
//! in at most one list, once; the list holds a strong reference while it is.
//!
//! The slot belongs to whoever may touch it at that moment: the owner before the entry is linked,
//! the holder of the claim until it completes, the owner again after it saw the outcome.
//!
//! Entries of an earlier [`fork`] generation are forgotten, not released: their owners do
//! not exist in this process, and neither do their reference counts mean anything here.

use std::{ptr, sync::Arc};

use super::{Claim, Epoch, WaiterRef, fork};
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
}

// SAFETY: `slot` and `links` each have one user at a time by the rules above; `T` crosses threads.
unsafe impl<T: Send> Send for Entry<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Entry<T> {}

impl<T> Entry<T> {
    pub fn new(waiter: WaiterRef, epoch: Epoch, value: Option<T>) -> Arc<Self> {
        Arc::new(Self {
            waiter,
            epoch,
            slot: UnsafeCell::new(value),
            links: UnsafeCell::new(Links {
                prev: ptr::null(),
                next: ptr::null(),
                linked: false,
            }),
        })
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

    /// Looks at what is in the slot, for a garbage collector that has stopped every other thread.
    ///
    /// # Safety
    /// Nobody touches the slot during the call.
    pub unsafe fn peek(&self) -> Option<&T> {
        // SAFETY: no other user, by the caller's promise.
        unsafe { (*self.slot.get()).as_ref() }
    }
}

/// Entries in the order they came. Every method is called under the lock of the list's owner.
#[derive(Debug)]
pub struct WaiterList<T> {
    head: *const Entry<T>,
    tail: *const Entry<T>,
    generation: u32,
}

// SAFETY: the list owns a strong reference to each entry; it is used under its owner's lock.
unsafe impl<T: Send> Send for WaiterList<T> {}

impl<T> Default for WaiterList<T> {
    fn default() -> Self {
        Self {
            head: ptr::null(),
            tail: ptr::null(),
            generation: fork::generation(),
        }
    }
}

impl<T> WaiterList<T> {
    fn forget_other_generations(&mut self) {
        let generation = fork::generation();
        if self.generation != generation {
            (self.head, self.tail) = (ptr::null(), ptr::null());
            self.generation = generation;
        }
    }

    pub fn is_empty(&mut self) -> bool {
        self.forget_other_generations();
        self.head.is_null()
    }

    /// Links `entry` last.
    pub fn push(&mut self, entry: &Arc<Entry<T>>) {
        self.forget_other_generations();
        let node = Arc::into_raw(Arc::clone(entry));
        // SAFETY: `node` is alive, and its links are guarded by the lock the caller holds.
        unsafe {
            let links = &mut *(*node).links.get();
            debug_assert!(!links.linked, "linked twice");
            *links = Links {
                prev: self.tail,
                next: ptr::null(),
                linked: true,
            };
            if self.tail.is_null() {
                self.head = node;
            } else {
                (*(*self.tail).links.get()).next = node;
            }
        }
        self.tail = node;
    }

    /// Unlinks `entry` if it is still linked, and says whether it was.
    pub fn remove(&mut self, entry: &Arc<Entry<T>>) -> bool {
        self.forget_other_generations();
        // SAFETY: `entry` is alive, and its links are guarded by the lock the caller holds.
        if !unsafe { (*entry.links.get()).linked } {
            return false;
        }
        // SAFETY: it is linked, and in this list: an entry is only ever in one.
        drop(unsafe { self.unlink(Arc::as_ptr(entry)) });
        true
    }

    /// Unlinks entries from the front until one can be claimed. Those that cannot have ended already.
    pub fn claim_first(&mut self) -> Option<(Arc<Entry<T>>, Claim)> {
        self.claim_if(|_| true)
    }

    /// The same, but stops before an entry whose slot holds something that `fits` refuses. One that has
    /// ended and does not fit stops it too: its owner is on its way to [`remove`](Self::remove) it.
    ///
    /// # Safety
    /// Nobody touches the slots of linked entries during the call: their owners do so before they link
    /// them and after they have seen them unlinked, under the lock of the list.
    pub unsafe fn claim_first_if(
        &mut self,
        mut fits: impl FnMut(Option<&T>) -> bool,
    ) -> Option<(Arc<Entry<T>>, Claim)> {
        // SAFETY: nobody touches the slot, by the caller's promise.
        self.claim_if(|entry| fits(unsafe { entry.peek() }))
    }

    fn claim_if(
        &mut self,
        mut wanted: impl FnMut(&Entry<T>) -> bool,
    ) -> Option<(Arc<Entry<T>>, Claim)> {
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
        self.forget_other_generations();
        let mut node = self.head;
        while !node.is_null() {
            // SAFETY: linked entries are alive; the caller holds the list's lock.
            unsafe {
                visit(&*node);
                node = (*(*node).links.get()).next;
            }
        }
    }

    /// # Safety
    /// `node` is linked in this list.
    unsafe fn unlink(&mut self, node: *const Entry<T>) -> Arc<Entry<T>> {
        // SAFETY: linked entries and their neighbours are alive, their links guarded by the lock the
        // caller holds; the reference taken over here is the one `push` gave the list.
        unsafe {
            let links = &mut *(*node).links.get();
            if links.prev.is_null() {
                self.head = links.next;
            } else {
                (*(*links.prev).links.get()).next = links.next;
            }
            if links.next.is_null() {
                self.tail = links.prev;
            } else {
                (*(*links.next).links.get()).prev = links.prev;
            }
            *links = Links {
                prev: ptr::null(),
                next: ptr::null(),
                linked: false,
            };
            Arc::from_raw(node)
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
