//! A thread as a waiter, and the blocking calls that the core leaves to its callers.

use std::{ptr::NonNull, sync::Arc};

use penstock_core::{
    channel::{BeginRecv, BeginSend, Channel, RecvError, SendError},
    sync::Mode,
    wait::{Entry, Outcome, Waiter, WaiterClass, WaiterRef},
};

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

#[repr(C)]
struct Parked {
    /// First, so that a pointer to it is one to the whole.
    waiter: Waiter,
    thread: thread::Thread,
}

static PARKED: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: every waiter of this class is the first field of a `Parked` in an `Arc`.
        unsafe { Arc::increment_strong_count(waiter.cast::<Parked>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above.
        unsafe { Arc::decrement_strong_count(waiter.cast::<Parked>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; the reference becomes ours.
        let parked = unsafe { Arc::from_raw(waiter.cast::<Parked>().as_ptr()) };
        parked.thread.unpark();
    },
};

/// A waiter for the current thread.
pub fn waiter() -> WaiterRef {
    let parked = Arc::new(Parked {
        waiter: Waiter::new(&PARKED),
        thread: thread::current(),
    });
    // By `as_ptr`: a pointer made of a reference to the struct must not reach the counts beside it.
    let whole = NonNull::new(Arc::as_ptr(&parked).cast_mut()).expect("an `Arc` is not null");
    // SAFETY: embedded as `PARKED` expects, and alive.
    unsafe { WaiterRef::retain(whole.cast()) }
}

/// Sleeps until the wait of `entry` has ended.
pub fn sleep<T>(entry: &Entry<T>) -> Outcome {
    loop {
        if let Some(outcome) = entry.waiter.outcome(entry.epoch) {
            return outcome;
        }
        thread::park();
    }
}

#[allow(dead_code, reason = "each test file uses its own half")]
pub fn send<T, M: Mode>(
    channel: &Channel<T, M>,
    value: T,
    waiter: &WaiterRef,
) -> Result<(), SendError<T>> {
    match channel.begin_send(value, waiter) {
        BeginSend::Done => Ok(()),
        BeginSend::Closed(value) => Err(SendError::Closed(value)),
        BeginSend::Waiting(entry) => {
            sleep(&entry);
            // SAFETY: from this channel's `begin_send`, and the wait is over.
            unsafe { channel.finish_send(&entry) }
        }
    }
}

#[allow(dead_code, reason = "each test file uses its own half")]
pub fn recv<T, M: Mode>(channel: &Channel<T, M>, waiter: &WaiterRef) -> Result<T, RecvError> {
    match channel.begin_recv(waiter) {
        BeginRecv::Done(value) => Ok(value),
        BeginRecv::Closed => Err(RecvError::Closed),
        BeginRecv::Waiting(entry) => {
            sleep(&entry);
            // SAFETY: from this channel's `begin_recv`, and the wait is over.
            unsafe { channel.finish_recv(&entry) }
        }
    }
}
