//! Where nobody tells the state of another thread.

/// Names a thread of this process.
pub type ThreadId = u32;

/// The calling thread's name.
pub fn current_thread() -> ThreadId {
    0
}

/// Whether the thread computes: nobody can tell.
pub fn computes(_thread: ThreadId) -> bool {
    false
}
