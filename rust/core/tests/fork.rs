//! What a forked child finds. In a program of its own: it tells this whole process that it was forked.
#![cfg(not(loom))]

use penstock_core::wait::{ForkedMutex, fork};

#[test]
fn a_lock_that_was_held_at_a_fork_is_open_and_empty_in_the_child() {
    static HELD: ForkedMutex<Vec<u32>> = ForkedMutex::new();
    let mut guard = HELD.lock();
    guard.push(1);
    fork::entered_child();
    assert!(HELD.lock().is_empty());
    HELD.lock().push(2);
    assert_eq!(guard.as_slice(), [1]);
    assert_eq!(HELD.lock().as_slice(), [2]);
}
