//! Blocks and wakes one thread. A file per platform behind one interface.
//!
//! A [`Parker`] belongs to one thread, which alone calls [`Parker::park`]; anyone may call
//! [`Parker::unpark`]. An unpark that comes first is kept (once), so there is no lost wake-up; a park may
//! also return for no reason (a signal, a stale unpark), so the caller looks at its own condition again.

#[cfg(all(target_os = "linux", not(loom)))]
mod futex;
#[cfg(all(target_os = "linux", not(loom)))]
pub use futex::Parker;

#[cfg(any(not(target_os = "linux"), loom))]
mod condvar;
#[cfg(any(not(target_os = "linux"), loom))]
pub use condvar::Parker;
