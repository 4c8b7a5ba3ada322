//! Linux: one word and the futex call. The call returns early on a signal, which is what lets the main
//! thread run Python's signal handlers at once.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

const EMPTY: u32 = 0;
const NOTIFIED: u32 = 1;
const PARKED: u32 = 2;

#[derive(Debug, Default)]
pub struct Parker {
    /// EMPTY -> PARKED by the owner, -> NOTIFIED by anyone, -> EMPTY by the owner.
    state: AtomicU32,
}

impl Parker {
    /// Blocks until unparked, until `deadline`, or for no reason. Owner only.
    pub fn park(&self, deadline: Option<Instant>) {
        // Ordering: Acquire pairs with the Release in `unpark`: what was written before the unpark is seen.
        if self
            .state
            .compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire)
            .is_ok()
        {
            let timeout = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                libc::timespec {
                    tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: the word and the timespec outlive the call. Each error (EAGAIN, EINTR, ETIMEDOUT)
            // means "return", and the caller looks again.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.state.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    PARKED,
                    timeout,
                );
            }
        }
        // Ordering: Acquire, as above.
        self.state.swap(EMPTY, Ordering::Acquire);
    }

    /// Makes the current or the next `park` return.
    pub fn unpark(&self) {
        // Ordering: Release publishes what the caller wrote to the Acquire in `park`.
        if self.state.swap(NOTIFIED, Ordering::Release) == PARKED {
            // SAFETY: waking needs only the address, which is ours while `self` is borrowed.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.state.as_ptr(),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    1,
                );
            }
        }
    }
}
