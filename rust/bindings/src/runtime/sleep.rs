//! `sleep`, `yield_now` and `asleep`.

use std::{ptr, time::Instant};

use penstock_core::wait::Outcome;
use pyo3::{ffi, prelude::*};

use crate::{
    boundary::Caller,
    convert::{Patience, parse},
    error::Raised,
    hot::Definition,
    operation,
};

/// `sleep(seconds)`.
unsafe extern "C-unwind" fn sleep(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let slept = parse(py, "sleep", ["seconds"], 1, arguments, count, keywords)
            .and_then(|[time]| sleep_time(py, time))
            .and_then(|patience| match patience {
                Patience::None => give_up_turn(py, "penstock.sleep()", "await penstock.asleep()"),
                _ => sleep_until(py, patience.deadline()),
            });
        match slept {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

fn sleep_time(py: Python<'_>, time: *mut ffi::PyObject) -> Result<Patience, Raised> {
    // SAFETY: an argument is alive.
    let time = unsafe { Bound::ref_from_ptr(py, &time) };
    Patience::from_seconds(time, "seconds", "a number >= 0")
}

/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
unsafe fn sleep_until(py: Python<'_>, deadline: Option<Instant>) -> Result<(), Raised> {
    let caller = Caller::here(py, "penstock.sleep()", "await penstock.asleep()")?;
    let epoch = caller.waiter_ref().arm();
    // SAFETY: the caller's promise.
    let ended = unsafe { caller.wait(epoch, deadline) };
    caller.done(py);
    match ended? {
        Outcome::Interrupted => Err(caller.raise_interrupt(py)),
        _ => Ok(()),
    }
}

/// # Safety
/// In a raw entry, with nothing that has a destructor alive.
unsafe fn give_up_turn(
    py: Python<'_>,
    call: &'static str,
    awaitable: &'static str,
) -> Result<(), Raised> {
    let caller = Caller::here(py, call, awaitable)?;
    // SAFETY: the caller's promise.
    let yielded = unsafe { caller.give_up_turn() };
    caller.done(py);
    yielded
}

/// `yield_now()`.
unsafe extern "C-unwind" fn yield_now(
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached.
    unsafe {
        let py = Python::assume_attached();
        match give_up_turn(py, "penstock.yield_now()", "await penstock.asleep(0)") {
            Ok(()) => ffi::Py_NewRef(ffi::Py_None()),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

/// `asleep(seconds)`.
unsafe extern "C-unwind" fn asleep(
    _: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by CPython, attached, with the arguments of a vectorcall.
    unsafe {
        let py = Python::assume_attached();
        let time = parse(py, "asleep", ["seconds"], 1, arguments, count, keywords)
            .and_then(|[time]| sleep_time(py, time));
        match time {
            Ok(patience) => operation::new_sleep(patience),
            Err(Raised) => ptr::null_mut(),
        }
    }
}

pub static FUNCTIONS: [Definition; 3] = [
    Definition::fast(
        c"sleep",
        sleep,
        c"sleep(seconds)\n--\n\n\
Wait for ``seconds``: parks a task, blocks a thread.\n\n\
``sleep(0)`` gives up the turn as `yield_now` does. A cancelled task wakes at once.\n\n\
Raises:\n    Cancelled: the task was cancelled.\n    ValueError: ``seconds`` is negative.\n\n\
>>> import penstock\n>>> penstock.sleep(0.001)\n",
    ),
    Definition::no_args(
        c"yield_now",
        yield_now,
        c"yield_now()\n--\n\n\
Let other tasks run first; in a thread, other threads.\n\n\
Raises:\n    Cancelled: the task was cancelled.\n\n\
>>> import penstock\n>>> penstock.yield_now()\n",
    ),
    Definition::fast(
        c"asleep",
        asleep,
        c"asleep(seconds)\n--\n\n\
The awaitable form of `sleep`; ``await asleep(0)`` that of `yield_now`.\n\n\
>>> import penstock\n>>> async def nap() -> str:\n...     await penstock.asleep(0.001)\n...     return \"rested\"\n\
>>> penstock.go(nap).result()\n'rested'\n",
    ),
];
