//! Blocks and wakes one thread. A file per platform behind one interface.
//!
//! A [`Parker`] belongs to one thread, which alone calls [`Parker::park`]; anyone may call
//! [`Parker::unpark`]. An unpark that comes first is kept (once), so there is no lost wake-up; a park may
//! also return for no reason (a signal, a stale unpark), so the caller looks at its own condition again.

#[cfg(target_os = "linux")]
mod futex;
#[cfg(target_os = "linux")]
pub use futex::Parker;

#[cfg(not(target_os = "linux"))]
mod condvar;
#[cfg(not(target_os = "linux"))]
pub use condvar::Parker;
