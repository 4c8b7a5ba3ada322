//! A thread as a waiter, and the blocking calls that the core leaves to its callers.

use std::{ptr::NonNull, sync::Arc};

use penstock_core::{
    channel::{
        BeginRecv, BeginSend, Channel, RecvError, SendError,
        select::{BeginSelect, Case, Choice, EndSelect, Select, Selected},
    },
    park::Parker,
    sync::Mode,
    wait::{Entry, Epoch, Outcome, Waiter, WaiterClass, WaiterRef},
};

#[repr(C)]
struct Parked {
    /// First, so that a pointer to it is one to the whole.
    waiter: Waiter,
    /// Not loom's own `unpark`, which also wakes a thread that waits for a lock: a select can be served there.
    parker: Parker,
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
        parked.parker.unpark();
    },
};

/// A waiter for one thread.
pub fn waiter() -> WaiterRef {
    let parked = Arc::new(Parked {
        waiter: Waiter::new(&PARKED),
        parker: Parker::default(),
    });
    // By `as_ptr`: a pointer made of a reference to the struct must not reach the counts beside it.
    let whole = NonNull::new(Arc::as_ptr(&parked).cast_mut()).expect("an `Arc` is not null");
    // SAFETY: embedded as `PARKED` expects, and alive.
    unsafe { WaiterRef::retain(whole.cast()) }
}

/// Sleeps until the wait of `entry` has ended. Called by the thread that made its waiter.
pub fn sleep<T>(entry: &Entry<T>) -> Outcome {
    sleep_until_over(&entry.waiter, entry.epoch)
}

/// Sleeps until the wait has ended.
pub fn sleep_until_over(waiter: &WaiterRef, epoch: Epoch) -> Outcome {
    // SAFETY: every waiter of these tests is the first field of a `Parked`.
    let parked = unsafe { waiter.as_ptr().cast::<Parked>().as_ref() };
    loop {
        if let Some(outcome) = waiter.outcome(epoch) {
            return outcome;
        }
        parked.parker.park(None);
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

/// Selects, blocking. `Err` says how the wait ended if no case took effect.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn select<T, M: Mode>(
    cases: &mut [Case<'_, T, M>],
    choice: Choice,
    waiter: &WaiterRef,
) -> Result<Selected<T>, Outcome> {
    select_until(cases, choice, waiter, |_| ())
}

/// The same; calls `armed` once a wait has begun.
#[allow(dead_code, reason = "each test file uses its own half")]
pub fn select_until<T, M: Mode>(
    cases: &mut [Case<'_, T, M>],
    choice: Choice,
    waiter: &WaiterRef,
    mut armed: impl FnMut(Epoch),
) -> Result<Selected<T>, Outcome> {
    let mut select = Select::new(cases);
    loop {
        // SAFETY: the channels outlive the call, and each wait is finished below.
        let outcome = match unsafe { select.begin(cases, choice, waiter) } {
            BeginSelect::Done(selected) => return Ok(selected),
            BeginSelect::Waiting(epoch, _) => {
                armed(epoch);
                sleep_until_over(waiter, epoch)
            }
        };
        // SAFETY: the wait is over.
        match unsafe { select.finish(cases) } {
            EndSelect::Done(selected) => return Ok(selected),
            EndSelect::Again if outcome == Outcome::TimedOut => {
                select.leave(cases);
                return Err(outcome);
            }
            EndSelect::Again => {}
            EndSelect::Over => return Err(Outcome::Interrupted),
        }
    }
}
