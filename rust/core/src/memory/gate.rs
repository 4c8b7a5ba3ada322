//! Who is at the bins of a cache: its owner, for next to nothing, or a visitor, for a system call.
//!
//! An owner passes through with each buffer, a visitor comes once in seconds, to fetch what the owner does not need.
//! So the owner's side has no fence and no read-modify-write: it says that it is inside, then looks whether somebody
//! visits. A visitor says that it visits, then looks whether the owner is inside; in between it has every CPU that
//! runs this process pass a full fence (`membarrier`), which stands in for the one that the owner does not have.
//! Whatever the order, at least one of the two sees the other:
//!
//! ```text
//!   owner                          visitor
//!   inside = 1                     visited = 1
//!   (compiler fence)               membarrier
//!   visited == 0? in : out         inside == 0? in : out
//! ```
//!
//! Nobody waits: an owner that meets a visitor does without its cache this once, and a visitor leaves an owner that is
//! inside alone. Where the system has no `membarrier` nobody visits. In models both fences are real ones, since loom
//! knows no `membarrier`. The technique is that of folly's hazard pointers and of liburcu.
//!
//! Under [`Exclusive`](crate::sync::Exclusive) whoever calls is the owner, and there is nothing to ask.

use std::marker::PhantomData;

use crate::sync::{AtomicBool, Mode, Ordering};

/// One owner, and visitors.
#[derive(Debug)]
pub struct Gate<M> {
    /// The owner is inside. It alone writes, visitors read.
    inside: AtomicBool,
    /// A visitor is there, or about to look. Visitors write, the owner reads.
    visited: AtomicBool,
    mode: PhantomData<M>,
}

impl<M> Default for Gate<M> {
    fn default() -> Self {
        Self {
            inside: AtomicBool::new(false),
            visited: AtomicBool::new(false),
            mode: PhantomData,
        }
    }
}

impl<M: Mode> Gate<M> {
    /// For the owner. `true`: it is inside, alone, until it [leaves](Self::leave).
    #[inline]
    #[must_use]
    pub fn enter(&self) -> bool {
        if !M::SHARED {
            return true;
        }
        // Ordering: Relaxed, the fence puts it before the look; a visitor's fence pairs with it.
        self.inside.store(true, Ordering::Relaxed);
        light_fence();
        // Ordering: Acquire pairs with the Release of a visitor that has gone: what it did is seen.
        if self.visited.load(Ordering::Acquire) {
            self.leave();
            return false;
        }
        true
    }

    /// For the owner, once per [`enter`](Self::enter) that let it in.
    #[inline]
    pub fn leave(&self) {
        if M::SHARED {
            // Ordering: Release hands the bins to the Acquire of a visitor.
            self.inside.store(false, Ordering::Release);
        }
    }

    /// First half of a visit. `false`: somebody else visits. Between the two halves the visitor calls
    /// [`heavy_fence`], once for as many gates as it likes; if that fails it [goes](Self::go).
    #[must_use]
    pub fn announce(&self) -> bool {
        self.visited
            .compare_exchange(
                false,
                true,
                // Ordering: Acquire pairs with the Release of the visitor before; the fence orders the rest.
                Ordering::Acquire,
                // Ordering: Relaxed, nothing follows from it.
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Second half. `true`: the visitor is inside, alone, until it [goes](Self::go), which it does in any case.
    #[must_use]
    pub fn is_left(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `leave`: what the owner did is seen.
        !self.inside.load(Ordering::Acquire)
    }

    /// The visit is over.
    pub fn go(&self) {
        // Ordering: Release hands the bins to the Acquire in `enter`, and to the next visitor's in `announce`.
        self.visited.store(false, Ordering::Release);
    }
}

/// Keeps the owner's store before its load, as far as the compiler goes.
#[inline]
fn light_fence() {
    // Ordering: SeqCst for the compiler alone; `heavy_fence` is the other half.
    #[cfg(not(any(loom, miri)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    // Ordering: SeqCst, the visitor's fence is its partner.
    #[cfg(any(loom, miri))]
    crate::sync::fence(Ordering::SeqCst);
}

/// A full fence on every thread of this process, the caller's included. `false`: the system has none to give.
#[cfg(all(target_os = "linux", not(any(loom, miri))))]
#[must_use]
pub fn heavy_fence() -> bool {
    let membarrier = |command: libc::c_int| {
        // SAFETY: the call reads no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    };
    // Registered each time: it costs little, and nobody has to know whether this process is a forked one.
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
        && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

#[cfg(any(loom, miri))]
#[must_use]
pub fn heavy_fence() -> bool {
    // Ordering: SeqCst, the owner's fence is its partner.
    crate::sync::fence(Ordering::SeqCst);
    true
}

#[cfg(all(not(target_os = "linux"), not(any(loom, miri))))]
#[must_use]
pub fn heavy_fence() -> bool {
    false
}
