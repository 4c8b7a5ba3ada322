//! Who waits for a task to be done.
//!
//! Most tasks are never waited for, so the list is made by the first that waits. The race: a joiner makes
//! the list, then looks whether the task is done; the finishing task marks itself done, then looks
//! whether there is a list. Both steps of both sides are `SeqCst`, so at least one sees the other.

use std::{ptr, sync::Arc};

use crate::{
    sync::{AtomicPtr, Lock, Ordering},
    wait::{Entry, Outcome, Place, WaiterList, WaiterRef},
};

type List = Lock<WaiterList<()>>;

#[derive(Debug)]
pub(super) struct Join {
    /// Null, or a leaked box that lives until the task is dropped. Written once, by a joiner.
    list: AtomicPtr<List>,
}

impl Default for Join {
    fn default() -> Self {
        Self {
            list: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// The answer to a wish to wait for a task.
#[derive(Debug)]
pub enum BeginJoin {
    /// It is done already.
    Done,
    /// The caller's waiter is armed and will be woken.
    Waiting(Arc<Entry<()>>),
}

impl Join {
    fn list(&self) -> Option<&List> {
        // Ordering: SeqCst, see the module; it also acquires what the maker of the list wrote.
        let list = self.list.load(Ordering::SeqCst);
        // SAFETY: null or a box that lives as long as `self`.
        unsafe { list.as_ref() }
    }

    fn list_or_new(&self) -> &List {
        if let Some(list) = self.list() {
            return list;
        }
        let new = Box::into_raw(Box::new(List::new(WaiterList::default())));
        // Ordering: SeqCst, see the module.
        let put =
            self.list
                .compare_exchange(ptr::null_mut(), new, Ordering::SeqCst, Ordering::SeqCst);
        match put {
            // SAFETY: it now lives as long as `self`.
            Ok(_) => unsafe { &*new },
            Err(theirs) => {
                // SAFETY: ours was not put in, so nobody else has it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: a box that lives as long as `self`.
                unsafe { &*theirs }
            }
        }
    }

    pub(super) fn begin(&self, waiter: &WaiterRef, is_done: impl Fn() -> bool) -> BeginJoin {
        let mut list = self.list_or_new().lock();
        if is_done() {
            return BeginJoin::Done;
        }
        BeginJoin::Waiting(waiter.link(&mut list, None))
    }

    pub(super) fn remove(&self, entry: &Entry<()>) {
        if let Some(list) = self.list() {
            list.lock().remove(entry);
        }
    }

    pub(super) fn wake_all(&self) {
        let Some(list) = self.list() else { return };
        loop {
            // The lock is let go of before the claim is completed: a wake may run the embedder's code.
            let first = list.lock().claim_first();
            let Some((entry, claim)) = first else {
                return;
            };
            drop(entry); // a thread may be ended in the wake
            claim.complete(Outcome::Handed);
        }
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        // Ordering: Relaxed, `&mut self` excludes everyone.
        let list = self.list.load(Ordering::Relaxed);
        if !list.is_null() {
            // SAFETY: made by `Box::into_raw`, and nobody borrows `self` any more.
            drop(unsafe { Box::from_raw(list) });
        }
    }
}
