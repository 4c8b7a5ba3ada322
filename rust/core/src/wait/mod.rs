//! Who waits, who ends the wait, and lists of those who wait.
//!
//! - [`waiter`]: one per thing that can wait (a stack, a coroutine task, a thread, an event loop). Its
//!   claim word says whether it waits and how the wait ended; exactly one side ends it.
//! - [`burst`]: those that were woken for one event loop, so that it is called once.
//! - [`fork`]: which side of a fork we are on; [`forked_mutex`]: a lock that a child finds open.
//! - [`list`]: first-in-first-out lists of entries, each a waiter's stake in one operation.

pub mod burst;
pub mod fork;
pub mod forked_mutex;
pub mod list;
pub mod waiter;

pub use burst::{Burst, Link, Taken};
pub use forked_mutex::ForkedMutex;
pub use list::{Armed, Entry, InPlace, Place, Unlinked, WaiterList};
pub use waiter::{Claim, Epoch, Outcome, Waiter, WaiterClass, WaiterRef};
