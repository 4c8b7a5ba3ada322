//! One lock that a thread holds while it runs tasks or submits them, and lets go of while it waits.

use std::{
    cell::Cell,
    sync::{Condvar, Mutex},
};

static HELD: Mutex<bool> = Mutex::new(false);
static FREED: Condvar = Condvar::new();

thread_local! {
    static MINE: Cell<bool> = const { Cell::new(false) };
}

pub fn is_held() -> bool {
    MINE.get()
}

fn take() {
    let mut held = FREED
        .wait_while(HELD.lock().unwrap(), |held| *held)
        .unwrap();
    *held = true;
    MINE.set(true);
}

fn free() {
    MINE.set(false);
    *HELD.lock().unwrap() = false;
    FREED.notify_one();
}

/// Runs `body` with the lock held.
pub fn within<R>(body: impl FnOnce() -> R) -> R {
    struct Free;
    impl Drop for Free {
        fn drop(&mut self) {
            free();
        }
    }
    assert!(!is_held());
    take();
    let _free = Free;
    body()
}

/// Runs `body`, which waits, without the lock, if the thread has it at all.
pub fn without<R>(body: impl FnOnce() -> R) -> R {
    let held = is_held();
    if held {
        free();
    }
    let result = body();
    if held {
        take();
    }
    result
}
