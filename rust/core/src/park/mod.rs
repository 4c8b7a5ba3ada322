//! Blocks and wakes one thread, and tells whether one computes. A file per platform behind one interface.
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

#[cfg_attr(target_os = "linux", path = "thread_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "thread_elsewhere.rs")]
mod thread;
pub use thread::{ThreadId, computes, current_thread};
