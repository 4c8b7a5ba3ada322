//! Words and references that any number of threads change, one whole change at a time.
//!
//! Every operation has a place in one order that all threads agree on (`SeqCst`), as in Go's `sync/atomic`: who has
//! to argue about weaker orders is not who writes Python. With [`Exclusive`](crate::sync::Exclusive) the callers'
//! own lock is that order, and a change is two plain moves.

mod integer;
mod reference;

pub use integer::Integer;
pub use reference::Reference;
