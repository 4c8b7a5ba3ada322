//! Who was woken for one event loop: pushed by anyone, taken whole by the loop, in the order it came.
//!
//! To call into an event loop from another thread is expensive, so only the first of a burst does it: the one that
//! finds nobody before it. The call takes everybody who is there by then. Whoever comes after that is the first of the
//! next burst.
//!
//! Invariant: while someone is in it, the first of the burst is about to call the loop, or its call is on the way.

use std::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, Ordering, UnsafeCell};

/// What links a member of a burst. Embedded in what was woken.
#[derive(Debug)]
pub struct Link {
    /// Whoever pushes it, then whoever has taken it.
    next: UnsafeCell<*mut Link>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null_mut()),
        }
    }
}

// SAFETY: the link has one user at a time, see `next`.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

#[derive(Debug)]
pub struct Burst(AtomicPtr<Link>);

impl Default for Burst {
    fn default() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl Burst {
    /// Adds `link`, and says whether it is the first: then the caller calls the loop.
    ///
    /// # Safety
    /// `link` stays where it is until it was taken, and is in no burst.
    #[must_use = "nobody else calls the loop"]
    pub unsafe fn push(&self, link: NonNull<Link>) -> bool {
        // Ordering: Relaxed, the exchange decides.
        let mut newest = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: in no burst, so the link is the caller's.
            unsafe { *link.as_ref().next.get() = newest };
            // Ordering: Release publishes the link, and what its owner wrote before, to the Acquire in `take`; Relaxed,
            // a loser looks again.
            match self.0.compare_exchange_weak(
                newest,
                link.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return newest.is_null(),
                Err(seen) => newest = seen,
            }
        }
    }

    /// Takes everybody, the one that came first at the front.
    pub fn take(&self) -> Taken {
        // Ordering: Acquire pairs with the Release in `push`. Each push is a read-modify-write, so the last one carries
        // those before it.
        let mut newest = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest = ptr::null_mut();
        while let Some(link) = NonNull::new(newest) {
            // SAFETY: taken, so the link is ours.
            newest = unsafe { std::mem::replace(&mut *link.as_ref().next.get(), oldest) };
            oldest = link.as_ptr();
        }
        Taken(oldest)
    }
}

/// A burst that was taken. Those that are not iterated over are lost.
#[derive(Debug)]
#[must_use = "everybody in it waits to be woken"]
pub struct Taken(*mut Link);

impl Iterator for Taken {
    type Item = NonNull<Link>;

    fn next(&mut self) -> Option<NonNull<Link>> {
        let link = NonNull::new(self.0)?;
        // SAFETY: taken, so the link is ours; it is in no burst until the caller has it.
        self.0 = unsafe { *link.as_ref().next.get() };
        Some(link)
    }
}
