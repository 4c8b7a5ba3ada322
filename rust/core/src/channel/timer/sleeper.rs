//! Who waits in the tests of timers: nobody sleeps, for the tests tell the time.

use std::{ptr::NonNull, sync::Arc};

use crate::wait::{Waiter, WaiterClass, WaiterRef};

#[repr(transparent)]
struct Sleeper(Waiter);

static SLEEPER: WaiterClass = WaiterClass {
    retain: |waiter| {
        // SAFETY: each waiter of this class is a `Sleeper` in an `Arc`.
        unsafe { Arc::increment_strong_count(waiter.cast::<Sleeper>().as_ptr()) };
    },
    release: |waiter| {
        // SAFETY: as above.
        unsafe { Arc::decrement_strong_count(waiter.cast::<Sleeper>().as_ptr()) };
    },
    wake: |waiter| {
        // SAFETY: as above; the reference is given to us.
        drop(unsafe { Arc::from_raw(waiter.cast::<Sleeper>().as_ptr()) });
    },
};

pub(super) fn waiter() -> WaiterRef {
    let sleeper = Arc::new(Sleeper(Waiter::new(&SLEEPER)));
    // SAFETY: embedded as its class expects, and alive.
    unsafe { WaiterRef::retain(NonNull::from(&*sleeper).cast()) }
}
